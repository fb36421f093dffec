"""The report shows results by the groups that the data name."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path

import pandas as pd

from tests.support.synthetic_study import SyntheticStudy
from usertune.evaluation.recipe import ScoreRecipe
from usertune.evaluation.tables import read_table
from usertune.reporting.sections.by_group import by_group_shown


def test_groups_that_the_data_name_are_shown_with_the_best_of_each(tmp_path: Path) -> None:
    study = SyntheticStudy(tmp_path, users=["1", "2"], samples=20, apps=True).write()
    page = study.report().read_text(encoding="utf-8")
    section = page[page.index('<section id="by-group"') : page.index('<section id="figures"')]
    table = read_table(study.root / "tables/by_group.csv")
    assert set(table["by"]) > {"app"}, "there are other groups"
    own = table[table["by"] == "app"]
    rows = re.findall(r"<tr>\s*<th scope=\"row\">(.*?)</th>(.*?)</tr>", section, re.S)
    assert [unescape(name) for name, _ in rows] == [f"app: {value}" for value in dict.fromkeys(own["value"])]
    for name, cells in rows:
        found = own[own["value"] == unescape(name).removeprefix("app: ")]
        shown = [re.sub("<.*?>", "", cell) for cell in re.findall("<td>(.*?)</td>", cells)]
        assert shown == ["2", "20", *(f"{100 * value:.1f}" for value in found["macro"])]
        best = re.findall("<strong>(.*?)</strong>", cells)
        assert set(best) == ({f"{100 * found['macro'].max():.1f}"} if found["macro"].nunique() > 1 else set())
    assert 'href="#by-group"' in page


def test_there_is_no_such_section_if_the_data_name_none() -> None:
    metric = ScoreRecipe(step="score", task="grounding", thresholds=(140,)).metrics[0]
    rows = {"by": ["image size"], "value": ["1 x 1"], "experiment": ["vanilla"], "macro": [0.5]}
    assert by_group_shown(["vanilla"], metric, pd.DataFrame(rows), pd.DataFrame({"width": [1]})) is None

"""A metric is one entry in a task's METRICS, as docs/extending.md says: here in a copy of the package."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = REPOSITORY / "docs" / "extending.md"
BLOCK = re.compile(r"^```python\n# two entries at the end of METRICS in (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# Makes a small study by the package's own steps, and says what it wrote.
PROGRAM = """
import csv, json
from pathlib import Path
import usertune
from tests.support.synthetic_study import SyntheticStudy
from usertune.core.manifest import read_result

study = SyntheticStudy(Path("results"), users=["1", "2"], samples=4, experiments=["vanilla", "lora"]).write()
report = study.report().read_text()
tables = Path("results/tables")


def rows(path):
    with open(path, newline="") as lines:
        return list(csv.DictReader(lines))


print(json.dumps({
    "package": usertune.__file__,
    "scores": rows("results/scores/lora/user_1.csv"),
    "score": read_result("results/scores/lora/user_1.json"),
    "samples": rows(tables / "samples.csv"),
    "users": rows(tables / "users.csv"),
    "summary": rows(tables / "summary.csv"),
    "markdown": (tables / "summary.md").read_text(),
    "latex": (tables / "metrics.tex").read_text(),
    "report": report,
}))
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a study gives whose task has the page's metrics."""
    folder = tmp_path_factory.mktemp("metrics")
    package = folder / "src" / "usertune"
    shutil.copytree(REPOSITORY / "src" / "usertune", package, ignore=shutil.ignore_patterns("__pycache__"))
    ((path, entries),) = BLOCK.findall(PAGE.read_text(encoding="utf-8"))
    file = folder / path
    before = file.read_text(encoding="utf-8")
    start = before.index("\nMETRICS = (\n")
    end = before.index("\n)\n", start) + 1
    file.write_text(before[:end] + entries + before[end:], encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder / "src"), str(REPOSITORY)])}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert found["package"] == str(package / "__init__.py")
    return found


def test_the_rows_of_scores_have_its_column(made: dict[str, Any]) -> None:
    rows = made["scores"]
    assert [row["horizontal"] for row in rows] == ["0.0"] * 4
    # All samples of the study are of one episode, so the value is in the last row.
    assert [row["episode_done"] for row in rows] == [
        "",
        "",
        "",
        str(min(int(float(row["distance"]) <= 200) for row in rows)),
    ]
    assert {"horizontal", "episode_done"} <= made["samples"][0].keys()


def test_scores_and_tables_aggregate_it(made: dict[str, Any]) -> None:
    assert made["score"]["mean_horizontal"] == 0
    assert made["score"]["episodes_done"] in (0, 1)
    for row in made["users"] + made["summary"]:
        assert float(row["mean_horizontal"]) == 0
    for row in made["summary"]:
        done = [float(own["episodes_done"]) for own in made["users"] if own["experiment"] == row["experiment"]]
        assert float(row["episodes_done"]) == sum(done) / len(done)


def test_people_read_it_with_its_title_unit_and_digits(made: dict[str, Any]) -> None:
    header, _, *lines = made["markdown"].splitlines()
    cells = [cell.strip() for cell in header.split("|")]
    assert cells[9:12] == ["median L2", "mean horizontal distance", "episodes done (%)"]
    assert [line.split("|")[10].strip() for line in lines[:2]] == ["0.00", "0.00"]
    assert "mean horizontal distance" in " ".join(re.findall(r"\w+", made["latex"]))
    assert re.search(r"<th[^>]*>mean horizontal distance</th>\s*<th[^>]*>episodes done[ ,(]*%", made["report"])
    assert "<td>0.00</td>" in made["report"]

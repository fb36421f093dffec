"""Tables for papers: LaTeX itself compiles them, and none is wider than the text of an article."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from usertune.evaluation.paper import (
    Column,
    Paper,
    escaped,
    latex_table,
    markdown_table,
    plain,
    short_ids,
    significance,
)
from usertune.evaluation.paper_tables import best
from usertune.evaluation.recipe import ScoreRecipe

Maker = Callable[..., Any]
METRIC = ScoreRecipe(step="score", task="grounding", thresholds=(140,)).metrics[0]
UUIDS = [f"{number:08x}-5a51-4b1c-9a0e-0123456789ab" for number in range(1, 45)]


@pytest.fixture(scope="module")
def compiled() -> Callable[[Path, list[Path]], tuple[str, bytes]]:
    """Return a function that sets tables in an article and returns the log and the uncompressed PDF."""
    if shutil.which("pdflatex") is None:
        if os.environ.get("USERTUNE_REQUIRE_LATEX"):
            pytest.fail("pdflatex is missing; .ci/run installs it")
        pytest.skip("no pdflatex")

    def compile_all(folder: Path, tables: list[Path]) -> tuple[str, bytes]:
        inputs = "\n".join(rf"\clearpage\noindent\input{{{table}}}" for table in tables)
        (folder / "page.tex").write_text(
            rf"""\documentclass{{article}}\pdfcompresslevel=0\pdfobjcompresslevel=0
\usepackage{{array,booktabs,longtable,siunitx}}
\begin{{document}}{inputs}\end{{document}}"""
        )
        command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"]
        done = subprocess.run(command, cwd=folder, capture_output=True, timeout=120, check=False)
        log = done.stdout.decode("utf-8", "replace")
        assert done.returncode == 0, log[-3000:]
        return log, (folder / "page.pdf").read_bytes()

    return compile_all


def test_every_table_of_a_study_compiles_and_fits(
    make_study: Maker, tmp_path: Path, compiled: Callable[..., tuple[str, bytes]]
) -> None:
    sweep = {"learning_rate": [1e-4, 1e-3], "seed": [0, 1, 2]}
    experiments = {
        "vanilla": {"mode": "vanilla"},
        "an_adapter_with_a_name_of_forty_letters_": {"mode": "lora"},
        "runs": {"mode": "lora", "sweep": sweep},
        "full": {"mode": "full"},
    }
    study = make_study(users=[*UUIDS[:2], "a_b", "7"], changes={
        "experiments": experiments,
        "evaluation": {"thresholds": [140, 70.5, 35], "further_tasks": ["pigg_compatible"]},
    })  # fmt: skip
    tables = sorted(study.compare().glob("*.tex"))
    assert [path.name for path in tables] == [
        "by_group.tex", "differences.tex", "metrics.tex", "summary.tex", "users.tex"
    ]  # fmt: skip
    log, pdf = compiled(tmp_path, tables)
    assert not re.findall(r"Overfull.*|LaTeX Warning: .*undefined.*|Missing character.*", log)
    assert b"/CMBX" in pdf or b"+CMBX" in pdf, "the best are bold"
    assert "00000001…" not in (tables[-1]).read_text()
    assert r"00000001\dots{}" in tables[-1].read_text()


def test_many_users_with_long_ids_and_many_experiments(
    tmp_path: Path, compiled: Callable[..., tuple[str, bytes]]
) -> None:
    names = [f"personal_of_{number}_samples" for number in range(9)]
    frame = pd.DataFrame({"user": [short_ids(UUIDS)[user] for user in UUIDS], **dict.fromkeys(names, "12.3")})
    columns = [Column("user", "user"), *(Column(name, name.replace("_", " "), number=True) for name in names)]
    text = latex_table(Paper(frame, columns, "A note with 50 % & an under_score.", {names[0]: {0, 3}}))
    (tmp_path / "users.tex").write_text(text)
    log, _ = compiled(tmp_path, [tmp_path / "users.tex"])
    assert "Overfull" not in log
    assert text.count(r"\begin{longtable}") >= 2, "more than a page of rows, and more than a page of columns"
    assert text.count(r"\bfseries") == 2


def test_the_same_table_as_markdown() -> None:
    frame = pd.DataFrame({"user": ["a-b", "c|d"], "x": ["-1.0", "{--}"], "mark": ["*", ""], "y": ["2.0", "3.0"]})
    columns = [Column("user", "user"), Column("x", "gain", number=True), Column("mark", "", joined=True)]
    text = markdown_table(Paper(frame, [*columns, Column("y", "gain", number=True)], "Note: * rare.", {"y": {1}}))
    assert text.endswith("\n\nNote: \\* rare.\n")
    rows = [[cell.strip() for cell in line.split(" | ")] for line in text.splitlines()[2:4]]
    assert rows == [["| a-b", "\N{MINUS SIGN}1.0 \\*", "2.0 |"], [r"| c\|d", "\N{EN DASH}", "**3.0** |"]]


def test_ids_are_cut_to_what_tells_them_apart() -> None:
    assert short_ids(["1", "ana"]) == {"1": "1", "ana": "ana"}
    short = short_ids(UUIDS)
    assert len(set(short.values())) == len(UUIDS)
    assert short[UUIDS[0]] == "00000001…"
    alike = [f"the same beginning {letter}" for letter in "ab"]
    assert short_ids(alike) == {name: name for name in alike}


def test_numbers_marks_and_texts() -> None:
    assert [plain(value, 1, 100) for value in (0.345, -0.0824, -0.0001, None, float("nan"))] == [
        "34.5", "-8.2", "0.0", "{--}", "{--}"
    ]  # fmt: skip
    assert [plain(value, 1, 100, sign=True) for value in (0.05, 0.0, -0.05)] == ["+5.0", "0.0", "-5.0"]
    assert [significance(value) for value in (0.2, 0.04, 0.009, 0.0004, None, float("nan"))] == [
        "", "*", "**", "***", "", ""
    ]  # fmt: skip
    assert escaped(r"a_b 50% {x} \y ~^#$&") == (
        r"a\_\allowbreak{}b 50\% \{x\} \textbackslash{}y \textasciitilde{}\textasciicircum{}\#\$\&"
    )


def test_the_best_is_the_best_as_rounded() -> None:
    assert best(pd.Series([0.5, 0.70004, 0.70001, float("nan")]), METRIC) == {1, 2}
    assert best(pd.Series([0.7, 0.7]), METRIC) == set()

"""The measured numbers of README and docs are those of the stored results."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.support.benchmarks import benchmark_module
from tests.support.documented import REPOSITORY

write_figures = benchmark_module("write_figures")
PAGES = write_figures.pages()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_show_the_stored_results(page: Path) -> None:
    text = page.read_text()
    assert write_figures.with_figures(text) == text, "run: make figures"


def test_every_stored_result_says_where_it_is_from_and_nothing_private() -> None:
    stored = sorted((REPOSITORY / "benchmarks/results").glob("*.json"))
    assert stored
    for path in stored:
        text = path.read_text()
        result = json.loads(text)
        # A program with choices adds them to the name of its result.
        assert result["benchmark"] == write_figures.program(path.stem)
        assert (REPOSITORY / f"benchmarks/{result['benchmark']}.py").is_file()
        assert not result["tiny"]
        assert {"command", "date", "machine", "versions", "settings", "measured"} <= set(result)
        assert {"processor", "cores", "load_average_before"} <= set(result["machine"])
        assert not re.search(r"/(home|work|tmp|root)/|https?://", text)


def test_a_page_is_rewritten(tmp_path: Path) -> None:
    (tmp_path / "speed.json").write_text(json.dumps({"tiny": False, "measured": {"seconds": 139.4, "share": 0.79}}))
    page = "a <!-- figure: speed seconds minutes -->?<!-- end --> b"
    page += " <!-- figure: speed share percent -->old<!-- end -->"
    new = write_figures.with_figures(page, tmp_path)
    assert new == page.replace("?", "2 min 19 s").replace("old", "79 %")
    assert write_figures.with_figures(new, tmp_path) == new


@pytest.mark.parametrize(
    ("comment", "message"),
    [
        ("<!-- figure: speed seconds .1f -->1<!-- end -->", "must not be the first thing on its line"),
        ("<!-- figure: speed second .1f -->1<!-- end -->", "second is not in .*speed.json"),
        ("<!-- figure: speed seconds -->1<!-- end -->", "figure: BENCHMARK KEY FORMAT"),
        ("<!-- figure: speed seconds .1f -->1", "figure: BENCHMARK KEY FORMAT"),
        ("<!-- figure: speed seconds .1y -->1<!-- end -->", "format"),
        ("<!-- figure: tried seconds .1f -->1<!-- end -->", "tried.json is the result of a tiny run"),
    ],
)
def test_a_wrong_comment_is_an_error(comment: str, message: str, tmp_path: Path) -> None:
    for name, tiny in (("speed", False), ("tried", True)):
        (tmp_path / f"{name}.json").write_text(json.dumps({"tiny": tiny, "measured": {"seconds": 139.4}}))
    with pytest.raises((KeyError, ValueError), match=message):
        write_figures.with_figures(comment if "first" in message else f"It takes {comment}", tmp_path)


def test_what_was_not_measured_yet_is_a_question_mark(tmp_path: Path) -> None:
    page = "It takes <!-- figure: dry_run seconds .1f -->1<!-- end --> s"
    assert write_figures.with_figures(page, tmp_path) == page.replace(">1<", ">?<")
    with pytest.raises(OSError, match=r"dry_rum\.json"):
        write_figures.with_figures(page.replace("dry_run", "dry_rum"), tmp_path)


def stored(folder: Path, name: str, measured: dict[str, Any]) -> None:
    machine = {"cores": 2, "load_average_before": 0.3}
    result = {"tiny": False, "date": "2026-11-30", "machine": machine, "measured": measured}
    (folder / f"{name}.json").write_text(json.dumps(result))


def test_tables_are_made_of_the_stored_results(tmp_path: Path) -> None:
    page = "<!-- table: ratios -->\nold\n<!-- end table -->\nafter"
    empty = write_figures.with_figures(page, tmp_path)
    assert "old" not in empty
    assert "| LoRA, speed | TRL's SFTTrainer at its best | proportional | not measured | at least 1.5 |" in empty
    ratio = {"median": 1.62, "smallest": 1.5, "largest": 1.7, "rounds": 3}
    losses = {"largest_difference": {"usertune": 0, "trl": 2e-7}}
    # The reference's way was left out.
    stored(tmp_path, "training_speed-proportional-lora", {"speed_over_trl": ratio, "losses": losses})
    full = write_figures.with_figures(page, tmp_path)
    assert "| proportional | 1.62 (1.5 to 1.7; 3 rounds) | at least 1.5 | losses within 2e-07 | 2026-11-30, 2" in full
    assert "| LoRA, speed | the reference's way | proportional | not measured | at least 2 |" in full
    assert full.endswith("\n\n<!-- end table -->\nafter")
    assert write_figures.with_figures(full, tmp_path) == full


def test_a_table_that_there_is_not_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="ratio"):
        write_figures.with_figures("<!-- table: ratio -->\n<!-- end table -->", tmp_path)


@pytest.mark.parametrize(
    ("value", "how", "text"),
    [(2.4e-06, "power", "2.4e-6"), (59.6, "minutes", "1 min 0 s"), (7.0, "minutes", "7 s"),
     (0.155, "percent.1", "15.5 %"), (200, ",", "200"), (1.25, ".1f", "1.2")],
)  # fmt: skip
def test_formats(value: float, how: str, text: str) -> None:
    assert write_figures.formatted(value, how) == text


# A number with a unit that is no measurement, by page: a size known from the number of weights, a download, a limit, a
# level of confidence.
KNOWN = {
    "README.md": {"6 GB", "18 GB", "130 GB", "80 GB"},
    "data.md": {"200 times", "40 %"},
    # Memory that is needed, and goals.
    "performance.md": {"24 GB", "60 s", "90 s", "2,000 MB"},
    "reproducing.md": {"80 GB"},
    "statistics.md": {"95 %", "5 %", "2.5 %", "80 %", "36.8 %", "35 %", "90 %"},
    "slurm.md": {"6 GB", "18 GB", "130 GB", "33 GB", "30 seconds"},
}
WITH_UNIT = re.compile(
    r"(?<![\w.-])\d[\d.,]*(?:e-\d+)? ?(?:times|seconds?|s|ms|min|minutes?|hours?|GB|MB|%|steps/s|samples/s)(?![\w-])"
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_measured_number_is_written_by_the_command(page: Path) -> None:
    """The decisions tell what was measured when they were made, so they are left out."""
    if page.name == "decisions.md":
        return
    text = write_figures.TABLE.sub("", write_figures.FIGURE.sub("", page.read_text()))
    prose = re.sub(r"^```.*?^```$|`[^`\n]*`", "", text, flags=re.MULTILINE | re.DOTALL)
    typed = {" ".join(found.split()) for found in WITH_UNIT.findall(prose)}
    assert typed <= KNOWN.get(page.name, set()), "store what was measured, and write it as <!-- figure: ... -->"

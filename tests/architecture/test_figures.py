"""The measured numbers of README and docs are those of the stored results."""

from __future__ import annotations

import json
import re
from pathlib import Path

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
        assert result["benchmark"] == path.stem
        assert (REPOSITORY / f"benchmarks/{path.stem}.py").is_file()
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
        write_figures.with_figures(comment, tmp_path)


@pytest.mark.parametrize(
    ("value", "how", "text"),
    [(2.4e-06, "power", "2.4e-6"), (59.6, "minutes", "1 min 0 s"), (7.0, "minutes", "7 s"),
     (0.155, "percent.1", "15.5 %"), (200, ",", "200"), (1.25, ".1f", "1.2")],
)  # fmt: skip
def test_formats(value: float, how: str, text: str) -> None:
    assert write_figures.formatted(value, how) == text

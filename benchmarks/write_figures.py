"""Write the measured numbers into README.md and docs/*.md, from the results that the benchmarks stored.

A number stands between comments that name the benchmark, the key in its result and a format:

    <!-- figure: dry_run study_over_empty.median .1f -->1.3<!-- end -->

The key is one of what was measured, or of the complete result (machine.cores, date). A format is Python's for numbers,
or one of: percent (0.79 as 79 %), percent.1 (79.0 %), power (2.4e-6), minutes (2 min 19 s). Where no result is stored,
a question mark is written. performance_tables.py makes the tables between <!-- table: NAME --> and <!-- end table -->.

    python benchmarks/write_figures.py
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from performance_tables import TABLES

REPOSITORY = Path(__file__).resolve().parent.parent
RESULTS = REPOSITORY / "benchmarks" / "results"
FIGURE = re.compile(r"<!-- figure: (?P<benchmark>\S+) (?P<key>\S+) (?P<format>\S+) -->(?P<text>[^<]*)<!-- end -->")
TABLE = re.compile(r"(?P<head><!-- table: (?P<name>\S+) -->\n).*?(?=<!-- end table -->)", re.DOTALL)
# A comment that begins a line would end a paragraph of Markdown.
FIRST = re.compile(r"^ *<!-- figure: .*", re.MULTILINE)
BEGINNING = re.compile(r"<!-- *figure\b")


def pages() -> list[Path]:
    """Return the pages that may hold measured numbers."""
    return [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]


def main(arguments: argparse.Namespace) -> None:
    changed = []
    for page in pages():
        before = page.read_text(encoding="utf-8")
        try:
            after = with_figures(before)
        except (KeyError, OSError, ValueError) as error:
            sys.exit(f"{page.name}: {error}")
        if after != before:
            changed.append(page.name)
            if not arguments.check:
                page.write_text(after, encoding="utf-8")
    print("changed:" if changed else "nothing to change", *changed)
    asked = {found["benchmark"] for page in pages() for found in FIGURE.finditer(page.read_text(encoding="utf-8"))}
    if missing := sorted(name for name in asked if not (RESULTS / f"{name}.json").exists()):
        print("not measured:", *(f"benchmarks/{program(name)}.py for {name}" for name in missing), sep="\n    ")
    if arguments.check and changed:
        sys.exit("these pages show other numbers than benchmarks/results; write them with: make figures")


def with_figures(text: str, results: Path = RESULTS) -> str:
    """Return a page with the numbers of the stored results.

    Raises:
        OSError: there is no such benchmark.
        KeyError: it has no such key, or there is no such table.
        ValueError: a comment is not written as it should be, a result is of a tiny run, or a value has another kind
            than its format needs.
    """
    read = cache(lambda name: _result(results / f"{name}.json"))

    def write(found: re.Match[str]) -> str:
        head = found[0][: found.start("text") - found.start()]
        result = read(found["benchmark"])
        if result is None:
            return f"{head}?<!-- end -->"
        value: Any = {**result, **result["measured"]}
        for part in found["key"].split("."):
            if not isinstance(value, dict) or part not in value:
                raise KeyError(f"{found['key']} is not in benchmarks/results/{found['benchmark']}.json")
            value = value[part]
        return f"{head}{formatted(value, found['format'])}<!-- end -->"

    left = FIGURE.sub("", text)
    if wrong := BEGINNING.search(left):
        line = left[wrong.start() :].splitlines()[0]
        raise ValueError(f"write <!-- figure: BENCHMARK KEY FORMAT -->...<!-- end --> on one line: {line}")
    if wrong := FIRST.search(text):
        raise ValueError(f"a figure must not be the first thing on its line: {wrong[0]}")
    written = FIGURE.sub(write, text)
    return TABLE.sub(lambda found: f"{found['head']}\n{TABLES[found['name']](results)}\n\n", written)


def formatted(value: Any, how: str) -> str:
    """Return a value as text.

    Raises:
        ValueError: the format is not for such a value.
    """
    return FORMATS[how](value) if how in FORMATS else format(value, how)


def _minutes(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _power(value: float) -> str:
    digits, _, exponent = f"{value:.1e}".partition("e")
    return f"{digits}e{int(exponent)}"


FORMATS: dict[str, Callable[[Any], str]] = {
    "percent": lambda value: f"{100 * value:.0f} %",
    "percent.1": lambda value: f"{100 * value:.1f} %",
    "power": _power,
    "minutes": _minutes,
}


def program(stored: str) -> str:
    """Return the name of the benchmark of a stored result: a program with choices adds these to the name."""
    return stored.split("-")[0]


def _result(path: Path) -> dict[str, Any] | None:
    if not path.exists() and (REPOSITORY / "benchmarks" / f"{program(path.stem)}.py").exists():
        return None
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if result["tiny"]:
        raise ValueError(f"{path.name} is the result of a tiny run, which says nothing")
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a page shows other numbers")
    main(parser.parse_args())

"""The tables of docs/answers.md: every form and reason with its sentence and its examples."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from usertune.core.pages import with_part
from usertune.tasks.points.examples import EXAMPLES, Example
from usertune.tasks.points.forms import FORMS, REASONS


def with_examples(page: str) -> str:
    """Return a page with its two generated parts, forms and reasons, up to date.

    Raises:
        UserError: a line that marks the beginning or end of a part is missing.
    """
    for name, sentences in (("forms", FORMS), ("reasons", REASONS)):
        page = with_part(page, name, _lines(sentences))
    return page


def _lines(sentences: Mapping[str, str]) -> Iterator[str]:
    for name, sentence in sentences.items():
        yield f"### {name}"
        yield ""
        yield sentence
        yield ""
        yield "| answer | read as | style |"
        yield "|---|---|---|"
        for example in EXAMPLES:
            if example.form == name:
                yield f"| {_code(example.text)} | {_result(example)} | {example.style} |"
        yield ""


def _result(example: Example) -> str:
    return "unparsed" if example.point is None else "({:g}, {:g})".format(*example.point)


def _code(text: str) -> str:
    """Return ``text`` as code in a table's cell, on one line."""
    shown = text.replace("\r\n", "\n").replace("\n", "\u23ce").replace("\t", " ").replace("|", r"\|")
    ticks = "`" * (1 + max((len(run) for run in re.findall("`+", shown)), default=0))
    space = " " if shown[0] == "`" or shown[-1] == "`" else ""
    return f"{ticks}{space}{shown}{space}{ticks}"

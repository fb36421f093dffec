"""The tables of docs/answers.md: every form and reason with its sentence and its examples."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from usertune.core.errors import UserError
from usertune.tasks.points.examples import EXAMPLES, Example
from usertune.tasks.points.forms import FORMS, REASONS

_PART = "<!-- {name}: written by usertune schema -->"
_END = "<!-- end -->"


def with_examples(page: str) -> str:
    """Return a page with its two generated parts, forms and reasons, up to date.

    Raises:
        UserError: a line that marks the beginning or end of a part is missing.
    """
    for name, sentences in (("forms", FORMS), ("reasons", REASONS)):
        start = _PART.format(name=name)
        before, found, rest = page.partition(start)
        _, ended, after = rest.partition(_END)
        if not found or not ended:
            raise UserError(f"the page has no part between {start!r} and {_END!r}; add both lines where it belongs")
        page = f"{before}{start}\n\n" + "\n".join(_lines(sentences)) + f"\n{_END}{after}"
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

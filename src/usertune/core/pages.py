"""Parts of documentation pages that are written from the code, between two comments."""

from __future__ import annotations

from collections.abc import Iterable

from usertune.core.errors import UserError

_PART = "<!-- {name}: written by usertune schema -->"
_END = "<!-- end -->"


def with_part(page: str, name: str, lines: Iterable[str]) -> str:
    """Return a page with new lines in its part ``name``.

    Raises:
        UserError: a line that marks the beginning or end of the part is missing.
    """
    start = _PART.format(name=name)
    before, found, rest = page.partition(start)
    _, ended, after = rest.partition(_END)
    if not found or not ended:
        raise UserError(f"the page has no part between {start!r} and {_END!r}; add both lines where it belongs")
    return f"{before}{start}\n\n" + "\n".join(lines) + f"\n{_END}{after}"

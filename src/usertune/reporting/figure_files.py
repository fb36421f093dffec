"""The files of a figure: each format, as wide as one and as two columns of a paper."""

from __future__ import annotations

from collections.abc import Iterator

FORMATS = ("svg", "pdf", "png")
# Columns that a figure is as wide as -> what its files have at the end of their names.
ENDINGS = {2: "", 1: "_one_column"}


def figure_files(name: str) -> dict[str, str]:
    """Return the names of a figure's files, without its manifest; the keys are those of the rule's outputs."""
    return {f"{kind}{ENDINGS[columns]}": file for columns, kind, file in each_file(name)}


def each_file(name: str) -> Iterator[tuple[int, str, str]]:
    """Yield (columns, format, name of the file) of a figure's files."""
    for columns, ending in ENDINGS.items():
        for kind in FORMATS:
            yield columns, kind, f"{name}{ending}.{kind}"

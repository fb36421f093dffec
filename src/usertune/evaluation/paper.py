"""Tables for papers: LaTeX that fits the text width of an article, with siunitx columns."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

# The text width of LaTeX's article class at 10 pt, and rough widths of \small type and of the space between columns.
TEXT_WIDTH = 345.0
CHARACTER = 4.7
BETWEEN = 12.0
# Longer texts are set in a column of this width, with line breaks.
LONGEST = 16
SHORT_ID = 8
PACKAGES = r"\usepackage{array,booktabs,longtable,siunitx}"
# More rows do not fit on a page.
MOST_ROWS = 40
MISSING = "{--}"


@dataclass(frozen=True)
class Column:
    """A column of a table for papers.

    Attributes:
        name: column of the frame.
        title: what its head says; lines break at spaces where it is longer than the cells.
        number: whether cells are numbers as plain text (``-8.2``), aligned at the decimal point.
        joined: whether it follows the column before it without space, such as a mark or an interval.
    """

    name: str
    title: str
    number: bool = False
    joined: bool = False


def plain(value: float | None, digits: int, scale: float = 1, sign: bool = False) -> str:
    """Return a number as siunitx reads it: ``-8.2``; a dash where there is none."""
    if value is None or math.isnan(value):
        return MISSING
    text = f"{scale * value:{'+' if sign else ''}.{digits}f}"
    return text.lstrip("+-") if not text.strip("+-0.") else text


def short_ids(names: Sequence[str]) -> dict[str, str]:
    """Return ``{id: short id}``: long ids, such as UUIDs, are cut to the fewest characters that tell them apart."""
    if max(map(len, names), default=0) <= LONGEST:
        return {name: name for name in names}
    for length in range(SHORT_ID, max(map(len, names)) + 1):
        cut = {name: name if len(name) <= length + 1 else f"{name[:length]}…" for name in names}
        if len(set(cut.values())) == len(names):
            return cut
    return {name: name for name in names}


def significance(p_value: float | None) -> str:
    """Return the mark of a p value: ``***`` below 0.001, ``**`` below 0.01, ``*`` below 0.05."""
    if p_value is None or math.isnan(p_value):
        return ""
    return "*" * sum(p_value < level for level in (0.05, 0.01, 0.001))


@dataclass(frozen=True)
class Paper:
    """A table for papers.

    Attributes:
        frame: cells as texts, see `plain` for numbers.
        columns: the columns; the first one begins each block of a table that is too wide.
        note: a paragraph that explains the table.
        bold: column -> rows to print in bold.
    """

    frame: pd.DataFrame
    columns: Sequence[Column]
    note: str
    bold: Mapping[str, set[int]] = field(default_factory=dict)


def markdown_table(paper: Paper) -> str:
    """Return a table and its note as Markdown."""
    cells: list[list[str]] = []
    shown: list[Column] = []
    for column in paper.columns:
        bold = paper.bold.get(column.name, set())
        texts = [_marked(text, column, row in bold) for row, text in enumerate(paper.frame[column.name])]
        if column.joined:
            cells[-1] = [f"{before} {text}".rstrip() for before, text in zip(cells[-1], texts, strict=True)]
        else:
            cells.append(texts)
            shown.append(column)
    table = pd.DataFrame(zip(*cells, strict=True)).to_markdown(
        headers=[column.title for column in shown],
        index=False,
        tablefmt="pipe",
        disable_numparse=True,
        colalign=["right" if column.number else "left" for column in shown],
    )
    note = paper.note.replace("*", "\\*")
    return f"{table}\n\n{note}\n"


def _marked(text: str, column: Column, is_bold: bool) -> str:
    if column.number:
        text = "\N{EN DASH}" if text == MISSING else text.replace("-", "\N{MINUS SIGN}")
    text = text.replace("|", "\\|").replace("*", "\\*")
    return f"**{text}**" if is_bold else text


def latex_table(paper: Paper) -> str:
    """Return a table as LaTeX, in several blocks below one another if it is too wide, and its note below it."""
    frame, note = paper.frame, paper.note
    blocks = [_block(frame, block, paper.bold) for block in _blocks(frame, paper.columns)]
    body = "\n\\par\\medskip\\noindent\n".join(blocks)
    return (
        f"% Needs {PACKAGES}; \\input it in a table environment.\n"
        "{\\small\\sisetup{detect-weight=true,retain-explicit-plus=true}\\setlength{\\tabcolsep}{5pt}\\noindent\n"
        f"{body}\n\\par\\smallskip\\footnotesize\\raggedright {escaped(note)}\\par}}\n"
    )


def _blocks(frame: pd.DataFrame, columns: Sequence[Column]) -> Iterator[list[Column]]:
    first, *others = columns
    block, width = [first], _width(frame, first)
    for group in _joined(others):
        more = sum(_width(frame, column) for column in group)
        if len(block) > 1 and width + more > TEXT_WIDTH:
            yield block
            block, width = [first], _width(frame, first)
        block, width = [*block, *group], width + more
    yield block


def _joined(columns: Sequence[Column]) -> Iterator[list[Column]]:
    """Yield columns with those that follow without space."""
    group: list[Column] = []
    for column in columns:
        if group and not column.joined:
            yield group
            group = []
        group.append(column)
    if group:
        yield group


def _width(frame: pd.DataFrame, column: Column) -> float:
    longest = max((len(text) for text in (*frame[column.name], *column.title.split(" "))), default=1)
    wrapped = not column.number and longest > LONGEST
    return (LONGEST if wrapped else longest) * CHARACTER + (3 if column.joined else BETWEEN)


def _block(frame: pd.DataFrame, columns: Sequence[Column], bold: Mapping[str, set[int]]) -> str:
    shown = pd.DataFrame({column.name: [_cell(text, column) for text in frame[column.name]] for column in columns})
    style = shown.style.hide(axis="index")
    for column in columns:
        if rows := bold.get(column.name):
            style = style.map(lambda _: "bfseries: ", subset=pd.IndexSlice[sorted(rows), [column.name]])
    heads = {column.name: _head(column, frame) for column in columns}
    style = style.format_index(lambda name: heads[str(name)], axis=1)
    return style.to_latex(
        hrules=True,
        column_format="@{}" + "".join(_format(frame, column) for column in columns) + "@{}",
        environment="longtable" if len(frame) > MOST_ROWS else None,
    ).rstrip()


def _cell(text: str, column: Column) -> str:
    return text if column.number else escaped(text)


def _head(column: Column, frame: pd.DataFrame) -> str:
    """Return the head of a column, in braces for siunitx, in lines if it is longer than the cells."""
    widest = max(map(len, frame[column.name]), default=1)
    words = column.title.split(" ")
    if len(column.title) <= widest or len(words) == 1:
        return f"{{{escaped(column.title)}}}"
    lines: list[str] = []
    longest = max(widest, *map(len, words))
    for word in words:
        if lines and len(lines[-1]) + 1 + len(word) <= longest:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    side = "r" if column.number else "l"
    inside = r" \\ ".join(map(escaped, lines))
    return rf"{{\begin{{tabular}}[b]{{@{{}}{side}@{{}}}}{inside}\end{{tabular}}}}"


def _format(frame: pd.DataFrame, column: Column) -> str:
    before = r"@{\,}" if column.joined else ""
    texts = [text for text in frame[column.name] if text != MISSING]
    if column.number:
        whole = max((len(text.lstrip("+-").partition(".")[0]) for text in texts), default=1)
        digits = max((len(text.partition(".")[2]) for text in texts), default=0)
        sign = "+" if any(text[:1] in "+-" for text in texts) else ""
        return f"{before}S[table-format={sign}{whole}.{digits}]"
    if max(map(len, (*texts, *column.title.split(" "))), default=1) > LONGEST:
        return rf"{before}>{{\raggedright\arraybackslash}}p{{{LONGEST * CHARACTER:.0f}pt}}"
    return f"{before}l"


def escaped(text: str) -> str:
    """Return a text for LaTeX, in which lines may break after underscores."""
    special: dict[str, str | int | None] = {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
    }
    special |= {character: f"\\{character}" for character in "&%$#{}"}
    special |= {"_": r"\_\allowbreak{}", "<": "$<$", ">": "$>$"}
    special |= {"\N{HORIZONTAL ELLIPSIS}": r"\dots{}", "\N{MINUS SIGN}": "$-$", "\N{EN DASH}": "--"}
    return text.translate(str.maketrans(special))

"""Functions stay short enough to read and take few enough arguments to call."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
MOST_PARAMETERS = 7
MOST_LINES = 60
# How a docstring begins the reason for a longer function.
REASON = "Long, since "
# Signatures that a library dictates, as "module.function".
OF_A_LIBRARY: frozenset[str] = frozenset()

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(source: str) -> Iterator[Function]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, Function):
            yield node


def parameters(function: Function) -> int:
    """Count the parameters; a method's own object does not count."""
    arguments = function.args
    names = [item.arg for item in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    return len(names) - (names[:1] in (["self"], ["cls"]))


def problems(source: str, module: str) -> list[str]:
    found = []
    for function in functions(source):
        name = f"{module}.{function.name}"
        lines = (function.end_lineno or 0) - function.lineno + 1
        if parameters(function) > MOST_PARAMETERS and name not in OF_A_LIBRARY:
            found.append(f"{name} has {parameters(function)} parameters")
        if lines > MOST_LINES and REASON not in (ast.get_docstring(function) or ""):
            found.append(f"{name} has {lines} lines")
    return found


def test_no_function_has_too_many_parameters_or_lines() -> None:
    found = []
    for folder in ("src", "scripts", "benchmarks"):
        for path in sorted((REPOSITORY / folder).rglob("*.py")):
            found += problems(path.read_text(encoding="utf-8"), path.stem)
    assert not found, f"split these, or say in the docstring why they are long ('{REASON}...'): {'; '.join(found)}"


def test_what_is_too_much_is_found() -> None:
    long = "def long():\n" + "    pass\n" * MOST_LINES
    assert problems(long, "m") == ["m.long has 61 lines"]
    assert problems(long.replace("pass", f"'''{REASON}a table is.'''", 1), "m") == []
    assert problems("def wide(a, b, c, d, /, e, f, *, g, h=1, **rest): ...", "m") == ["m.wide has 8 parameters"]
    assert problems("class C:\n    def wide(self, a, b, c, d, e, f, *, g): ...", "m") == []

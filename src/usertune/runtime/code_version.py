"""Which code a step is made of: a digest of the modules it uses, blind to comments, docstrings and layout."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from usertune.core.hashing import digest, digest_bytes

PACKAGE = "usertune"
ROOT = Path(__file__).parents[1]

# The module that each step begins with; what it imports counts too, wherever the import stands.
STEP_MODULES = {
    "prepare": "usertune.data.prepare",
    "base_model": "usertune.models.base_model",
    "train": "usertune.training.train",
    "predict": "usertune.inference.predict",
    "score": "usertune.evaluation.score",
    "compare": "usertune.evaluation.compare",
    "audit": "usertune.checks.audit",
    "report": "usertune.reporting.report",
}
# Modules that say how far a step is, where it runs or how it fails, and have no part in what comes out.
WITHOUT_EFFECT = frozenset(
    f"{PACKAGE}.{name}"
    for name in (
        "core.clock",
        "core.errors",
        "runtime.code_version",
        "runtime.gpus",
        "runtime.job_record",
        "runtime.launchers",
        "runtime.memory",
        "runtime.progress",
        "runtime.provenance",
        "runtime.signals",
        "training.attempts",
        "training.distributed.launch",
        "training.micro_batch",
        "training.processes",
    )
)
# The report is also made of its templates.
STEP_FOLDERS = {"report": "reporting/templates"}

VERSION_DIGITS = 16


@cache
def code_version(step: str) -> str:
    """Return the version (16 hex digits) of the code of a step, or of one figure (``figure:<name>``).

    Python's own syntax tree is hashed, without docstrings, so an edited comment is no new version.

    Raises:
        KeyError: there is no such step.
        SyntaxError: a module cannot be parsed.
    """
    start = step.replace("figure:", "usertune.reporting.figures.") if step.startswith("figure:") else STEP_MODULES[step]
    found: set[str] = set()
    waiting = [start]
    while waiting:
        module = waiting.pop()
        if module not in found and module not in WITHOUT_EFFECT:
            found.add(module)
            waiting.extend(_module(module)[1])
    parts = {module: _module(module)[0] for module in found}
    if step in STEP_FOLDERS:
        templates = sorted((ROOT / STEP_FOLDERS[step]).iterdir())
        parts |= {path.name: digest_bytes(path.read_bytes()) for path in templates}
    return digest(parts)[:VERSION_DIGITS]


@cache
def _module(name: str) -> tuple[str, frozenset[str]]:
    """Return the digest of a module's syntax tree, and the modules of this package that it imports."""
    path = _file_of(name)
    assert path is not None, name
    tree = ast.parse(path.read_bytes())
    imported = frozenset(_imports(tree))
    _remove_docstrings(tree)
    return hashlib.sha256(ast.dump(tree).encode("utf-8")).hexdigest(), imported


def _imports(tree: ast.Module) -> Iterator[str]:
    for node in _statements(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            parts = name.split(".")
            # A module runs the __init__ of every package above it.
            for length in range(2, len(parts) + 1):
                above = ".".join(parts[:length])
                if parts[0] == PACKAGE and _file_of(above):
                    yield above


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """Yield all statements below a node; expressions, which are most of a tree, hold neither imports nor docstrings."""
    for block in ("body", "orelse", "finalbody", "handlers", "cases"):
        for statement in getattr(node, block, ()):
            yield statement
            yield from _statements(statement)


@cache
def _file_of(name: str) -> Path | None:
    path = ROOT.joinpath(*name.split(".")[1:])
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def _remove_docstrings(tree: ast.Module) -> None:
    for node in (tree, *_statements(tree)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            match node.body:
                case [ast.Expr(value=ast.Constant(value=str())), *rest]:
                    node.body = rest

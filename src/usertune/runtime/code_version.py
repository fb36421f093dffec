"""Code version of a step: a digest of the modules that it uses, without comments, docstrings and layout."""

from __future__ import annotations

import ast
import hashlib
import json
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

from usertune.core import step_names as names
from usertune.core.files import write_text
from usertune.core.hashing import digest, digest_bytes, digest_file

PACKAGE = "usertune"
ROOT = Path(__file__).parents[1]

# The entry modules of each step; everything that they import counts too, including imports inside functions. A
# process that is started by module name needs an entry. The plug-ins that the study chose are added.
STEP_ENTRIES = {
    names.PREPARE: ("usertune.data.prepare",),
    names.LEAKAGE: ("usertune.data.measure_leakage",),
    names.BASE_MODEL: ("usertune.models.base_model",),
    names.TRAIN: ("usertune.training.train", "usertune.training.distributed.training_process"),
    names.TRAIN_FOLDS: ("usertune.training.train_folds",),
    names.OTHER_WEIGHTS: ("usertune.models.external_weights",),
    names.PREDICT: ("usertune.inference.predict",),
    # Predictions without a model.
    names.PRIOR: ("usertune.inference.prior",),
    names.SCORE: ("usertune.evaluation.score",),
    names.COMPARE: ("usertune.evaluation.compare",),
    names.FIGURE: ("usertune.reporting.make_figure",),
    names.AUDIT: ("usertune.checks.audit",),
    names.REPORT: ("usertune.reporting.report",),
}
# Modules that do not affect results: progress, resources, errors, names; and catalogues, since the chosen plug-ins
# count instead.
WITHOUT_EFFECT = frozenset(
    f"{PACKAGE}.{name}"
    for name in (
        "core.catalogue",
        "core.clock",
        "core.errors",
        "core.step_names",
        "data.readers.catalogue",
        "inference.engines.catalogue",
        "models.families.catalogue",
        "reporting.figures.catalogue",
        "tasks.catalogue",
        "runtime.code_version",
        "runtime.energy",
        "runtime.gpus",
        "runtime.job_record",
        "runtime.large_imports",
        "runtime.launchers",
        "runtime.locks",
        "runtime.memory",
        "runtime.progress",
        "runtime.provenance",
        "runtime.signals",
        "runtime.step_main",
        "training.attempts",
        "training.distributed.launch",
        "training.micro_batch",
        "training.processes",
    )
)
# Folders of templates and front-end libraries that also count.
STEP_FOLDERS = {names.REPORT: ("reporting/templates", "reporting/vendor")}

VERSION_DIGITS = 16

# Parsing all modules takes half a second, so what they contain is kept where Python keeps what it compiled. Python's
# version and this module decide what a syntax tree looks like.
_PARSED = ROOT / "__pycache__" / f"syntax_trees.{digest([sys.version, digest_file(Path(__file__))])[:16]}.json"


@cache
def code_version(step: str, plug_ins: tuple[str, ...] = ()) -> str:
    """Return the version (16 hex digits) of the code of a step.

    The hash covers Python's syntax trees without docstrings, so an edited comment does not change the version.

    Args:
        step: name of the step.
        plug_ins: dotted paths of the plug-in modules that the study chose (see `usertune.core.catalogue`).

    Raises:
        KeyError: there is no such step.
        SyntaxError: a module cannot be parsed.
    """
    known = len(_parsed())
    parts = {module: _module(module)[0] for module in code_of(step, plug_ins)}
    if len(_parsed()) > known:
        with suppress(OSError):
            write_text(_PARSED, json.dumps(_parsed()))
    if step in STEP_FOLDERS:
        files = [path for folder in STEP_FOLDERS[step] for path in sorted((ROOT / folder).rglob("*.*"))]
        parts |= {path.name: digest_bytes(path.read_bytes()) for path in files}
    return digest(parts)[:VERSION_DIGITS]


def code_of(step: str, plug_ins: tuple[str, ...] = ()) -> set[str]:
    """Return the modules that the code version of a step covers; arguments as for `code_version`."""
    found: set[str] = set()
    waiting = [*STEP_ENTRIES[step], *plug_ins]
    while waiting:
        module = waiting.pop()
        if module not in found and module not in WITHOUT_EFFECT:
            found.add(module)
            waiting.extend(_module(module)[1])
    return found


@cache
def _module(name: str) -> tuple[str, frozenset[str]]:
    """Return the digest of a module's syntax tree, and the modules of this package that it imports."""
    path = _file_of(name)
    assert path is not None, name
    source = path.read_bytes()
    parsed, key = _parsed(), digest_bytes(source)
    if key not in parsed:
        tree = ast.parse(source)
        imported = sorted(set(_imported_names(tree)))
        _remove_docstrings(tree)
        parsed[key] = [hashlib.sha256(ast.dump(tree).encode("utf-8")).hexdigest(), *imported]
    version, *imported = parsed[key]
    return version, frozenset(module for name in imported for module in _modules_of(name))


@cache
def _parsed() -> dict[str, list[str]]:
    """Return what earlier processes parsed: digest of a source -> digest of its syntax tree, and imported names."""
    try:
        found: dict[str, list[str]] = json.loads(_PARSED.read_bytes())
    except (OSError, ValueError):
        found = {}
    return found


def _imported_names(tree: ast.Module) -> Iterator[str]:
    """Yield what a module imports of this package, in full: ``usertune.core.hashing.digest``."""
    for node in _statements(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] == PACKAGE)


def _modules_of(name: str) -> Iterator[str]:
    """Yield the modules that run when a name is imported: its own, and the __init__ of every parent package."""
    parts = name.split(".")
    above = (".".join(parts[:length]) for length in range(2, len(parts) + 1))
    found = [module for module in above if _file_of(module)]
    if found and found[-1] not in WITHOUT_EFFECT:
        yield from found


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """Yield all statements below a node. Expressions, most of a tree, contain neither imports nor docstrings."""
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

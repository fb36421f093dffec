"""The guard without usertune: what it imports, and what its executor needs of the upstream plugin."""

from __future__ import annotations

import ast
import inspect
import json
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import snakemake_executor_plugin_slurm as slurm
from packaging.requirements import Requirement

import slurm_guard
import snakemake_executor_plugin_slurm_guarded as guarded
from tests.support.workplace import REPOSITORY

PACKAGE = Path(slurm_guard.__file__).parent
# Names of snakemake-executor-plugin-slurm and of the executors it inherits from, most of them no public interface. A
# new release of it needs a check of each: is it still there, and does it still do what the guard expects?
OF_THE_MODULE = {"Executor", "ExecutorSettings", "common_settings", "get_submit_command", "set_gres_string"}
USED = {
    "_failed_nodes", "_job_submission_executor", "_report_job_error_threadsafe", "active_jobs", "dag",
    "format_job_exec", "get_partition_arg", "lock", "logger", "next_seconds_between_status_checks", "report_job_error",
    "report_job_success", "tmpdir", "wait", "workflow",
}  # fmt: skip
OVERRIDDEN = {
    "__post_init__", "_tmpdir", "cancel_jobs", "check_active_jobs", "get_account_arg", "report_job_submission",
    "run_job", "run_uuid", "sleep",
}  # fmt: skip


def _executor() -> ast.ClassDef:
    tree = ast.parse(inspect.getsource(guarded))
    return next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Executor")


def _names_of(owner: str, tree: ast.AST, context: type[ast.expr_context]) -> set[str]:
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, context) and ast.unparse(node.value) == owner
    }


def _upstream() -> set[str]:
    """Return the names of upstream's executor: those of its classes, and those that its methods assign."""
    names = set(dir(slurm.Executor))
    for base in slurm.Executor.__mro__[:-1]:
        names |= set(re.findall(r"self\.(\w+)(?::[^=\n]+)? = ", inspect.getsource(base)))
    return names


def test_the_guard_needs_nothing_but_the_standard_library(tmp_path: Path) -> None:
    shutil.copytree(PACKAGE, tmp_path / "slurm_guard", ignore=shutil.ignore_patterns("__pycache__"))
    names = [f"slurm_guard.{path.stem}" for path in PACKAGE.glob("[a-z]*.py")]
    assert len(names) > 5
    program = (
        f"import importlib, json, sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        "print(json.dumps([name for name in {name.split('.')[0] for name in sys.modules} "
        "if name not in sys.stdlib_module_names]))"
    )
    # Without site-packages, and without the variables of the environment.
    done = subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)) == {"__main__", "slurm_guard"}


def test_the_executor_plugin_loads_without_usertune() -> None:
    program = (
        "import sys; sys.modules['usertune'] = None\n"
        "import snakemake_executor_plugin_slurm_guarded\n"
        "print([name for name in sys.modules if name.startswith('usertune.')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_texts_name_no_workflow() -> None:
    for path in [*PACKAGE.glob("*.py"), *Path(guarded.__file__).parent.glob("*.py")]:
        text = path.read_text()
        assert not re.search(r"usertune|profiles/slurm|\bstudy\b|\bstudies\b", text, re.IGNORECASE), path


def test_what_the_executor_needs_of_upstream_is_there() -> None:
    executor = _executor()
    defined = {node.name for node in executor.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    assigned = _names_of("self", executor, ast.Store)
    upstream = _upstream()
    own = (defined | assigned) - upstream
    assert _names_of("slurm", ast.parse(inspect.getsource(guarded)), ast.Load) == OF_THE_MODULE
    assert all(hasattr(slurm, name) for name in OF_THE_MODULE)
    assert (defined | assigned) & upstream - USED == OVERRIDDEN
    assert _names_of("self", executor, ast.Load) - own - OVERRIDDEN == USED
    assert upstream >= USED
    assert _names_of("super()", executor, ast.Load) <= OVERRIDDEN


def test_overridden_methods_have_the_signatures_of_upstream() -> None:
    for name in OVERRIDDEN - {"_tmpdir", "run_uuid"}:
        ours, theirs = (inspect.signature(getattr(cls, name)).parameters for cls in (guarded.Executor, slurm.Executor))
        assert list(ours) == list(theirs), name


def test_the_version_of_upstream_is_bound_from_above() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    wanted = {one.name: one for one in map(Requirement, project["optional-dependencies"]["workflow"])}
    upstream = wanted["snakemake-executor-plugin-slurm"].specifier
    installed = version("snakemake-executor-plugin-slurm")
    assert installed in upstream
    major, minor = installed.split(".")[:2]
    assert f"{major}.{int(minor) + 1}.0" not in upstream, "another release may rename what the guard overrides"

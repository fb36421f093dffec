"""What a result was made with: code, its revision, packages and machine. Recorded in results, never part of a recipe.

The code and the packages are compared with today's, so that the report can say which results were made with others,
and so that `rerun.on_code_change` can make them again.
"""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from usertune.core.hashing import digest
from usertune.runtime.code_version import code_version

PACKAGES = (
    "usertune", "torch", "torchvision", "transformers", "tokenizers", "peft", "accelerate", "numpy", "pillow",
    "safetensors",
)  # fmt: skip
SOURCE = Path(__file__).parents[1]
REPOSITORY = SOURCE.parents[1]
WORKFLOW_PARTS = ("Snakefile", "rules", "scripts", "src", "envs")

Provenance = dict[str, Any]
# Stands for a record that was lost.
UNKNOWN: Provenance = {"code": "unknown", "versions": {}, "revision": None, "machine": {}, "device": "unknown"}


def current_provenance(step: str, device: str | None = None, plug_ins: tuple[str, ...] = ()) -> Provenance:
    """Return what the running process makes results of ``step`` with.

    Args:
        step: the step.
        device: name of the GPU; None for the CPU.
        plug_ins: see `usertune.runtime.code_version.code_version`.

    Returns:
        ``code`` (version of the step's modules), ``versions`` (of Python and packages), ``revision`` (git commit and
        whether the workflow's files differ from it; None outside a repository), ``machine`` (operating system,
        processor, cores, memory in GiB) and ``device``: the name of the GPU, or "cpu".
    """
    return {
        "code": code_version(step, plug_ins),
        "versions": installed_versions(),
        "revision": revision(),
        "machine": machine(),
        "device": device or "cpu",
    }


def distinct(records: Iterable[Provenance]) -> list[Provenance]:
    """Return the records without repetitions, in the order of their first appearance."""
    return list({digest(record): record for record in records}.values())


def differences(record: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Say in which code and package versions a record differs from another one, as ``torch 2.13 -> 2.14``.

    A package that only one of the two has is no difference: the steps may run in environments of their own.
    """
    found = []
    if record["code"] != now["code"]:
        found.append(f"code {record['code']} -> {now['code']}")
    both = [name for name in record["versions"] if name in now["versions"]]
    found += [
        f"{name} {record['versions'][name]} -> {now['versions'][name]}"
        for name in both
        if record["versions"][name] != now["versions"][name]
    ]
    return found


@cache
def installed_versions() -> dict[str, str]:
    """Return Python's and the packages' versions, without importing the packages."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


@cache
def revision() -> dict[str, Any] | None:
    """Return the git commit of the workflow, and which of its files differ; None where git does not know them."""
    commit = _git("log", "-1", "--format=%H", "--", str(SOURCE / "__init__.py")) and _git("rev-parse", "HEAD")
    if not commit:
        return None
    changed = _git("status", "--porcelain", "--", *WORKFLOW_PARTS) or ""
    files = sorted(line[3:] for line in changed.splitlines())
    return {"commit": commit.strip(), "dirty": bool(files), "changed_files": files[:20]}


@cache
def machine() -> dict[str, Any]:
    """Return the operating system, the processor, and how many cores and GiB of memory this machine has."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory, 1),
    }


def describe_revision(record: Mapping[str, Any] | None) -> str:
    """Return a revision in words: the commit's first 12 digits, and whether files differed from it."""
    if not record:
        return "unknown revision"
    return f"{record['commit'][:12]}{' with uncommitted changes' if record['dirty'] else ''}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(REPOSITORY), *arguments], capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout

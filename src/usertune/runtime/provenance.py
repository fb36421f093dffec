"""Provenance of a result: code, revision, packages and machine, recorded in the result.

The report lists results made with code or packages other than the current ones; `rerun.on_code_change` makes them
again.
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
# Replaces a lost record.
UNKNOWN: Provenance = {"code": "unknown", "versions": {}, "revision": None, "machine": {}, "device": "unknown"}


def current_provenance(step: str, device: str | None = None, plug_ins: tuple[str, ...] = ()) -> Provenance:
    """Return the provenance of results of ``step`` made by this process.

    Args:
        step: name of the step.
        device: name of the GPU; None for the CPU.
        plug_ins: see `usertune.runtime.code_version.code_version`.

    Returns:
        ``code`` (version of the step's modules), ``versions`` (of Python and packages), ``revision`` (git commit and
        changed files of the workflow; None outside a repository), ``machine`` (operating system,
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
    """Return the records without duplicates, in order of first appearance."""
    return list({digest(record): record for record in records}.values())


def differences(record: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return the differences in code and package versions between two records, as ``torch 2.13 -> 2.14``.

    A package in only one of them is ignored, because steps may run in separate environments.
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
    """Return the versions of Python and the packages, without importing the packages."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


@cache
def revision() -> dict[str, Any] | None:
    """Return the git commit and the changed files of the workflow; None if git does not track it."""
    commit = _git("log", "-1", "--format=%H", "--", str(SOURCE / "__init__.py")) and _git("rev-parse", "HEAD")
    if not commit:
        return None
    changed = _git("status", "--porcelain", "--", *WORKFLOW_PARTS) or ""
    files = sorted(line[3:] for line in changed.splitlines())
    return {"commit": commit.strip(), "dirty": bool(files), "changed_files": files[:20]}


@cache
def machine() -> dict[str, Any]:
    """Return operating system, processor, number of cores and memory in GiB of this machine."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory, 1),
    }


def describe_revision(record: Mapping[str, Any] | None) -> str:
    """Return a revision as text: the first 12 digits of the commit, and whether files were changed."""
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

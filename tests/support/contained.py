"""A study with jobs in a container, on a stand-in for Apptainer."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.stand_in_apptainer import STARTS
from tests.support.workplace import REPOSITORY, Workplace

CONTAINER_PROFILE = ("--workflow-profile", str(REPOSITORY / "profiles/container"))


def contain(workplace: Workplace, folder: Path) -> None:
    """Give a study an image, put its data and results elsewhere, and its base model into the hub's cache.

    Args:
        workplace: the study.
        folder: where to put the image (``usertune.sif``), the cache (``hub``) and the rest (``elsewhere``).
    """
    unshared = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "--net", "true"],
        capture_output=True,
        text=True,
        check=False,
    )
    if unshared.returncode:
        pytest.skip(f"this system lets nobody make namespaces: {unshared.stderr.strip()}")
    put_stand_in_on_path(workplace, folder)
    workplace.environment.update(HF_HOME=str(folder / "hub"), HF_HUB_OFFLINE="1")
    _put_into_hub_cache(folder / "hub", REPOSITORY / "demo/base")
    workplace.replace(f"  path: {REPOSITORY}/demo/base", "  path: owner/tiny")
    (folder / "elsewhere").mkdir()
    shutil.move(workplace.data, folder / "elsewhere/data")
    workplace.replace("  root: data", f"  root: {folder}/elsewhere/data")
    workplace.replace("results: results", f"results: {folder}/elsewhere/results")
    name_image(workplace, folder)


def put_stand_in_on_path(workplace: Workplace, folder: Path) -> None:
    """Put the stand-in into ``bin`` of a folder under the name of Apptainer, so that a study finds it."""
    stand_in = Path(__file__).with_name("stand_in_apptainer.py")
    program = folder / "bin" / "apptainer"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {shlex.quote(str(stand_in))} "$@"\n')
    program.chmod(0o755)
    path = workplace.environment.get("PATH", os.environ["PATH"])
    workplace.environment["PATH"] = os.pathsep.join([str(program.parent), path])


def name_image(workplace: Workplace, folder: Path) -> None:
    """Give a study an image, ``usertune.sif`` in a folder."""
    (folder / "usertune.sif").touch()
    workplace.study.write_text(f"{workplace.study.read_text()}container: {folder}/usertune.sif\n")


def results(workplace: Workplace) -> Path:
    """Return the folder of results of a study that was contained in the folder above its own."""
    return workplace.folder.parent / "elsewhere/results"


def starts(workplace: Workplace) -> list[dict[str, Any]]:
    """Return what was run in a container: the ``image``, the folders (``binds``), and whether with GPUs (``nv``)."""
    file = workplace.folder / STARTS
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def _put_into_hub_cache(hub: Path, model: Path) -> None:
    """Lay a model where the hub's client keeps owner/tiny after a download."""
    cached = hub / "hub/models--owner--tiny"
    commit = "a" * 40
    (cached / "refs").mkdir(parents=True)
    (cached / "refs/main").write_text(commit)
    shutil.copytree(model, cached / "snapshots" / commit)

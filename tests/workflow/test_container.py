"""Jobs with `--sdm apptainer`, on a stand-in for Apptainer that hides everything that was not bound.

What it stands in for, and what that leaves open, is told in stand_in_apptainer.py and docs/slurm.md.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from stand_in_apptainer import PYTHON_STARTS, STARTS
from workplace import LOCAL_PROFILE, REPOSITORY, Workplace

APPTAINER = ("--workflow-profile", str(REPOSITORY / "profiles/container"))


@pytest.fixture
def contained(workplace: Workplace, tmp_path: Path) -> Workplace:
    """A study with an image; its data and results are elsewhere, and its base model is in the hub's cache."""
    unshared = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "true"], capture_output=True, text=True, check=False
    )
    if unshared.returncode:
        pytest.skip(f"this system lets nobody make namespaces: {unshared.stderr.strip()}")
    stand_in = Path(__file__).with_name("stand_in_apptainer.py")
    program = tmp_path / "bin" / "apptainer"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {shlex.quote(str(stand_in))} "$@"\n')
    program.chmod(0o755)
    workplace.add_to_path(program.parent)
    workplace.environment.update(HF_HOME=str(tmp_path / "hub"), HF_HUB_OFFLINE="1")
    put_into_hub_cache(tmp_path / "hub", REPOSITORY / "demo/base")
    workplace.replace(f"  path: {REPOSITORY}/demo/base", "  path: owner/tiny")
    workplace.options = LOCAL_PROFILE
    (tmp_path / "elsewhere").mkdir()
    shutil.move(workplace.data, tmp_path / "elsewhere/data")
    workplace.replace("  root: data", f"  root: {tmp_path}/elsewhere/data")
    workplace.replace("results: results", f"results: {tmp_path}/elsewhere/results")
    (tmp_path / "usertune.sif").touch()
    workplace.study.write_text(f"{workplace.study.read_text()}container: {tmp_path}/usertune.sif\n")
    return workplace


def put_into_hub_cache(hub: Path, model: Path) -> None:
    """Lay a model where the hub's client keeps owner/tiny after a download."""
    place = hub / "hub/models--owner--tiny"
    commit = "a" * 40
    (place / "refs").mkdir(parents=True)
    (place / "refs/main").write_text(commit)
    shutil.copytree(model, place / "snapshots" / commit)


def results(workplace: Workplace) -> Path:
    return workplace.folder.parent / "elsewhere/results"


def starts(workplace: Workplace) -> list[dict[str, Any]]:
    """What was run in a container."""
    file = workplace.folder / STARTS
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def test_an_experiment_in_containers_is_that_without(contained: Workplace, tmp_path: Path) -> None:
    target = str(results(contained) / "predictions/lora/users_1-2.json")
    contained.run(target, *APPTAINER)
    manifest = json.loads(Path(target).read_text())
    in_container = starts(contained)
    # Each by the image's Python and the repository's program. The stand-in has no network: none is needed.
    programs = [line.split()[0] for line in (contained.folder / PYTHON_STARTS).read_text().splitlines()]
    scripts = contained.repository / "scripts"
    expected = [*(["prepare.py"] * 6), "base_model.py", "train.py", "predict.py"]
    assert sorted(programs) == sorted(f"{scripts}/{name}" for name in expected)
    assert len(in_container) == len(programs)
    needed = {str(contained.repository), str(contained.folder), str(results(contained)), str(tmp_path / "hub")}
    for start in in_container:
        assert start["image"] == f"{tmp_path}/usertune.sif"
        assert start["nv"]
        assert needed | {f"{tmp_path}/elsewhere/data"} <= set(start["binds"])
    assert json.loads((results(contained) / "base_model/manifest.json").read_text())["folder"].startswith(
        f"{tmp_path}/hub"
    )
    # The same without a container: nothing is stale, and made anew it is the same.
    assert "Nothing to be done" in contained.run(target)
    shutil.rmtree(results(contained))
    contained.run(target)
    assert starts(contained) == in_container
    assert json.loads(Path(target).read_text())["fingerprint"] == manifest["fingerprint"]


def test_packages_of_the_host_stay_outside(contained: Workplace, tmp_path: Path) -> None:
    target = str(results(contained) / "data/user_1.manifest.json")
    # As modules of a cluster do: packages that are for another Python.
    broken = tmp_path / "modules/PIL"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise ImportError('not for this Python')\n")
    contained.environment["APPTAINER_BIND"] = str(tmp_path / "modules")
    contained.environment["PYTHONPATH"] = str(tmp_path / "modules")
    contained.run(target, *APPTAINER)
    assert str(tmp_path / "modules") in starts(contained)[0]["binds"]


def test_the_image_makes_nothing_stale(contained: Workplace) -> None:
    target = str(results(contained) / "data/user_1.manifest.json")
    contained.run(target)
    assert not starts(contained)
    assert "Nothing to be done" in contained.run(target, *APPTAINER)
    assert not starts(contained)
    # It is this key of the profile that does it.
    every = ["--rerun-triggers", "code", "input", "mtime", "params", "software-env"]
    assert "software environment definition has changed" in contained.run("-n", target, *APPTAINER, *every)


def test_a_study_without_image_is_told_so(contained: Workplace, tmp_path: Path) -> None:
    (tmp_path / "usertune.sif").unlink()
    code, output = contained.snakemake(*APPTAINER)
    assert code != 0
    assert f"container: there is no image {tmp_path}/usertune.sif; build it by: apptainer build" in output
    contained.replace(f"container: {tmp_path}/usertune.sif\n", "")
    code, output = contained.snakemake(*APPTAINER)
    assert code != 0
    assert "container: the study names no image" in output
    assert not starts(contained)

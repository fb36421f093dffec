"""Jobs with `--sdm apptainer`, on a stand-in for Apptainer that hides everything that was not bound.

stand_in_apptainer.py and docs/slurm.md say what the stand-in covers and what it does not.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.support.contained import CONTAINER_PROFILE, contain, name_image, put_stand_in_on_path, results, starts
from tests.support.stand_in_apptainer import PYTHON_STARTS
from tests.support.workplace import LOCAL_PROFILE, Workplace


@pytest.fixture
def contained(workplace: Workplace, tmp_path: Path) -> Workplace:
    """A study with an image; its data and results are elsewhere, and its base model is in the hub's cache."""
    contain(workplace, tmp_path)
    workplace.options = LOCAL_PROFILE
    return workplace


def test_an_experiment_in_containers_is_that_without(contained: Workplace, tmp_path: Path) -> None:
    target = str(results(contained) / "predictions/lora/users_1-2.json")
    contained.run(target, *CONTAINER_PROFILE)
    manifest = json.loads(Path(target).read_text())
    in_container = starts(contained)
    # Each by the image's Python and the repository's program. The stand-in has no network: none is needed.
    programs = [line.split()[0] for line in (contained.folder / PYTHON_STARTS).read_text().splitlines()]
    scripts = contained.repository / "scripts"
    expected = [*(["prepare.py"] * 3), "base_model.py", "train.py", "predict.py"]
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
    # The same without a container: nothing is stale, and made again it is the same.
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
    contained.run(target, *CONTAINER_PROFILE)
    assert str(tmp_path / "modules") in starts(contained)[0]["binds"]


def test_the_image_makes_nothing_stale(contained: Workplace) -> None:
    target = str(results(contained) / "data/user_1.manifest.json")
    contained.run(target)
    assert not starts(contained)
    assert "Nothing to be done" in contained.run(target, *CONTAINER_PROFILE)
    assert not starts(contained)
    # It is this key of the profile that does it.
    every = ["--rerun-triggers", "code", "input", "mtime", "params", "software-env"]
    assert "software environment definition has changed" in contained.run("-n", target, *CONTAINER_PROFILE, *every)


def test_a_finished_study_stays_finished(finished: Workplace, tmp_path: Path) -> None:
    finished.options = LOCAL_PROFILE
    put_stand_in_on_path(finished, tmp_path)
    name_image(finished, tmp_path)
    for profile in ((), CONTAINER_PROFILE):
        assert "Nothing to be done" in finished.run("-n", *profile)


def test_a_study_without_image_is_reported(contained: Workplace, tmp_path: Path) -> None:
    (tmp_path / "usertune.sif").unlink()
    code, output = contained.snakemake(*CONTAINER_PROFILE)
    assert code != 0
    assert f"container: there is no image {tmp_path}/usertune.sif; build it by: apptainer build" in output
    contained.replace(f"container: {tmp_path}/usertune.sif\n", "")
    code, output = contained.snakemake(*CONTAINER_PROFILE)
    assert code != 0
    assert "container: the study names no image" in output
    assert not starts(contained)

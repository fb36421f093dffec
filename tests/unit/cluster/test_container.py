"""What a job in a container sees, and which images are taken."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from usertune.cluster.container import check_container, container_environment, hub_home
from usertune.core.errors import UserError
from usertune.study.load import study_from_config
from usertune.study.schema.study import Study


def study(folder: Path, **keys: object) -> Study:
    config = {
        "name": "tiny",
        "results": str(folder / "results"),
        "dataset": {"root": str(folder / "data")},
        "users": {"test": "1"},
        "base_model": {"path": "owner/model"},
        "experiments": {"vanilla": {"mode": "vanilla"}},
    }
    return study_from_config({**config, **keys})


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("data", "results", "cache/huggingface", "temporary", "repository/src"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return tmp_path


def binds(study: Study, folder: Path, **environment: str) -> list[str]:
    set_now = {"XDG_CACHE_HOME": str(folder / "cache"), **environment}
    found = container_environment(study, str(folder / "repository/src"), [str(folder / "repository")], set_now)
    assert found["APPTAINER_BIND"] == found["SINGULARITY_BIND"]
    return found["APPTAINER_BIND"].split(",")


def test_everything_that_a_job_reads_and_writes_is_seen(folder: Path) -> None:
    expected = [f"{folder}/{name}" for name in ("cache/huggingface", "data", "repository", "results", "temporary")]
    assert binds(study(folder), folder) == expected


def test_a_local_base_model_and_the_set_cache_are_seen(folder: Path) -> None:
    for name in ("model", "hub"):
        (folder / name).mkdir()
    found = binds(study(folder, base_model={"path": f"{folder}/model"}), folder, HF_HOME=f"{folder}/hub")
    assert {f"{folder}/model", f"{folder}/hub"} <= set(found)
    assert f"{folder}/cache/huggingface" not in found


def test_what_is_not_there_is_left_out(folder: Path) -> None:
    (folder / "results").rmdir()
    assert f"{folder}/results" not in binds(study(folder), folder)


def test_links_are_seen_under_both_names(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "study").mkdir()
    (folder / "study/link").symlink_to(folder / "data")
    found = binds(study(folder, dataset={"root": f"{folder}/study/link"}), folder)
    assert {f"{folder}/study/link", f"{folder}/data"} <= set(found)
    # Inside a folder that is seen, only what the link leads to is needed.
    monkeypatch.chdir(folder / "study")
    own = study(folder, dataset={"root": "link"})
    environment = container_environment(own, "src", [str(folder / "study")], {})
    assert f"{folder}/data" in environment["APPTAINER_BIND"].split(",")
    assert f"{folder}/study/link" not in environment["APPTAINER_BIND"].split(",")


def test_what_was_bound_stays_bound_and_is_not_repeated(folder: Path) -> None:
    first = binds(study(folder), folder, APPTAINER_BIND="/scratch:/data")
    assert first[0] == "/scratch:/data"
    assert binds(study(folder), folder, APPTAINER_BIND=",".join(first)) == first
    assert binds(study(folder), folder, SINGULARITY_BIND="/scratch:/data") == first


def test_variables_inside(folder: Path) -> None:
    environment = {"HOME": "/home/me", "PYTHONPATH": "/opt/module/python3.9"}
    found = container_environment(study(folder), "/repository/src", [], environment)
    assert found["APPTAINERENV_PYTHONPATH"] == found["SINGULARITYENV_PYTHONPATH"] == "/repository/src"
    assert found["HF_HOME"] == str(Path("~/.cache/huggingface").expanduser())


@pytest.mark.parametrize("name", ["a,b", "a:b", 'a"b'])
def test_a_name_that_would_be_cut_is_refused(folder: Path, name: str) -> None:
    (folder / name).mkdir()
    with pytest.raises(UserError, match="cannot be bound in a container"):
        binds(study(folder, dataset={"root": str(folder / name)}), folder)


def test_the_image_must_be_named_and_there(folder: Path) -> None:
    with pytest.raises(UserError, match=r"names no image.*apptainer build usertune\.sif envs/usertune\.def"):
        check_container(study(folder))
    with pytest.raises(UserError, match=r"there is no image .*usertune\.sif"):
        check_container(study(folder, container=f"{folder}/usertune.sif"))
    (folder / "usertune.sif").touch()
    check_container(study(folder, container=f"{folder}/usertune.sif"))


def test_several_nodes_are_refused(folder: Path) -> None:
    (folder / "usertune.sif").touch()
    experiments = {"full": {"mode": "full", "nodes": 2, "gpus": 4}}
    users = {"train": "2", "test": "1"}
    with pytest.raises(UserError, match=r"experiments\.full\.nodes: 2 nodes cannot train together in containers"):
        check_container(study(folder, container=f"{folder}/usertune.sif", experiments=experiments, users=users))


@pytest.mark.parametrize(
    "name", ["my image.sif", "$(id).sif", "a;b.sif", "-v", "{user}.sif", "docker://python:3.11", ""]
)
def test_names_that_a_shell_or_snakemake_would_read_otherwise_are_refused(folder: Path, name: str) -> None:
    with pytest.raises(UserError, match="container: "):
        study(folder, container=name)


def test_the_cache_is_where_the_hubs_client_has_it(tmp_path: Path) -> None:
    ask = "from huggingface_hub.constants import HF_HOME; print(HF_HOME)"
    for environment in ({}, {"XDG_CACHE_HOME": "/scratch/cache"}, {"HF_HOME": "/project/hub"}, {"HF_HOME": "~/hub"}):
        asked = subprocess.run(
            [sys.executable, "-c", ask],
            env={"HOME": str(Path.home()), **environment},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        assert str(hub_home(environment)) == asked.stdout.strip(), environment

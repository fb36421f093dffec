"""What a base model is known by, wherever its files came from."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors import safe_open

from tests.unit.conftest import BASE
from usertune.models.base_model import about_model

COMMIT = "0c351dd01ed87e9c1b53cbc748cba10e6187ff3b"


def model(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "qwen3_vl"}')
    return folder


def note(folder: Path, text: str) -> None:
    path = folder / ".cache/huggingface/download/config.json.metadata"
    path.parent.mkdir(parents=True)
    path.write_text(text)


def test_a_snapshot_of_the_hub_is_known_by_its_commit(tmp_path: Path) -> None:
    folder = model(tmp_path / "models--Qwen--Qwen3-VL-8B-Instruct" / "snapshots" / COMMIT)
    assert about_model(folder) == {"model_type": "qwen3_vl", "parameters": None, "commit": COMMIT}


def test_parameters_are_counted_from_headers() -> None:
    with safe_open(BASE / "model.safetensors", "np") as weights:
        expected = sum(weights.get_tensor(name).size for name in weights.keys())  # noqa: SIM118 (not a dict)
    assert about_model(BASE)["parameters"] == expected > 100_000


def test_parameters_of_damaged_weights_are_not_known(tmp_path: Path) -> None:
    folder = model(tmp_path / "model")
    (folder / "model.safetensors").write_bytes((BASE / "model.safetensors").read_bytes()[:-1])
    assert about_model(folder)["parameters"] is None


def test_a_folder_that_the_hub_client_filled_is_known_by_its_note(tmp_path: Path) -> None:
    folder = model(tmp_path / "copy")
    note(folder, f"{COMMIT}\n7c5d3f4b8b76583b\n1712656091.123\n")
    assert about_model(folder)["commit"] == COMMIT


@pytest.mark.parametrize("text", ["", "main\n", "\n", COMMIT[:-1]])
def test_a_note_that_names_no_commit_is_ignored(tmp_path: Path, text: str) -> None:
    folder = model(tmp_path / "copy")
    note(folder, text)
    assert about_model(folder)["commit"] is None


def test_a_folder_of_another_origin_has_no_commit(tmp_path: Path) -> None:
    assert about_model(model(tmp_path / "snapshots" / "mine"))["commit"] is None

"""The copy of a study reads as the same study, whatever its author wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from usertune.study.copy import read_written, study_text
from usertune.study.load import load_study, study_from_config
from usertune.study.schema.study import Study

REPOSITORY = Path(__file__).resolve().parents[3]
GOOD = {
    "name": "small",
    "dataset": {"root": "data"},
    "users": {"train": "4-6,10", "test": ["1-3", "ana", "1_2"]},
    "base_model": {"path": "base"},
    "experiments": {"vanilla": {"mode": "vanilla"}, "full": {"mode": "full", "gpus": 2}},
}
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


def same(copy: Study, study: Study) -> bool:
    """Whether two studies are the same except for paths, which are absolute in the copy."""
    paths = [[one.results, one.dataset.root, one.base_model.path, one.container or ""] for one in (copy, study)]
    for after, before in zip(*paths, strict=True):
        assert after in (before, str(Path(before).absolute()))
    no_paths = {"results": "r", "container": None}
    first, second = (
        one.model_copy(
            update={
                **no_paths,
                "dataset": one.dataset.model_copy(update={"root": "d"}),
                "base_model": one.base_model.model_copy(update={"path": "b"}),
            }
        )
        for one in (copy, study)
    )
    return first.model_dump() == second.model_dump()


@pytest.mark.parametrize(
    "file", ["config.yaml", "configs/qwen3-vl-8b.yaml", "configs/fingertip.yaml", "configs/fingertip-corrected.yaml"]
)
def test_the_copy_of_a_study_is_that_study_and_holds_what_was_written(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY)
    study = load_study([file])
    copy = tmp_path / "elsewhere" / "study.yaml"
    copy.parent.mkdir()
    copy.write_text(study_text(study, read_written([file])), encoding="utf-8")
    assert same(load_study([copy]), study)
    for line in (REPOSITORY / file).read_text().splitlines():
        assert f"#   {line}".rstrip() in copy.read_text().splitlines()


def test_what_the_command_line_changed_is_in_the_copy() -> None:
    study = study_from_config({**GOOD, "test_users": "2"})
    assert yaml.safe_load(study_text(study, {}))["users"] == {"train": "4-6,10", "validation": [], "test": "2"}


@given(title=TEXT, prompt=TEXT, written=TEXT)
@settings(max_examples=200, deadline=None)
def test_any_text_is_kept(title: str, prompt: str, written: str) -> None:
    study = study_from_config(
        {**GOOD, "report": {"title": title}, "dataset": {"root": "data", "prompt": {"user": "{text}" + prompt}}}
        if "{text}" not in prompt
        else {**GOOD, "report": {"title": title}}
    )
    text = study_text(study, {f"{written}.yaml": written})
    assert same(study_from_config(yaml.safe_load(text)), study)


@pytest.mark.parametrize("shared", [{}, {"warmup": 0.1}, {"warmup_steps": 3}, {"freeze_vision": True}])
@pytest.mark.parametrize("own", [{}, {"warmup": 0.2}, {"warmup_steps": 4}, {"learning_rate": None}])
def test_either_way_to_write_a_setting_is_kept(shared: dict[str, Any], own: dict[str, Any]) -> None:
    experiments = {"full": {"mode": "full", "training": own}, "lora": {"mode": "lora"}}
    study = study_from_config({**GOOD, "training": shared, "experiments": experiments})
    assert same(study_from_config(yaml.safe_load(study_text(study, {}))), study)
    # As the audit gets it.
    assert study_from_config(json.loads(study.model_dump_json())) == study


def test_a_hub_name_stays_a_name() -> None:
    study = study_from_config({**GOOD, "base_model": {"path": "Qwen/Qwen3-VL-8B-Instruct"}})
    copy = yaml.safe_load(study_text(study, {}))
    assert copy["base_model"]["path"] == "Qwen/Qwen3-VL-8B-Instruct"
    assert copy["dataset"]["root"] == str(Path("data").absolute())


def test_a_file_that_is_gone_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "there.yaml").write_bytes(b"\xef\xbb\xbfname: x\r\n")
    files = [str(tmp_path / name) for name in ("there.yaml", "gone.yaml")]
    assert read_written(files) == {files[0]: "name: x\r\n".replace("\r\n", "\n")}

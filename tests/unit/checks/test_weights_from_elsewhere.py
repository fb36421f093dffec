"""An experiment with weights from elsewhere, from planning to export; made again only if they change."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file

from tests.support.auditing import audit, found, reasons
from tests.support.stand_ins import StandInEngine
from tests.support.synthetic_study import BASE, SyntheticStudy
from usertune.checks.elsewhere import weight_sources
from usertune.checks.explain import explain, in_words
from usertune.checks.freshness import Freshness
from usertune.checks.preflight import check_sources
from usertune.core.errors import UserError
from usertune.core.manifest import read_result
from usertune.exchange.export_model import HubFolder, export_model
from usertune.monitoring.jobs import read_jobs
from usertune.monitoring.status import status_of
from usertune.study.copy import public_study_text, study_text
from usertune.study.load import load_study, study_from_config
from usertune.study.schema.study import Study

OWN, PREDICTED = "other_weights/theirs.json", "predictions/theirs/users_1-2.json"
CHANGES: dict[str, Any] = {
    "experiments": {"vanilla": {"mode": "vanilla"}, "theirs": {"mode": "lora", "weights": "adapter"}},
}
TENSORS = "adapter_model.safetensors"
EXPORT = HubFolder("theirs", Path("exported"))


def write_adapter(folder: Path) -> None:
    """Write an adapter of all query projections, without torch."""
    base = load_file(BASE / "model.safetensors")
    state = {}
    for name, value in base.items():
        if name.endswith("q_proj.weight"):
            layer = f"base_model.model.{name.removesuffix('.weight')}"
            state[f"{layer}.lora_A.weight"] = value[:2] * 0 + 1
            state[f"{layer}.lora_B.weight"] = value[:, :2] * 0 + 0.5
    folder.mkdir()
    save_file({name: value.copy() for name, value in state.items()}, folder / TENSORS, {"format": "pt"})
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "/theirs/large"}))


def synthetic() -> SyntheticStudy:
    return SyntheticStudy(Path(), users=["1", "2"], samples=3, changes=CHANGES)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("elsewhere")
    with chdir(folder):
        shutil.copytree(BASE, "base")
        write_adapter(Path("adapter"))
        study = synthetic()
        study.write()
        study.report()
    return folder


@pytest.fixture
def finished(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SyntheticStudy:
    shutil.copytree(template, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return synthetic()


def test_the_weights_are_used_and_recorded(finished: SyntheticStudy) -> None:
    assert finished.results[PREDICTED].inputs["weights"] == (OWN,)
    manifest, predictions = read_result(OWN), read_result(PREDICTED)
    assert predictions["inputs"]["weights"] == manifest["output"]
    assert predictions["lineage"]["train"] is None
    assert predictions["provenance"]["train"] == []
    assert predictions["adapter_effect"]["largest_change"] == 2.5
    assert audit(finished).findings == []
    assert audit(finished).environment_mismatches == []
    freshness = Freshness(finished.study, finished.recipes)
    assert in_words(explain(freshness)).endswith("up to date, nothing would run.")
    assert status_of(freshness, read_jobs(Path())).complete
    report = Path("report.html").read_text()
    assert "weights from elsewhere (adapter)" in report
    assert manifest["weights_files"][TENSORS] in report
    assert "theirs: weights from elsewhere (adapter)" in Path("provenance.json").read_text()


def change(path: str = f"adapter/{TENSORS}") -> None:
    state = load_file(path)
    before = Path(path).stat()
    save_file({name: value + 1 for name, value in state.items()}, path, {"format": "pt"})
    # With an older time, as a copy that keeps times has.
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns - 10**12))


def again(study: SyntheticStudy) -> set[str]:
    freshness = Freshness(study.study, study.recipes)
    return {path for path in freshness.results if not freshness.holds(path)}


def test_a_replaced_file_makes_the_answers_of_this_experiment_again(finished: SyntheticStudy) -> None:
    change()
    said = list(Freshness(finished.study, finished.recipes).reasons(OWN))
    assert said == ["sizes or times of the weights' files changed since they were read"]
    assert found(finished)[0] == ("stale", OWN)
    assert f"adapter/{TENSORS}, from elsewhere, changed" in reasons(finished)
    answered = StandInEngine.generated
    # Before the weights are read again, nothing is predicted with them.
    with pytest.raises(UserError, match="changed since it was read; run again"):
        finished.make(PREDICTED)
    finished.make(OWN)
    assert PREDICTED in again(finished)
    finished.make(PREDICTED)
    assert StandInEngine.generated == answered + 6
    assert not any("vanilla" in path for path in again(finished))


def test_touched_or_moved_weights_are_the_same(finished: SyntheticStudy) -> None:
    os.utime(f"adapter/{TENSORS}", (1, 1))
    assert list(Freshness(finished.study, finished.recipes).reasons(OWN))
    assert found(finished) == []
    answered = StandInEngine.generated
    finished.make(OWN)
    assert again(finished) == set()
    shutil.copytree("adapter", "moved")
    moved = SyntheticStudy(
        Path(),
        users=["1", "2"],
        samples=3,
        changes={"experiments": {**CHANGES["experiments"], "theirs": {"mode": "lora", "weights": "moved"}}},
    )
    assert 'path: "adapter" -> "moved"' in list(Freshness(moved.study, moved.recipes).reasons(OWN))
    moved.make(OWN)
    moved.make(PREDICTED)
    assert StandInEngine.generated == answered
    freshness = Freshness(moved.study, moved.recipes)
    assert freshness.holds("scores/theirs/user_1.json")


def test_what_is_wrong_is_told_when_jobs_are_planned(
    finished: SyntheticStudy, caplog: pytest.LogCaptureFixture
) -> None:
    check_sources(finished.study)
    assert "the adapter was trained on /theirs/large, and this study's base model is base" in caplog.text
    assert weight_sources(finished.study, "theirs") == ["adapter/adapter_config.json", f"adapter/{TENSORS}"]
    Path(f"adapter/{TENSORS}").rename("adapter/adapter_model.bin")
    with pytest.raises(
        UserError, match=r"^experiments\.theirs\.weights: adapter: adapter_model\.safetensors is missing"
    ):
        check_sources(finished.study)
    assert ("stale", OWN) in found(finished)


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ({"mode": "vanilla", "weights": "x"}, "weights and checkpoint need mode lora"),
        ({"mode": "lora", "weights": "x", "answers": "y"}, "answers and weights exclude each other"),
        ({"mode": "lora", "weights": "x", "training": {"epochs": 1}}, "with weights does not train; remove training"),
        ({"mode": "lora", "weights": "x", "gpus": 2}, "remove gpus"),
        ({"mode": "vanilla", "answers": "x", "max_new_tokens": 2}, "remove max_new_tokens"),
        ({"mode": "vanilla", "answers": "{user}/{user}"}, "contains {user} twice"),
        ({"mode": "vanilla", "answers": "{users}.jsonl"}, "one of the characters"),
        ({"mode": "lora", "weights": "a{user}"}, "one of the characters"),
    ],
    ids=str,
)
def test_keys_that_contradict_each_other(finished: SyntheticStudy, own: dict[str, Any], said: str) -> None:
    config = finished.study.model_dump(mode="json", include=set(Study.model_json_schema()["properties"]))
    config["users"] = {"train": "t1,t2", "validation": "v1", "test": "1,2"}
    with pytest.raises(UserError, match=r"experiments\.theirs") as error:
        study_from_config({**config, "experiments": {"theirs": own}})
    assert said in str(error.value)


def test_keys_of_the_shared_training_do_not_count(finished: SyntheticStudy) -> None:
    assert finished.study.experiments["theirs"].training is None
    assert not finished.study.experiments["theirs"].trained


def test_an_export_says_whose_weights_they_are(finished: SyntheticStudy) -> None:
    export_model(finished.study, EXPORT)
    card = Path("exported/README.md").read_text()
    assert (
        "not trained by the study `synthetic`, which measured it with usertune: weights from elsewhere (adapter)"
        in card
    )
    assert "train users" not in card
    assert "was evaluated with usertune" in Path("exported/CITATION.cff").read_text()
    assert Path("exported", TENSORS).read_bytes() == Path("adapter", TENSORS).read_bytes()
    # With the processor of the base model, and none of its weights.
    assert Path("exported/tokenizer_config.json").read_bytes() == Path("base/tokenizer_config.json").read_bytes()
    assert not Path("exported/model.safetensors").exists()
    assert not Path("exported/config.json").exists()


def test_tensors_that_peft_would_ignore_are_not_exported(finished: SyntheticStudy) -> None:
    state = load_file(f"adapter/{TENSORS}")
    renamed = {name.replace(".weight", ".default.weight"): value for name, value in state.items()}
    save_file(renamed, f"adapter/{TENSORS}", {"format": "pt"})
    finished.make_all("other_weights", "predict", "score", "compare")
    with pytest.raises(UserError, match=r"PEFT would ignore its tensors.*--merge"):
        export_model(finished.study, EXPORT)


def test_copies_of_the_study_keep_the_path(finished: SyntheticStudy, tmp_path: Path) -> None:
    Path("copy.yaml").write_text(study_text(finished.study, {}))
    assert load_study(["copy.yaml"]).experiments["theirs"].weights == str(tmp_path / "adapter")
    assert "weights: adapter\n" in public_study_text(finished.study, "base", None)

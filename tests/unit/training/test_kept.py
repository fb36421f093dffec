"""Weights of earlier steps that a training keeps: the right ones, after stops too, and never at the cost of others."""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tests.support.calls import train
from tests.support.fine_tuning import fine_tuning, same_weights, stop_after, train_and_read
from tests.support.synthetic_study import SyntheticStudy
from tests.unit.conftest import EXECUTION, WITH_ARGUMENTS, Prepared
from usertune.checks.freshness import Freshness
from usertune.checks.preflight import check_sources
from usertune.core.errors import FinalError, StopRequested, UserError
from usertune.core.manifest import read_result
from usertune.models.external_weights import WeightFiles, describe_weights
from usertune.models.recipe import OtherWeightsRecipe
from usertune.pipeline.layout import read_checked
from usertune.training.inputs import FineTuning
from usertune.training.kept_files import kept_steps, missing_in, require_steps
from usertune.training.recipe import TrainingSettings

STEPS = (1, 3)
# Trains, and kills itself when it has kept step 3 and is about to complete the working checkpoint of that step.
TRAIN_AND_KILL = f"""{WITH_ARGUMENTS}
import os, signal
from tests.support.calls import train
from usertune.training.callbacks import MarkCheckpoints
original = MarkCheckpoints.on_save
def on_save(self, args, state, control, **rest):
    if state.global_step == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(self, args, state, control, **rest)
MarkCheckpoints.on_save = on_save
train(**arguments)
"""
TENSORS = "adapter_model.safetensors"


def keeping(
    prepared: Prepared, steps: tuple[int, ...] = STEPS, save_every_steps: int = 100, **training: Any
) -> FineTuning:
    run = fine_tuning(prepared, **training)
    return replace(
        run,
        recipe=run.recipe.model_copy(update={"keep_checkpoints": steps}),
        execution=run.execution.model_copy(update={"save_every_steps": save_every_steps}),
    )


def kept(work: Path, step: int) -> dict[str, Any]:
    found: dict[str, Any] = load_file(work / f"kept-{step}" / TENSORS)
    return found


def test_the_weights_of_a_step_are_those_that_the_training_had_and_change_nothing_else(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = train_and_read(fine_tuning(prepared), tmp_path / "plain")
    table, weights = train_and_read(keeping(prepared), tmp_path / "keeping")
    assert (table, kept_steps(tmp_path / "keeping/work")) == (plain[0], [1, 3])
    assert same_weights(weights, plain[1])
    # A working checkpoint of the same step has the same weights.
    with monkeypatch.context() as patch:
        stop_after(3, patch)
        with pytest.raises(StopRequested):
            train_and_read(keeping(prepared), tmp_path / "stopped")
    work = tmp_path / "stopped/work"
    assert same_weights(kept(work, 3), load_file(work / "checkpoint-3" / TENSORS))
    assert same_weights(kept(work, 3), kept(tmp_path / "keeping/work", 3))
    assert not same_weights(kept(work, 3), kept(work, 1))
    assert not list((work / "kept-3").glob("*optim*"))


@pytest.mark.parametrize("stopped_at", [1, 4])
@pytest.mark.parametrize("keep", ["last", "best"])
def test_after_a_stop_the_same_weights_are_kept(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped_at: int, keep: str
) -> None:
    run = keeping(prepared, keep=keep)
    whole = train_and_read(run, tmp_path / "whole")
    with monkeypatch.context() as patch:
        stop_after(stopped_at, patch)
        with pytest.raises(StopRequested):
            train_and_read(run, tmp_path / "stopped")
    again = train_and_read(run, tmp_path / "stopped")
    assert again[0] == whole[0]
    assert same_weights(again[1], whole[1])
    for step in STEPS:
        assert same_weights(kept(tmp_path / "stopped/work", step), kept(tmp_path / "whole/work", step))


def test_after_kill_9_the_same_weights_are_kept(
    prepared: Prepared, tmp_path: Path, run_python: Callable[..., subprocess.Popen[str]]
) -> None:
    recipe = {**prepared.train_recipe(), "keep_checkpoints": STEPS}
    execution = {**EXECUTION, "save_every_steps": 1}
    whole, killed = (
        {**prepared.train_arguments(tmp_path / name, recipe), "execution": execution} for name in ("whole", "killed")
    )
    train(**whole)
    process = run_python(TRAIN_AND_KILL, killed)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == -signal.SIGKILL, said
    (work,) = (path.parent for path in (tmp_path / "killed").glob("**/kept-3"))
    assert not list(work.glob("checkpoint-3/complete.json"))
    train(**killed)
    expected, found = (read_result(tmp_path / name / "manifest.json") for name in ("whole", "killed"))
    assert found["resumed_from_step"] == 2
    for key in ("weights_files", "losses_sha256", "weights_fingerprint"):
        assert found[key] == expected[key], key
    assert list(found["kept"]) == ["1", "3"]
    for step, own in expected["kept"].items():
        assert {key: found["kept"][step][key] for key in ("files", "fingerprint")} == {
            key: own[key] for key in ("files", "fingerprint")
        }


def test_a_training_that_resumes_with_more_steps_to_keep_goes_back_to_before_them(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train_and_read(keeping(prepared, (1, 3, 4)), tmp_path / "whole")
    with monkeypatch.context() as patch:
        stop_after(5, patch)
        with pytest.raises(StopRequested):
            train_and_read(keeping(prepared, (1,), save_every_steps=2), tmp_path / "stopped")
    work = tmp_path / "stopped/work"
    assert {path.name for path in work.glob("checkpoint-*")} == {"checkpoint-4", "checkpoint-5"}
    # Half of a folder, as a kill leaves it, is none.
    (work / "kept-3.tmp").mkdir()
    again = train_and_read(keeping(prepared, (1, 3, 4)), tmp_path / "stopped")
    assert again[0] == whole[0]
    for step in (1, 3, 4):
        assert same_weights(kept(work, step), kept(tmp_path / "whole/work", step))


def test_only_steps_that_are_taken_can_be_kept() -> None:
    settings = TrainingSettings(
        epochs=2, learning_rate=1, schedule="linear", weight_decay=0, max_grad_norm=1, batch_size=4,
        validate_every_steps=1, seed=0,
    )  # fmt: skip
    require_steps(settings, (1, 6), 10)
    with pytest.raises(FinalError, match=r"keep_checkpoints of experiment lora names step 7, but .* only 6 steps"):
        require_steps(settings, (1, 7), 10, "lora")
    # After an early stop, a later step is not missing: another training would not have it either.
    assert missing_in({"steps": 4, "kept": {"1": {}}}, (1, 2, 9)) == [2]


# In a study


def synthetic(keep: list[int], checkpoint: dict[str, Any] | None = None, **training: Any) -> SyntheticStudy:
    own = {"lora": {"mode": "lora", "training": {"keep_checkpoints": keep, "batch_size": 1, **training}}}
    early = {"early": {"mode": "lora", "checkpoint": checkpoint}} if checkpoint else {}
    return SyntheticStudy(
        Path(), users=["1"], samples=3, changes={"experiments": {"vanilla": {"mode": "vanilla"}, **own, **early}}
    )


@pytest.mark.parametrize(
    ("keep", "checkpoint", "said"),
    [
        ([5], {"of": "lora", "step": 6}, "lora does not keep step 6 (it keeps the steps 5); add it to its"),
        ([], {"of": "lora", "step": 6}, "it keeps none"),
        ([5], {"of": "vanilla", "step": 5}, "'vanilla' is no trained experiment; name one of: lora"),
        ([5], {"of": "early", "step": 5}, "'early' is no trained experiment"),
        ([5], {"of": "lora", "step": 0}, "greater than 0"),
        ([5, 5], None, "names a step twice"),
    ],
    ids=str,
)
def test_a_study_that_asks_for_what_cannot_be_there(keep: list[int], checkpoint: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as error:
        _ = synthetic(keep, checkpoint).study
    assert said in str(error.value)


def test_the_mode_of_a_checkpoint_is_that_of_its_training() -> None:
    study = synthetic([5], {"of": "lora", "step": 5})
    study.changes["experiments"]["early"]["mode"] = "full"
    with pytest.raises(UserError, match=r"early.checkpoint: lora has mode lora, so write mode: lora"):
        _ = study.study


def test_a_step_beyond_the_last_is_refused_when_jobs_are_planned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    synthetic([6]).write()
    check_sources(synthetic([6]).study)
    with pytest.raises(FinalError, match=r"names step 7, but training takes only 6 steps"):
        check_sources(synthetic([7]).study)


@pytest.fixture
def finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SyntheticStudy:
    """A study whose stand-in training kept steps 2 and 4."""
    monkeypatch.chdir(tmp_path)
    study = synthetic([2, 4], {"of": "lora", "step": 2})
    study.write()
    return study


TRAINED = "checkpoints/lora/manifest.json"
PREDICTED = ("predictions/lora/users_1.json", "predictions/early/users_1.json")


def fresh(study: SyntheticStudy) -> Freshness:
    return Freshness(study.study, study.recipes)


def test_the_manifest_lists_them_and_other_recipes_do_not_change(finished: SyntheticStudy) -> None:
    kept = read_result(TRAINED)["kept"]
    assert list(kept) == ["2", "4"]
    assert all((Path("checkpoints/lora") / own["folder"]).is_dir() for own in kept.values())
    plain = synthetic([])
    assert "keep_checkpoints" not in plain.recipes.train("lora")
    assert plain.recipes.predict("lora") == finished.recipes.predict("lora")
    assert plain.recipes.execution("lora") == finished.recipes.execution("lora")


def test_a_checkpoint_is_predicted_with_its_own_weights(finished: SyntheticStudy) -> None:
    training, own = read_result(TRAINED), read_result("other_weights/early.json")
    assert own["output"] == training["kept"]["2"]["fingerprint"] != training["output"]
    predictions = read_result("predictions/early/users_1.json")
    assert predictions["inputs"]["weights"] == own["output"]
    assert predictions["lineage"]["train"] == training["fingerprint"]
    assert predictions["provenance"]["train"] == training["provenance"]
    assert predictions["lineage"]["source"]["name"] == "lora after step 2"
    finished.report()
    assert "lora after step 2" in Path("report.html").read_text()
    assert all(fresh(finished).holds(path) for path in finished.results)


def test_a_step_more_is_trained_again_and_a_step_less_starts_nothing(finished: SyntheticStudy) -> None:
    recipe = fresh(finished).recipe(TRAINED)
    less = synthetic([2], {"of": "lora", "step": 2})
    assert fresh(less).recipe(TRAINED) == recipe
    assert all(fresh(less).holds(path) for path in (TRAINED, "other_weights/early.json", *PREDICTED))
    more = synthetic([2, 4, 5], {"of": "lora", "step": 5})
    assert list(fresh(more).reasons(TRAINED)) == ["the weights of step 5 were not kept"]
    assert fresh(more).recipe(TRAINED) != recipe
    folder = read_result(TRAINED)["weights_folder"]
    more.make(TRAINED)
    assert list(read_result(TRAINED)["kept"]) == ["2", "4", "5"]
    assert read_result(TRAINED)["weights_folder"] == folder
    assert fresh(more).holds(TRAINED)
    # The same training gives the same result, so its answers are found.
    assert fresh(more).holds(PREDICTED[0])


@pytest.mark.parametrize("how", ["removed", "modified"])
def test_damaged_weights_of_a_step_are_found_and_trained_again(finished: SyntheticStudy, how: str) -> None:
    folder = Path("checkpoints/lora") / read_result(TRAINED)["kept"]["4"]["folder"]
    if how == "removed":
        shutil.rmtree(folder)
    else:
        next(folder.iterdir()).write_text("other")
    finding = read_checked(Path(), finished.results[TRAINED])[1]
    assert finding is not None
    assert finding.kind == {"removed": "missing", "modified": "modified"}[how]
    finished.make(TRAINED)
    assert read_checked(Path(), finished.results[TRAINED])[1] is None


def test_a_step_after_an_early_stop_is_named(finished: SyntheticStudy, tmp_path: Path) -> None:
    recipe = OtherWeightsRecipe(step="other_weights", mode="lora", of="lora", kept_step=30)
    files = WeightFiles(Path("base_model/manifest.json"), None, tmp_path / "w.json", Path(TRAINED))
    with pytest.raises(UserError, match=r"no weights of step 30: it kept those of 2, 4, and took 30 steps"):
        describe_weights(recipe, "early", files)

"""The loss and its weighting, the weights that are kept, and numbers that are not finite."""

from __future__ import annotations

import math
import re
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.support.fine_tuning import (
    batch_of,
    fine_tuning,
    losses_of,
    measure,
    same_weights,
    stop_after,
    train_and_read,
    uneven_samples,
)
from tests.unit.conftest import BASE, Prepared
from usertune.core.errors import FinalError, LackOfMemoryError, StopRequested
from usertune.models.conversation import IGNORED_LABEL
from usertune.models.loading import load_adapter, load_model, prepare_for_training
from usertune.training.batches import NUMBERS
from usertune.training.callbacks import StopOnSignal, newest_checkpoint
from usertune.training.inputs import FineTuning
from usertune.training.trainer import answer_loss_sum


@pytest.mark.parametrize("count", [1, 3])
def test_loss_and_gradients_are_those_of_transformers(prepared: Prepared, count: int) -> None:
    batch = batch_of(prepared, uneven_samples(prepared, "11")[:count])
    assert count == 1 or (batch["attention_mask"] == 0).any()
    model = load_model(BASE, "float32").eval()
    labels = int((batch["labels"] != IGNORED_LABEL).sum())
    expected = model(**batch).loss * labels
    expected.backward()
    gradients = {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}
    model.zero_grad()
    loss = answer_loss_sum(model, batch)
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for name, value in model.named_parameters():
        if name in gradients:
            torch.testing.assert_close(value.grad, gradients[name], rtol=1e-4, atol=1e-4)
        else:
            assert value.grad is None


@pytest.mark.parametrize("mode", ["lora", "full"])
def test_weights_that_did_not_move_are_measured_as_such(
    prepared: Prepared, tmp_path: Path, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    still, moving = (fine_tuning(prepared, mode, learning_rate=rate, epochs=1) for rate in (0.0, 2e-3))
    assert measure(still, tmp_path / "still")["weights_moved"] == 0
    assert "the weights did not move" in caplog.text
    caplog.clear()
    assert 1e-4 < measure(moving, tmp_path / "moving")["weights_moved"] < 1
    assert "did not move" not in caplog.text


def test_the_micro_batch_changes_nothing_and_neither_does_gradient_checkpointing(
    prepared: Prepared, tmp_path: Path
) -> None:
    # With the dropout that adapters have by default.
    table, weights = train_and_read(fine_tuning(prepared, micro_batch_size=4), tmp_path / "4")
    for micro_batch_size, checkpointing in ((1, False), (2, True)):
        run = fine_tuning(prepared, micro_batch_size=micro_batch_size)
        run = replace(run, execution=run.execution.model_copy(update={"gradient_checkpointing": checkpointing}))
        other_table, other_weights = train_and_read(run, tmp_path / str(micro_batch_size))
        for split in ("train", "validation"):
            assert losses_of(other_table, split) == pytest.approx(losses_of(table, split), rel=2e-6)
        for name, value in weights.items():
            torch.testing.assert_close(other_weights[name], value, rtol=0, atol=1e-5)


def test_the_validation_loss_is_the_mean_over_all_answer_tokens(prepared: Prepared, tmp_path: Path) -> None:
    # With a learning rate of zero the model stays the base model.
    table, _ = train_and_read(fine_tuning(prepared, micro_batch_size=2, learning_rate=0.0, epochs=1), tmp_path)
    model = load_model(BASE, "float32").eval()
    total = tokens = 0.0
    for sample in uneven_samples(prepared, "74"):
        batch = batch_of(prepared, [sample])
        labels = batch.pop("labels")
        with torch.no_grad():
            scores = model(**batch).logits[0].log_softmax(-1)
        for position in range(1, labels.shape[1]):
            if labels[0, position] != IGNORED_LABEL:
                total -= float(scores[position - 1, labels[0, position]])
                tokens += 1
    assert losses_of(table, "validation")[-1] == pytest.approx(total / tokens, rel=1e-5)


@pytest.mark.parametrize("merger", [True, False])
def test_full_leaves_what_is_frozen_bitwise_and_changes_the_rest(
    prepared: Prepared, tmp_path: Path, merger: bool
) -> None:
    _, weights = train_and_read(
        fine_tuning(prepared, "full", epochs=1, freeze={"vision": True, "merger": merger}), tmp_path
    )
    base = load_file(BASE / "model.safetensors")
    assert weights.keys() == base.keys()
    for name, value in base.items():
        is_merger = name.startswith(("model.visual.merger.", "model.visual.deepstack_merger_list."))
        frozen = merger if is_merger else name.startswith("model.visual.")
        assert torch.equal(weights[name], value) == frozen, name


@pytest.mark.parametrize("where", ["load_start", "answer_loss_sum", "save_weights"])
def test_memory_that_runs_out_anywhere_is_named(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def fail(*_: Any) -> Any:
        raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")

    monkeypatch.setattr(f"usertune.training.{'trainer' if where == 'answer_loss_sum' else 'finetune'}.{where}", fail)
    with pytest.raises(
        LackOfMemoryError, match=r"^out of memory with training\.micro_batch_size 4 \(CUDA error: CUBLAS_"
    ):
        train_and_read(fine_tuning(prepared, epochs=1), tmp_path)
    assert not (tmp_path / "weights").exists()


def _never_again(prepared: Prepared, tmp_path: Path, run: FineTuning) -> str:
    """Return the message of a training that stops because of numbers that are not finite."""
    with pytest.raises(FinalError) as stopped:
        train_and_read(run, tmp_path)
    assert not (tmp_path / "weights").exists()
    return str(stopped.value)


NO_WARM_UP = {"learning_rate": 1e30, "warmup_steps": 0}


@pytest.mark.parametrize(
    ("mode", "settings", "validated", "expected"),
    [
        # The first update makes weights of 1e30, so the next loss is nan.
        ("lora", {}, False, r"at step 2 of 6, .*: the loss is nan, the gradient norm nan \(samples: 1[12]-"),
        ("full", {"validate_every_steps": 1}, True, r"after step 1 of 6, .*: the validation loss is nan \(samples: 74"),
        # A single step, after which no loss is computed.
        ("lora", {"batch_size": 12, "epochs": 1}, False, r"after the last step of 1, .*the loss of training samples"),
    ],
    ids=["train", "validation", "last step"],
)
def test_a_loss_that_is_not_finite_ends_training_before_a_checkpoint_holds_it(
    prepared: Prepared, tmp_path: Path, mode: str, settings: dict[str, Any], validated: bool, expected: str
) -> None:
    run = fine_tuning(prepared, mode, **NO_WARM_UP, **settings)
    run = replace(run, validation_samples=run.validation_samples if validated else [])
    message = _never_again(prepared, tmp_path, run)
    assert re.match(rf"training stopped {expected}", message), message
    assert "lower training.learning_rate (it is 1e+30), or try a longer warm-up" in message
    assert newest_checkpoint(tmp_path / "work") is None


def test_the_samples_whose_loss_is_not_finite_are_named(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loss(model: Any, batch: Any, *rest: Any) -> torch.Tensor:
        return answer_loss_sum(model, batch, *rest) * (math.inf if 5 in batch[NUMBERS] else 1)

    monkeypatch.setattr("usertune.training.trainer.answer_loss_sum", loss)
    run = fine_tuning(prepared, micro_batch_size=1)
    message = _never_again(prepared, tmp_path, run)
    sample = run.train_samples[5]
    assert f"the loss is inf, the gradient norm nan (samples: {sample['id']} (user 11));" in message


def test_gradients_that_are_not_finite_end_training_though_the_loss_is(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare = prepare_for_training

    def with_a_hook(*arguments: Any) -> Any:
        model = prepare(*arguments)
        next(value for value in model.parameters() if value.requires_grad).register_hook(lambda grad: grad * math.inf)
        return model

    monkeypatch.setattr("usertune.training.finetune.prepare_for_training", with_a_hook)
    message = _never_again(prepared, tmp_path, fine_tuning(prepared, "full"))
    assert re.match(r"training stopped at step 1 of 6, .*: the loss is \d.*, the gradient norm (inf|nan) ", message)


def test_weights_that_are_not_finite_are_not_saved(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = StopOnSignal.on_step_end

    def on_step_end(self: Any, args: Any, state: Any, control: Any, model: Any, **rest: Any) -> Any:
        if state.global_step == 2:
            next(value for value in model.parameters() if value.requires_grad).data[0] = math.inf
            signal.raise_signal(signal.SIGTERM)
        return original(self, args, state, control, **rest)

    monkeypatch.setattr(StopOnSignal, "on_step_end", on_step_end)
    message = _never_again(prepared, tmp_path, fine_tuning(prepared))
    assert re.match(r"training stopped after step 2 of 6, .*: trained weights are not finite;", message)
    assert newest_checkpoint(tmp_path / "work") is None


# The validation loss falls, then rises.
FALLS_AND_RISES = {"learning_rate": 3e-2, "epochs": 4, "validate_every_steps": 2, "schedule": "constant_with_warmup"}


def _validation_loss(prepared: Prepared, adapter: Path) -> float:
    batch = batch_of(prepared, uneven_samples(prepared, "74"))
    with torch.no_grad():
        loss = answer_loss_sum(load_adapter(load_model(BASE, "float32"), adapter).eval(), batch)
    return float(loss) / int((batch["labels"] != IGNORED_LABEL).sum())


def test_the_best_weights_are_kept_also_after_a_resume_and_training_stops_early(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = measure(fine_tuning(prepared, **FALLS_AND_RISES), tmp_path / "last")
    losses = losses_of((tmp_path / "last/log.csv").read_text(), "validation")
    best = next(number for number in range(len(losses) - 1) if losses[number + 1] >= losses[number])
    assert 0 < best < len(losses) - 2, losses
    assert (last["kept_step"], last["kept_validation_loss"]) == (last["steps"], losses[-1])

    run = fine_tuning(prepared, keep="best", early_stopping=1, **FALLS_AND_RISES)
    found = measure(run, tmp_path / "best")
    assert found["kept_step"] == 2 * (best + 1)
    assert found["steps"] == 2 * (best + 2) < last["steps"]
    assert found["ended"] == "no lower validation loss in 1 validation"
    assert found["kept_validation_loss"] == losses[best]
    assert _validation_loss(prepared, tmp_path / "best/weights") == pytest.approx(losses[best], rel=1e-5)

    with monkeypatch.context() as patch:
        # After the best step, which no later validation changes.
        stop_after(found["kept_step"] + 1, patch)
        with pytest.raises(StopRequested):
            measure(run, tmp_path / "stopped")
    resumed = measure(run, tmp_path / "stopped")
    assert (resumed["attempts"], resumed["resumed_from_step"]) == (2, found["kept_step"] + 1)
    for key in ("kept_step", "kept_validation_loss", "steps", "ended", "weights_moved"):
        assert resumed[key] == found[key], key
    weights = (load_file(tmp_path / out / "weights/adapter_model.safetensors") for out in ("best", "stopped"))
    assert same_weights(*weights)
    assert (tmp_path / "stopped/log.csv").read_text() == (tmp_path / "best/log.csv").read_text()

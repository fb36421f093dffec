"""The loss, its weighting, and runs that are stopped and resumed."""

from __future__ import annotations

import csv
import math
import os
import re
import signal
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.support.calls import NO_LIMITS
from tests.unit.conftest import BASE, EXECUTION, TRAIN_STEP_BY_STEP, Prepared
from usertune.core.errors import FinalError, LackOfMemoryError, StopRequested, UserError
from usertune.core.files import read_json
from usertune.core.manifest import write_result
from usertune.models.conversation import IGNORED_LABEL, Collator, ConversationTokenizer
from usertune.models.qwen3_vl import load_adapter, load_model, load_processor, prepare_for_training
from usertune.runtime.step_main import EXIT_TRY_AGAIN
from usertune.training.batches import NUMBERS
from usertune.training.callbacks import CHECKPOINT_MARKER, StopOnSignal, newest_checkpoint
from usertune.training.effort import RECORD
from usertune.training.finetune import FineTuning, fine_tune
from usertune.training.recipe import Execution, TrainRecipe
from usertune.training.trainer import answer_loss_sum


def _uneven(prepared: Prepared, *users: str) -> Any:
    """Return samples with answers of very different lengths."""
    samples = prepared.samples(*users)
    for number, sample in enumerate(samples):
        sample["messages"][-1]["content"] = [{"type": "text", "text": "yes " * (1 + 9 * (number % 3))}]
    return samples


def _run(prepared: Prepared, mode: str = "lora", micro_batch_size: int = 4, **training: Any) -> FineTuning:
    return FineTuning(
        recipe=TrainRecipe.model_validate(prepared.train_recipe(mode, **training)),
        execution=Execution.model_validate({**EXECUTION, "micro_batch_size": micro_batch_size}),
        base_folder=BASE,
        dataset_root=prepared.root,
        train_samples=_uneven(prepared, "11", "12"),
        validation_samples=_uneven(prepared, "74"),
    )


def _train(run: FineTuning, out: Path) -> tuple[str, dict[str, torch.Tensor]]:
    """Train, and return the table of losses and the weights."""
    fine_tune(run, out / "work", out / "weights", out / "log.csv")
    (weights,) = (out / "weights").glob("*.safetensors")
    return (out / "log.csv").read_text(), load_file(weights)


def _losses(table: str, split: str) -> list[float]:
    return [float(row["loss"]) for row in csv.DictReader(table.splitlines()) if row["split"] == split]


def _batch(prepared: Prepared, samples: Any) -> dict[str, torch.Tensor]:
    conversations = ConversationTokenizer(load_processor(BASE, NO_LIMITS))
    pairs = [(sample, conversations.conversation(sample)) for sample in samples]
    return Collator(conversations, prepared.root).training_batch(pairs)


def _same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("count", [1, 3])
def test_loss_and_gradients_are_those_of_transformers(prepared: Prepared, count: int) -> None:
    batch = _batch(prepared, _uneven(prepared, "11")[:count])
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
    still, moving = (_run(prepared, mode, learning_rate=rate, epochs=1) for rate in (0.0, 2e-3))
    assert _measured(still, tmp_path / "still")["weights_moved"] == 0
    assert "the weights did not move" in caplog.text
    caplog.clear()
    assert 1e-4 < _measured(moving, tmp_path / "moving")["weights_moved"] < 1
    assert "did not move" not in caplog.text


def _measured(run: FineTuning, out: Path) -> dict[str, Any]:
    return fine_tune(run, out / "work", out / "weights", out / "log.csv")


def test_the_micro_batch_changes_nothing_and_neither_does_gradient_checkpointing(
    prepared: Prepared, tmp_path: Path
) -> None:
    # With the dropout that adapters have by default.
    table, weights = _train(_run(prepared, micro_batch_size=4), tmp_path / "4")
    for micro_batch_size, checkpointing in ((1, False), (2, True)):
        run = _run(prepared, micro_batch_size=micro_batch_size)
        run = replace(run, execution=run.execution.model_copy(update={"gradient_checkpointing": checkpointing}))
        other_table, other_weights = _train(run, tmp_path / str(micro_batch_size))
        for split in ("train", "validation"):
            assert _losses(other_table, split) == pytest.approx(_losses(table, split), rel=2e-6)
        for name, value in weights.items():
            torch.testing.assert_close(other_weights[name], value, rtol=0, atol=1e-5)


def test_the_validation_loss_is_the_mean_over_all_answer_tokens(prepared: Prepared, tmp_path: Path) -> None:
    # With a learning rate of zero the model stays the base model.
    table, _ = _train(_run(prepared, micro_batch_size=2, learning_rate=0.0, epochs=1), tmp_path)
    model = load_model(BASE, "float32").eval()
    total = tokens = 0.0
    for sample in _uneven(prepared, "74"):
        batch = _batch(prepared, [sample])
        labels = batch.pop("labels")
        with torch.no_grad():
            scores = model(**batch).logits[0].log_softmax(-1)
        for position in range(1, labels.shape[1]):
            if labels[0, position] != IGNORED_LABEL:
                total -= float(scores[position - 1, labels[0, position]])
                tokens += 1
    assert _losses(table, "validation")[-1] == pytest.approx(total / tokens, rel=1e-5)


@pytest.mark.parametrize("merger", [True, False])
def test_full_leaves_what_is_frozen_bitwise_and_changes_the_rest(
    prepared: Prepared, tmp_path: Path, merger: bool
) -> None:
    _, weights = _train(_run(prepared, "full", epochs=1, freeze={"vision": True, "merger": merger}), tmp_path)
    base = load_file(BASE / "model.safetensors")
    assert weights.keys() == base.keys()
    for name, value in base.items():
        is_merger = name.startswith(("model.visual.merger.", "model.visual.deepstack_merger_list."))
        frozen = merger if is_merger else name.startswith("model.visual.")
        assert torch.equal(weights[name], value) == frozen, name


def _stop_after(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send this process a real SIGTERM when that many steps are done."""
    original = StopOnSignal.on_step_end

    def on_step_end(self: StopOnSignal, args: Any, state: Any, control: Any, **rest: Any) -> Any:
        if state.global_step == steps:
            signal.raise_signal(signal.SIGTERM)
        return original(self, args, state, control, **rest)

    monkeypatch.setattr(StopOnSignal, "on_step_end", on_step_end)


@pytest.mark.parametrize("steps", [1, 4, 6])
def test_a_stopped_run_resumes_to_exactly_the_same_result(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    run = _run(prepared)
    undisturbed = _train(run, tmp_path / "undisturbed")
    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        _stop_after(steps, patch)
        with pytest.raises(StopRequested) as stopped:
            _train(run, tmp_path / "stopped")
    assert stopped.value.signal == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == before
    assert not (tmp_path / "stopped" / "weights").exists()
    assert newest_checkpoint(tmp_path / "stopped" / "work") == tmp_path / "stopped" / "work" / f"checkpoint-{steps}"
    table, weights = _train(run, tmp_path / "stopped")
    assert table == undisturbed[0]
    assert _same(weights, undisturbed[1])


@pytest.mark.parametrize("where", ["load_model", "answer_loss_sum", "_save_weights"])
def test_memory_that_runs_out_anywhere_is_named(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def fail(*_: Any) -> Any:
        raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")

    monkeypatch.setattr(f"usertune.training.{'trainer' if where == 'answer_loss_sum' else 'finetune'}.{where}", fail)
    with pytest.raises(
        LackOfMemoryError, match=r"^out of memory with training\.micro_batch_size 4 \(CUDA error: CUBLAS_"
    ):
        _train(_run(prepared, epochs=1), tmp_path)
    assert not (tmp_path / "weights").exists()


@pytest.mark.parametrize("mode", ["lora", "full"])
def test_a_checkpoint_of_other_weights_is_not_resumed_from(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    with monkeypatch.context() as patch:
        _stop_after(1, patch)
        with pytest.raises(StopRequested):
            _train(_run(prepared, mode), tmp_path)
    (file,) = (tmp_path / "work" / "checkpoint-1").glob("*model.safetensors")
    content = file.read_bytes()
    # As long as before: sizes are compared earlier.
    file.write_bytes(content.replace(b"language_model", b"language_modes"))
    with pytest.raises(UserError, match=r"checkpoint-1: .* missing .* unexpected .*language_modes.*starts again"):
        _train(_run(prepared, mode), tmp_path)
    file.write_bytes(content)
    _train(_run(prepared, mode), tmp_path)


def test_a_second_stop_signal_ends_at_once_and_is_no_interruption_by_a_person() -> None:
    stop = StopOnSignal()
    with stop:
        signal.raise_signal(signal.SIGUSR1)
        assert stop.signal == signal.SIGUSR1
        with pytest.raises(StopRequested) as stopped:
            signal.raise_signal(signal.SIGTERM)
    assert stopped.value.signal == signal.SIGTERM


def test_an_unfinished_or_damaged_checkpoint_is_removed_and_not_resumed_from(tmp_path: Path) -> None:
    for step in (2, 10, 12, 14, 16, 18):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "optimizer.pt").write_bytes(b"state")
        write_result(folder / CHECKPOINT_MARKER, {"step": step, "sizes": {"optimizer.pt": 5}})
    (tmp_path / "checkpoint-12" / CHECKPOINT_MARKER).unlink()
    os.truncate(tmp_path / "checkpoint-14" / CHECKPOINT_MARKER, 20)
    os.truncate(tmp_path / "checkpoint-16" / "optimizer.pt", 3)
    (tmp_path / "checkpoint-18" / "optimizer.pt").unlink()
    assert newest_checkpoint(tmp_path) == tmp_path / "checkpoint-10"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-2"]


def _never_again(prepared: Prepared, tmp_path: Path, run: FineTuning) -> str:
    """Return the message of a training that stops because of numbers that are not finite."""
    with pytest.raises(FinalError) as stopped:
        _train(run, tmp_path)
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
    run = _run(prepared, mode, **NO_WARM_UP, **settings)
    run = replace(run, validation_samples=run.validation_samples if validated else [])
    message = _never_again(prepared, tmp_path, run)
    assert re.match(rf"training stopped {expected}", message), message
    assert "lower training.learning_rate (it is 1e+30), or try a longer warm-up" in message
    assert newest_checkpoint(tmp_path / "work") is None


def test_the_samples_whose_loss_is_not_finite_are_named(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loss(model: Any, batch: Any) -> torch.Tensor:
        return answer_loss_sum(model, batch) * (math.inf if 5 in batch[NUMBERS] else 1)

    monkeypatch.setattr("usertune.training.trainer.answer_loss_sum", loss)
    run = _run(prepared, micro_batch_size=1)
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
    message = _never_again(prepared, tmp_path, _run(prepared, "full"))
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
    message = _never_again(prepared, tmp_path, _run(prepared))
    assert re.match(r"training stopped after step 2 of 6, .*: trained weights are not finite;", message)
    assert newest_checkpoint(tmp_path / "work") is None


def test_a_checkpoint_that_is_not_finite_is_not_resumed_from(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = _run(prepared)
    run = replace(run, execution=run.execution.model_copy(update={"save_every_steps": 2}))
    undisturbed = _train(run, tmp_path / "undisturbed")
    with monkeypatch.context() as patch:
        _stop_after(4, patch)
        with pytest.raises(StopRequested):
            _train(run, tmp_path / "run")
    weights = tmp_path / "run" / "work" / "checkpoint-4" / "adapter_model.safetensors"
    size = weights.stat().st_size
    save_file({name: value * math.nan for name, value in load_file(weights).items()}, weights, {"format": "pt"})
    assert weights.stat().st_size == size
    assert newest_checkpoint(tmp_path / "run/work") == tmp_path / "run" / "work" / "checkpoint-2"
    table, trained = _train(run, tmp_path / "run")
    assert table == undisturbed[0]
    assert _same(trained, undisturbed[1])


# The validation loss falls, then rises.
FALLS_AND_RISES = {"learning_rate": 3e-2, "epochs": 4, "validate_every_steps": 2, "schedule": "constant_with_warmup"}


def _validation_loss(prepared: Prepared, adapter: Path) -> float:
    batch = _batch(prepared, _uneven(prepared, "74"))
    with torch.no_grad():
        loss = answer_loss_sum(load_adapter(load_model(BASE, "float32"), adapter).eval(), batch)
    return float(loss) / int((batch["labels"] != IGNORED_LABEL).sum())


def test_the_best_weights_are_kept_also_after_a_resume_and_training_stops_early(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = _measured(_run(prepared, **FALLS_AND_RISES), tmp_path / "last")
    losses = _losses((tmp_path / "last/log.csv").read_text(), "validation")
    best = next(number for number in range(len(losses) - 1) if losses[number + 1] >= losses[number])
    assert 0 < best < len(losses) - 2, losses
    assert (last["kept_step"], last["kept_validation_loss"]) == (last["steps"], losses[-1])

    run = _run(prepared, keep="best", early_stopping=1, **FALLS_AND_RISES)
    found = _measured(run, tmp_path / "best")
    assert found["kept_step"] == 2 * (best + 1)
    assert found["steps"] == 2 * (best + 2) < last["steps"]
    assert found["ended"] == "no lower validation loss in 1 validation"
    assert found["kept_validation_loss"] == losses[best]
    assert _validation_loss(prepared, tmp_path / "best/weights") == pytest.approx(losses[best], rel=1e-5)

    with monkeypatch.context() as patch:
        # After the best step, which no later validation changes.
        _stop_after(found["kept_step"] + 1, patch)
        with pytest.raises(StopRequested):
            _measured(run, tmp_path / "stopped")
    resumed = _measured(run, tmp_path / "stopped")
    assert (resumed["attempts"], resumed["resumed_from_step"]) == (2, found["kept_step"] + 1)
    for key in ("kept_step", "kept_validation_loss", "steps", "ended", "weights_moved"):
        assert resumed[key] == found[key], key
    weights = (load_file(tmp_path / out / "weights/adapter_model.safetensors") for out in ("best", "stopped"))
    assert _same(*weights)
    assert (tmp_path / "stopped/log.csv").read_text() == (tmp_path / "best/log.csv").read_text()


def test_the_cost_is_that_of_all_attempts(prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = _run(prepared)
    run = replace(run, execution=run.execution.model_copy(update={"save_every_steps": 2}))
    undisturbed = _measured(run, tmp_path / "undisturbed")
    assert (undisturbed["attempts"], undisturbed["computed_steps"], undisturbed["computed_samples"]) == (1, 6, 24)

    def die(*_: Any) -> Any:
        raise RuntimeError("killed")

    # Killed in step 4; step 3 is lost too: the checkpoint is that of step 2.
    with monkeypatch.context() as patch:
        steps = iter([*[answer_loss_sum] * 3, die])
        patch.setattr("usertune.training.trainer.answer_loss_sum", lambda *arguments: next(steps)(*arguments))
        patch.setattr("usertune.training.effort.EVERY_SECONDS", 0.0)
        with pytest.raises(RuntimeError, match="killed"):
            _measured(run, tmp_path / "killed")
    first = read_json(tmp_path / "killed/work" / RECORD)["attempts"][0]
    assert (first["steps"], first["samples"]) == (3, 12)
    resumed = _measured(run, tmp_path / "killed")
    assert (resumed["attempts"], resumed["resumed_from_step"], resumed["steps"]) == (2, 2, 6)
    assert (resumed["computed_steps"], resumed["computed_samples"]) == (3 + 4, 4 * (3 + 4))
    assert resumed["computed_tokens"] > undisturbed["computed_tokens"]
    assert resumed["wall_seconds"] > first["wall_seconds"] > 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_stop_signal_to_a_training_process_leaves_a_checkpoint(
    number: int, prepared: Prepared, tmp_path: Path, run_python: Callable[..., subprocess.Popen[str]]
) -> None:
    process = run_python(TRAIN_STEP_BY_STEP, prepared.train_arguments(tmp_path))
    assert process.stdout is not None
    assert process.stdout.readline() == "1\n"
    process.send_signal(number)
    _, error = process.communicate("\n" * 9, timeout=60)
    assert process.returncode == EXIT_TRY_AGAIN, error
    assert len(list(tmp_path.glob(f"*/checkpoint-1/{CHECKPOINT_MARKER}"))) == 1
    assert not (tmp_path / "manifest.json").exists()

"""The micro-batch and recomputation that are chosen by the memory that activations need."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.fine_tuning import batch_of, fine_tuning, measure, same_weights, train_and_read
from tests.unit.conftest import BASE, Prepared
from usertune.models.loading import load_model, prepare_for_training
from usertune.training import fitting
from usertune.training.fitting import activation_bytes
from usertune.training.inputs import FineTuning
from usertune.training.processes import Processes
from usertune.training.trainer import answer_loss_sum

PLENTY = 100 << 30


def _auto(run: FineTuning, **execution: Any) -> FineTuning:
    wanted = {"micro_batch_size": "auto", "gradient_checkpointing": "auto", **execution}
    return replace(run, execution=run.execution.model_copy(update=wanted))


@pytest.mark.parametrize("mode", ["lora", "full"])
def test_the_bytes_are_those_that_the_graph_keeps_alive(prepared: Prepared, mode: str) -> None:
    batch = batch_of(prepared, prepared.samples("11")[:3])
    model = prepare_for_training(load_model(BASE, "float32"), fine_tuning(prepared, mode).recipe.weights)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    alive: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            alive[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = answer_loss_sum(model, batch)
    assert activation_bytes(model, batch, "float32") == pytest.approx(sum(alive.values()), rel=0.1)
    loss.backward()


def test_what_fits_is_chosen_and_remembered(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = fine_tuning(prepared, epochs=2, batch_size=12)
    for free, tokens, size, checkpointing in (
        (PLENTY, 10_000, 12, False),
        (PLENTY, 250, 2, False),
        (PLENTY, 10, 1, False),
        (10_000, 10_000, 1, True),
    ):
        monkeypatch.setattr(fitting, "_free", lambda free=free: free)
        monkeypatch.setitem(fitting.BUSY_TOKENS, "cpu", tokens)
        work = tmp_path / f"{free}-{tokens}"
        measured = measure(_auto(run), work)
        assert measured["micro_batch_size"] == size
        assert [way["gradient_checkpointing"] for way in measured["computed_with"]] == [checkpointing]
        assert json.loads((work / "work" / fitting.FILE).read_text()) == {
            "micro_batch_size": size,
            "gradient_checkpointing": checkpointing,
        }
    # As it began, whatever is free now.
    monkeypatch.setattr(fitting, "_free", lambda: PLENTY)
    assert measure(_auto(run), work)["micro_batch_size"] == 1
    for damaged in ("", "[]", "{}", '{"micro_batch_size": 5, "gradient_checkpointing": true}'):
        (work / "work" / fitting.FILE).write_text(damaged)
        assert measure(_auto(run), work)["micro_batch_size"] == 12, damaged


def test_numbers_of_the_study_stay_and_several_processes_are_not_probed(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "_free", lambda: PLENTY)
    run = fine_tuning(prepared, epochs=1, batch_size=8)
    measured = measure(_auto(run, micro_batch_size=2), tmp_path / "size")
    assert (measured["micro_batch_size"], measured["computed_with"][0]["gradient_checkpointing"]) == (2, False)
    measured = measure(_auto(run, gradient_checkpointing=True), tmp_path / "recomputed")
    assert (measured["micro_batch_size"], measured["computed_with"][0]["gradient_checkpointing"]) == (8, True)

    def not_called(*_: Any) -> Any:
        raise AssertionError

    several = replace(_auto(run), processes=Processes(nproc_per_node=2))
    chosen = fitting.fitted(several, tmp_path, torch.nn.Linear(1, 1), not_called, not_called, not_called)  # type: ignore[arg-type]
    assert (chosen.micro_batch_size, chosen.gradient_checkpointing) == (1, True)


def test_the_choice_changes_no_bit(prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "_free", lambda: PLENTY)
    # With the dropout that adapters have by default.
    run = fine_tuning(prepared, micro_batch_size=8, epochs=1, batch_size=8)
    assert same_weights(train_and_read(run, tmp_path / "8")[1], train_and_read(_auto(run), tmp_path / "auto")[1])

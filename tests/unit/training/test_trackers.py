"""Losses at trackers: the same as in the table of losses, one run for all attempts, and never a training that ends."""

from __future__ import annotations

import csv
import io
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
from tensorboardX.proto.event_pb2 import Event
from transformers.integrations import TensorBoardCallback
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from tests.support.fine_tuning import fine_tuning, same_weights, stop_after, train_and_read
from tests.unit.conftest import Prepared
from usertune.core.errors import StopRequested, UserError
from usertune.training.inputs import FineTuning
from usertune.training.summary_run import metrics_of, report_summary
from usertune.training.tracking import OF_SUMMARIES, PACKAGES, Tracking, environment_of

BOTH = ("tensorboard", "mlflow")
SUMMARY = "experiment,mode,users,accuracy,low\nvanilla,vanilla,2,0.25,\nlora,lora,2,0.5,0.125\n"


@pytest.fixture(scope="module")
def plain(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, torch.Tensor]]:
    """Losses and weights of the training without trackers."""
    return train_and_read(fine_tuning(prepared), tmp_path_factory.mktemp("plain"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of trackers."""
    for name in ("MLFLOW_TRACKING_URI", "TENSORBOARD_LOGGING_DIR"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "trackers").mkdir()
    return tmp_path / "trackers"


def reported(training: FineTuning, folder: Path, *trackers: str, run: str = "lora") -> FineTuning:
    tracking = Tracking(trackers=trackers, project="mine", run=run, folder=folder)
    return replace(training, execution=training.execution.model_copy(update={"tracking": tracking}))


def events(folder: Path) -> Iterator[tuple[str, int, float]]:
    """Yield (name, step, value) from the files of TensorBoard (records of TFRecord, in the order of writing)."""
    for path in sorted(folder.rglob("events.*"), key=lambda path: path.stat().st_mtime):
        content = path.read_bytes()
        position = 0
        while position < len(content):
            (length,) = struct.unpack("<Q", content[position : position + 8])
            event = Event.FromString(content[position + 12 : position + 12 + length])
            for value in event.summary.value:
                yield value.tag, event.step, value.simple_value
            position += 12 + length + 4


def losses(table: str, split: str) -> dict[int, float]:
    rows = csv.DictReader(io.StringIO(table))
    return {int(row["step"]): float(row["loss"]) for row in rows if row["split"] == split}


def runs(folder: Path, project: str = "mine") -> list[Any]:
    client = mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name(project)
    assert experiment is not None
    return client.search_runs([experiment.experiment_id])


def test_every_tracker_of_the_trainer_is_known() -> None:
    assert PACKAGES.keys() == INTEGRATION_TO_CALLBACK.keys()
    assert set(OF_SUMMARIES) < PACKAGES.keys()


def test_losses_of_all_attempts_are_one_run_and_the_training_is_the_same(
    prepared: Prepared,
    plain: tuple[str, dict[str, torch.Tensor]],
    tmp_path: Path,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        stop_after(3, patch)
        with pytest.raises(StopRequested):
            train_and_read(reported(fine_tuning(prepared), folder, *BOTH), tmp_path / "tracked")
    # A second attempt, with a smaller micro-batch as after a lack of memory.
    again = reported(fine_tuning(prepared), folder, *BOTH)
    again = replace(again, execution=again.execution.model_copy(update={"save_every_steps": 50}))
    table, weights = train_and_read(again, tmp_path / "tracked")
    assert table == plain[0]
    assert same_weights(weights, plain[1])

    shown = {(name, step): value for name, step, value in events(folder / "tensorboard/lora")}
    for split, name in (("train", "train/loss"), ("validation", "eval/loss")):
        expected = losses(table, split)
        assert {step: value for (found, step), value in shown.items() if found == name} == pytest.approx(expected)
    # Another training of this name, with a folder of its own, is another run.
    own = environment_of(again.execution.tracking, tmp_path / "0123456789abcdef")["TENSORBOARD_LOGGING_DIR"]
    assert own == f"{folder}/tensorboard/lora/01234567"
    assert [path.name for path in (folder / "tensorboard/lora").iterdir()] == ["work"]
    (run,) = runs(folder)
    assert (run.info.run_name, run.info.status) == ("lora", "FINISHED")
    client = mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db")
    history = {entry.step: entry.value for entry in client.get_metric_history(run.info.run_id, "loss")}
    assert history == pytest.approx(losses(table, "train"))

    # The summary is one run more, once for the same tables.
    tables = tmp_path / "tables"
    tables.mkdir()
    (tables / "summary.csv").write_text(SUMMARY)
    tracking = Tracking(trackers=BOTH, project="mine", run="summary of mine", folder=folder)
    assert report_summary(tracking, tables, "digest", {"study": "mine", "test_users": 2}) == list(BOTH)
    assert report_summary(tracking, tables, "digest", {"study": "mine", "test_users": 2}) == []
    expected_values = dict(metrics_of(tables))
    assert expected_values["lora/low"] == 0.125
    assert "vanilla/low" not in expected_values
    (summary,) = [run for run in runs(folder) if run.info.run_name == "summary of mine"]
    assert summary.data.metrics == expected_values
    assert summary.data.params["test_users"] == "2"
    shown_values = {name: value for name, _, value in events(folder / "tensorboard/summary of mine")}
    assert {name: shown_values[name] for name in expected_values} == expected_values


def test_trainings_of_one_process_are_runs_of_their_own_at_wandb(
    prepared: Prepared, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    for fold in ("1", "2"):
        train_and_read(reported(fine_tuning(prepared, epochs=1), folder, "wandb", run=fold), tmp_path / fold)
    identities = [path.stem for path in folder.rglob("*.wandb")]
    assert len(set(identities)) == len(identities) == 2


def test_a_tracker_that_stops_answering_does_not_end_the_training(
    prepared: Prepared,
    plain: tuple[str, dict[str, torch.Tensor]],
    tmp_path: Path,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(TensorBoardCallback, "on_log", fail)
    found = train_and_read(reported(fine_tuning(prepared), folder, "tensorboard"), tmp_path / "tracked")
    assert found[0] == plain[0]
    assert same_weights(found[1], plain[1])
    assert [r.getMessage() for r in caplog.records if "no longer reported" in r.getMessage()] == [
        "tensorboard does not answer; this training is no longer reported to it: no route to host"
    ]
    # One that cannot be used at all is a mistake in the study.
    monkeypatch.setattr(TensorBoardCallback, "on_train_begin", fail)
    with pytest.raises(UserError, match=r"tracking.trackers: tensorboard cannot be used \(no route to host\)"):
        train_and_read(reported(fine_tuning(prepared), folder, "tensorboard"), tmp_path / "refused")

"""Prediction jobs that answer for others on one loaded base model: the same answers, and nothing is asked twice."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.calls import NO_LIMITS, predict, train
from tests.unit.conftest import BASE, LORA, Prepared
from usertune.core.errors import StopRequested
from usertune.core.hashing import digest
from usertune.core.manifest import read_result, write_result
from usertune.inference.engine import EngineSettings
from usertune.inference.engines.transformers import TransformersEngine
from usertune.inference.other_jobs import OtherJob, Others, SharedBase
from usertune.inference.predict_job import PredictFiles, PredictJob
from usertune.inference.prediction_store import Prediction
from usertune.inference.questions import Question
from usertune.inference.recipe import PredictRecipe
from usertune.models.recipe import StartWeights

USERS = ("1",)
# The last one has another rank, so its layers are built again.
EXPERIMENTS: dict[str, dict[str, Any]] = {"a": {"seed": 1}, "b": {"seed": 2}, "c": {"lora": {**LORA, "rank": 8}}}
# What predictions say of their making, as opposed to what they are.
OF_THE_CALL = (
    "generated",
    "reused",
    "generation_seconds",
    "loading_seconds",
    "answer_seconds",
    "answered",
    "gpus_used",
)


@pytest.fixture(scope="module")
def trained(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a training of each experiment."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for name, training in EXPERIMENTS.items():
        recipe = prepared.train_recipe(epochs=1, learning_rate=1e-2, **training)
        train(**{**prepared.train_arguments(folder / name, recipe), "experiment": name})
    return folder


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """An entry for each time a model is loaded."""
    found: list[int] = []
    monkeypatch.setattr("usertune.runtime.job_record.count_model_load", lambda: found.append(1))
    return found


class Jobs:
    """The prediction jobs of the experiments, with a store of their own."""

    def __init__(self, prepared: Prepared, trained: Path, folder: Path) -> None:
        self.prepared, self.trained, self.folder = prepared, trained, folder

    def recipe(self, name: str) -> dict[str, Any]:
        own = self.prepared.predict_arguments(self.folder, USERS)["recipe"]
        return {**own, "upstream": {"train": digest(read_result(self.weights(name))["recipe"])}}

    def weights(self, name: str) -> Path:
        return self.trained / name / "manifest.json"

    def predictions(self, name: str) -> Path:
        return self.folder / name / "users_1.json"

    def other(self, name: str, **changes: Any) -> OtherJob:
        job = OtherJob(
            experiment=name,
            recipe=PredictRecipe.model_validate(self.recipe(name)),
            predictions=str(self.predictions(name)),
            weights=(str(self.weights(name)),),
            users=tuple(str(self.prepared.manifest(user)) for user in USERS),
        )
        return job.model_copy(update=changes)

    def run(self, name: str, others: Others | None = None) -> dict[str, Any]:
        arguments = {
            **self.prepared.predict_arguments(self.folder, USERS),
            "recipe": self.recipe(name),
            "experiment": name,
            "train_manifest": self.weights(name),
            "predictions_file": self.predictions(name),
        }
        return predict(**arguments, others=others)

    def job(self, name: str) -> PredictJob:
        arguments = self.prepared.predict_arguments(self.folder, USERS)
        files = PredictFiles(
            base_model=arguments["base_manifest"],
            weights=[self.weights(name)],
            users=arguments["user_manifests"],
            dataset_root=arguments["dataset_root"],
            store=arguments["store_folder"],
            predictions=self.predictions(name),
        )
        return PredictJob.read(name, PredictRecipe.model_validate(self.recipe(name)), files)

    def missing(self, name: str) -> int:
        job = self.job(name)
        return len(job.missing(job.stored()))


@pytest.fixture
def jobs(prepared: Prepared, trained: Path, tmp_path: Path) -> Jobs:
    return Jobs(prepared, trained, tmp_path)


def long_enough(*others: OtherJob) -> Others:
    return Others(others, 3600)


def test_one_load_answers_for_all_as_their_own_jobs_would(
    prepared: Prepared, trained: Path, tmp_path: Path, loads: list[int]
) -> None:
    separate = Jobs(prepared, trained, tmp_path / "separate")
    expected = {name: separate.run(name) for name in EXPERIMENTS}
    assert len(loads) == 3
    loads.clear()
    together = Jobs(prepared, trained, tmp_path / "together")
    found = {"a": together.run("a", long_enough(together.other("b"), together.other("c")))}
    found |= {name: together.run(name) for name in ("b", "c")}
    assert len(loads) == 1
    assert [found[name]["generated"] for name in EXPERIMENTS] == [5, 0, 0]
    # The predictions of another job are its own work, whoever asked.
    assert found["b"]["timed_answers"] == 5
    for name, own in expected.items():
        assert [row["text"] for row in own["predictions"]] == [row["text"] for row in found[name]["predictions"]]
        assert own["adapter_effect"]["probes"] == 4
        assert own["adapter_effect"].pop("merged")
        same = [{key: value for key, value in each.items() if key not in OF_THE_CALL} for each in (own, found[name])]
        assert same[0] == same[1]
    texts = {name: tuple(row["text"] for row in own["predictions"]) for name, own in found.items()}
    assert len(set(texts.values())) == 3, "the adapters answer differently"


@pytest.fixture
def dead(jobs: Jobs, tmp_path: Path) -> Path:
    """Weights of ``c`` that have no effect: a copy with ``lora_alpha`` 0."""
    copy = tmp_path / "dead"
    shutil.copytree(jobs.trained / "c", copy)
    (config,) = copy.rglob("weights/adapter_config.json")
    config.write_text(config.read_text().replace('"lora_alpha": 32', '"lora_alpha": 0'))
    return copy / "manifest.json"


def test_jobs_that_cannot_be_answered_here_are_left_to_themselves(jobs: Jobs, dead: Path, tmp_path: Path) -> None:
    of_another_run = jobs.recipe("b") | {"upstream": {"train": "0" * 64}}
    with_other_data = read_result(jobs.weights("b"))
    with_other_data["inputs"]["train"] = {"11": "0" * 64}
    write_result(tmp_path / "with_other_data.json", with_other_data)
    others = [
        jobs.other("b", weights=(str(tmp_path / "not_trained_yet.json"),)),
        jobs.other("b", recipe=PredictRecipe.model_validate(of_another_run)),
        jobs.other("b", weights=(str(tmp_path / "with_other_data.json"),)),
        jobs.other("b"),
        jobs.other("c", weights=(str(dead),)),
        jobs.other("c"),
    ]
    # Another process answers for it now; locks of one process exclude each other too.
    with jobs.job("b").alone():
        found = jobs.run("a", long_enough(*others))
    assert found["generated"] == 5
    assert (jobs.missing("b"), jobs.missing("c")) == (5, 0)
    assert jobs.run("b")["generated"] == 5


def test_nobody_is_answered_for_without_time_or_without_a_loaded_model(jobs: Jobs, loads: list[int]) -> None:
    shared = SharedBase(groups=((jobs.other("a"), jobs.other("b")), (jobs.other("c"),)))
    assert [job.experiment for job in Others.of(shared, jobs.predictions("a"), 1).jobs] == ["b"]
    assert Others.of(shared, jobs.predictions("c"), 1).jobs == []
    assert not Others.of(shared, jobs.predictions("a"), 0).jobs
    assert not Others.of(None, jobs.predictions("a"), 1).jobs
    jobs.run("a", Others([jobs.other("b")], seconds=0))
    assert jobs.missing("b") == 5
    jobs.run("a", long_enough(jobs.other("b")))
    assert jobs.missing("b") == 5
    assert len(loads) == 1


def test_a_job_that_ends_while_it_answers_for_another_has_its_own_predictions_and_asks_nothing_twice(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = TransformersEngine.answer

    def stopped(
        self: TransformersEngine, questions: Any, batch_size: int
    ) -> Iterator[list[tuple[Question, Prediction]]]:
        for number, batch in enumerate(original(self, questions, batch_size)):
            if number == 2 and "b" in str(self.settings.adapters[""].parents[1]):
                raise StopRequested(15)
            yield batch

    monkeypatch.setattr(TransformersEngine, "answer", stopped)
    with pytest.raises(StopRequested):
        jobs.run("a", long_enough(jobs.other("b")))
    assert len(read_result(jobs.predictions("a"))["predictions"]) == 5
    assert jobs.missing("b") == 1
    monkeypatch.undo()
    assert [jobs.run(name)["generated"] for name in ("a", "b")] == [0, 1]


def test_only_adapters_are_changed_and_nothing_else(prepared: Prepared, trained: Path) -> None:
    folder = trained / "a" / read_result(trained / "a" / "manifest.json")["weights_folder"]
    settings = EngineSettings(BASE, "lora", None, "float32", NO_LIMITS, prepared.root, 12, adapters={"": folder})
    engine = TransformersEngine(settings)
    start = StartWeights(mode="full", folder=BASE)
    for wrong in (
        replace(settings, max_new_tokens=13),
        replace(settings, mode="full"),
        replace(settings, start=start),
        replace(settings, adapters={}),
    ):
        with pytest.raises(ValueError, match="only adapters can be changed"):
            engine.change_weights(wrong)
    alone = TransformersEngine(replace(settings, adapters={}, weights_folder=folder))
    with pytest.raises(ValueError, match="only adapters can be changed"):
        alone.change_weights(settings)

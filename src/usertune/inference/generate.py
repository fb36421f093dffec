"""Generates the missing answers of a prediction job with an engine, and stores each batch at once.

Imports torch only when an engine that needs it is made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from usertune.core.step_names import PREDICT
from usertune.inference.engine import Engine, EngineSettings, SharingEngine
from usertune.inference.engines.catalogue import ENGINES, options_model
from usertune.inference.predict_job import PredictJob
from usertune.inference.questions import Question
from usertune.inference.stored_answers import plug_ins
from usertune.runtime.large_imports import large_imports
from usertune.runtime.progress import Progress
from usertune.runtime.provenance import current_provenance


@dataclass(frozen=True)
class Means:
    """What generation may use; it changes no answer.

    Attributes:
        batch_size: samples generated at once; halved when memory runs out. 0 generates none.
        gpus: GPUs to hold while generating; 0 generates on the CPU.
        engine: settings of the engine that are not part of the recipe.
    """

    batch_size: int
    gpus: int = 0
    engine: Mapping[str, Any] = field(default_factory=dict)


class Generation:
    """An engine that answers a job's questions and then, on the base model that it loaded, those of further jobs.

    Args:
        job: the job.
        questions: its questions to answer.
        means: what generation may use.
        for_others: whether further jobs may follow, see `turn_to`.

    Raises:
        UserError: the model cannot be loaded or reached.
    """

    def __init__(self, job: PredictJob, questions: Sequence[Question], means: Means, for_others: bool = False) -> None:
        self._means = means
        self._for_others = for_others
        # Imported here, after the GPU is chosen and only to generate.
        with large_imports():
            make_engine = ENGINES.load(job.recipe.engine)
        self.engine: Engine = make_engine(self._settings(job, questions))
        self._identity = self.engine.identity()

    def turn_to(self, job: PredictJob, questions: Sequence[Question]) -> None:
        """Answer for another job from now on, with the same engine, base model and settings but other adapters."""
        cast(SharingEngine, self.engine).change_weights(self._settings(job, questions))

    def answer(self, job: PredictJob, questions: Sequence[Question]) -> None:
        """Answer questions of the job, and store each batch at once.

        Args:
            job: the job of which questions were last announced.
            questions: these questions.

        Raises:
            UserError: trained weights change nothing, or a sample cannot be answered.
        """
        provenance = current_provenance(PREDICT, self._identity, plug_ins(job.recipe, job.models.base.manifest))
        job.stores.remember_effects(self.engine.effects(questions))
        progress = Progress(len(questions), "samples")
        writer = job.stores.writer(provenance)
        for batch in self.engine.answer(questions, self._means.batch_size):
            writer.append(batch)
            progress.advance(len(batch))

    def _settings(self, job: PredictJob, questions: Sequence[Question]) -> EngineSettings:
        recipe, models = job.recipe, job.models
        return EngineSettings(
            base_folder=models.base_folder,
            mode=models.mode,
            weights_folder=models.models[""].weights_folder if "" in models.models else None,
            dtype=recipe.dtype,
            pixels=recipe.pixels,
            dataset_root=job.files.dataset_root,
            max_new_tokens=recipe.max_new_tokens,
            thinking=recipe.thinking,
            adapters=self._adapters(job, questions),
            start=models.start_weights,
            options=options_model(recipe.engine).model_validate({**recipe.engine_settings, **self._means.engine}),
        )

    def _adapters(self, job: PredictJob, questions: Sequence[Question]) -> dict[str, Path]:
        """Return the folders of the weights that the questions name, by key.

        Empty if one model answers all, unless other adapters may take its place.
        """
        keys = dict.fromkeys(question.model for question in questions if question.model or self._for_others)
        folders = {key: job.models.models[key].weights_folder for key in keys}
        return {key: folder for key, folder in folders.items() if folder is not None}

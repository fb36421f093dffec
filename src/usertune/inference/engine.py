"""The interface of engines, which answer samples. Does not import torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

from usertune.core.hashing import canonical_json
from usertune.core.recipe import Settings
from usertune.inference.prediction_store import Prediction
from usertune.inference.questions import Question
from usertune.models.recipe import Pixels, StartWeights


class EngineOptions(Settings):
    """Settings of an engine in a study, next to ``kind``. An engine with settings has a model derived from this one."""

    WITHOUT_EFFECT: ClassVar[frozenset[str]] = frozenset()
    """Names of settings that change no answer, such as a timeout. They are not part of the recipe."""

    def problem(self, mode: str, start: str | None = None) -> str | None:
        """Say why the engine cannot answer for experiments of a mode, and what to do; None if it can.

        Args:
            mode: mode of the experiment, such as "lora".
            start: mode of the experiment whose weights its own start from; None for the base model.
        """
        return None

    def server(self) -> str | None:
        """Return what names the server that the engine asks; None if it asks none. One job at a time asks a server."""
        return None

    def deciding(self) -> dict[str, Any]:
        """Return the settings that decide what an answer is, for the recipe; defaults are left out."""
        return self.model_dump(mode="json", exclude_defaults=True, exclude=set(self.WITHOUT_EFFECT))

    def execution(self) -> str:
        """Return the other settings as JSON, for the job."""
        return canonical_json(self.model_dump(mode="json", exclude_defaults=True, include=set(self.WITHOUT_EFFECT)))


DEFAULTS = EngineOptions()


@dataclass(frozen=True)
class EngineSettings:
    """Model and settings of an engine.

    Args:
        base_folder: the base model's folder.
        mode: "vanilla", "lora" or "full".
        weights_folder: folder of the trained weights that answer all questions; None for vanilla.
        dtype: "float32" or "bfloat16".
        pixels: minimum and maximum number of pixels of an image.
        dataset_root: folder to which image paths are relative.
        max_new_tokens: maximum length of an answer, in tokens.
        thinking: the study's ``base_model.thinking``.
        options: the engine's own settings.
        adapters: key -> folder of the trained weights, if each question names its model: adapters, or with mode "full"
            complete models. There may be hundreds.
        start: trained weights that the others are put on; None for the base model.
    """

    base_folder: Path
    mode: str
    weights_folder: Path | None
    dtype: str
    pixels: Pixels
    dataset_root: Path
    max_new_tokens: int
    thinking: bool | None = None
    options: EngineOptions = DEFAULTS
    adapters: Mapping[str, Path] = field(default_factory=dict)
    start: StartWeights | None = None


class Engine(Protocol):
    """Answers samples with one model. It is created only if there are samples to answer, and may then load the model.

    Its module also has two constants, which planning reads without importing the module: ``NEEDS_GPU``, True if its
    prediction jobs need a GPU, and ``SETTINGS``, the name of the class of its settings (`EngineOptions`) in the module;
    None if it has none. A module without settings may import torch; one with settings is imported to check a study, so
    it imports torch and the like where they are used.

    A third constant, ``SHARES_BASE = True``, says that it is a `SharingEngine`.
    """

    def __init__(self, settings: EngineSettings) -> None:
        """Prepare to answer.

        Raises:
            UserError: the model cannot be loaded or reached.
        """

    def identity(self) -> str:
        """Return the name of the GPU, "cpu", or the name of a server, for the provenance of the answers."""

    def gpus(self) -> list[str]:
        """Return the UUIDs of this machine's GPUs that it uses; empty for none."""

    def effects(self, questions: Sequence[Question]) -> Mapping[str, Mapping[str, Any]]:
        """Measure on a few samples how much trained weights change the output of the base model.

        Returns:
            For each model of the questions, ``probes`` (number of samples) and ``largest_change`` (of an answer token's
            log-probability); without a model that has no trained weights, or for which it cannot be measured.

        Raises:
            UserError: the weights change nothing.
        """

    def answer(self, questions: Sequence[Question], batch_size: int) -> Iterator[list[tuple[Question, Prediction]]]:
        """Answer every question once, in any order, and yield answers as soon as they are ready.

        The caller stores yielded answers at once; a killed job loses the others. Answers are greedy: the same request
        gives the same answer of the same model. Every prediction has text, new_tokens and stopped, and batch_size,
        seconds and at if known.

        Args:
            questions: what to answer; the last turn of each sample is the expected answer, which the model does not
                see.
            batch_size: number of samples to answer at once.

        Raises:
            UserError: a sample cannot be answered.
        """


class SharingEngine(Engine, Protocol):
    """An engine that can answer with other adapters on the base model that it loaded."""

    def change_weights(self, settings: EngineSettings) -> None:
        """Answer with other adapters from now on.

        Args:
            settings: those of the engine but for ``adapters``, which name all weights, and ``weights_folder``.

        Raises:
            ValueError: other settings differ, or the engine holds weights that cannot be replaced.
        """

"""What an engine is to prediction: it answers samples. Knows nothing of torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from usertune.data.samples import Sample
from usertune.inference.prediction_store import Prediction
from usertune.models.recipe import Pixels


@dataclass(frozen=True)
class EngineSettings:
    """What an engine answers with.

    Args:
        base_folder: the base model's folder.
        mode: "vanilla", "lora" or "full".
        weights_folder: what training saved; None for vanilla.
        dtype: "float32" or "bfloat16".
        pixels: fewest and most pixels of an image.
        dataset_root: folder that the paths of images are relative to.
        max_new_tokens: longest answer, in tokens.
        thinking: the study's ``base_model.thinking``.
    """

    base_folder: Path
    mode: str
    weights_folder: Path | None
    dtype: str
    pixels: Pixels
    dataset_root: Path
    max_new_tokens: int
    thinking: bool | None = None


class Engine(Protocol):
    """Answers samples with one model. It is made when there are samples to answer, and may then load the model.

    Its module also has the constant ``NEEDS_GPU``: True if its prediction jobs are to hold a GPU. Planning reads it
    without importing the module, so that it may import torch.
    """

    def __init__(self, settings: EngineSettings) -> None:
        """Make ready to answer.

        Raises:
            UserError: the model cannot be loaded or reached.
        """

    def identity(self) -> str:
        """Return what answers, for the provenance of the answers: the name of the GPU, "cpu", or a server's name."""

    def gpus(self) -> list[str]:
        """Return the UUIDs of the GPUs of this machine that it computes on; empty for none."""

    def effect(self, samples: Sequence[Sample]) -> dict[str, Any] | None:
        """Show on a few samples that trained weights change what the base model says.

        Returns:
            ``probes`` (samples) and ``largest_change`` (of an answer token's log-probability); None where there are no
            trained weights, or where this cannot be measured.

        Raises:
            UserError: the weights change nothing.
        """

    def answer(self, samples: Sequence[Sample], batch_size: int) -> Iterator[list[tuple[Sample, Prediction]]]:
        """Answer every sample once, in any order, and yield answers as soon as they are there.

        What is yielded is stored at once; a killed job loses the rest. Answers are greedy: the same for the same
        request. Every prediction has text, new_tokens and stopped; batch_size, seconds and at where they are known.

        Args:
            samples: what to answer; the last turn of each is the expected answer, which the model does not see.
            batch_size: samples to answer at once.

        Raises:
            UserError: a sample cannot be answered.
        """

"""Questions: samples, each with the model that is to answer it. Does not import torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from usertune.data.samples import Sample, request_digest


@dataclass(frozen=True, eq=False)
class Question:
    """One sample for one model.

    Attributes:
        sample: the sample; its last turn is the expected answer, which the model does not see.
        model: key of the model in `usertune.inference.models_in_use.ModelsInUse`; empty if one model answers all.
    """

    sample: Sample
    model: str = ""

    @cached_property
    def request(self) -> str:
        """Digest of what the model sees, see `usertune.data.samples.request_digest`."""
        return request_digest(self.sample)

    @property
    def user(self) -> str:
        """The user whose sample it is."""
        return self.sample["user"]


def questions_of(samples: Iterable[Sample], model: str = "") -> list[Question]:
    """Return a question for each sample, all for one model."""
    return [Question(sample, model) for sample in samples]

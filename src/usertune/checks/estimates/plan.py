"""Whether a training fits into memory, and the smallest change of its settings with which it does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from usertune.checks.estimates.memory import MicroBatch, Parts, Setup, training_memory
from usertune.checks.estimates.samples import Lengths
from usertune.models.model_shape import ModelShape
from usertune.models.recipe import FreezeSettings, LoraSettings
from usertune.training.micro_batch import smaller

# Estimates and measured peaks can differ by a quarter (docs/memory.md). A training that needs more than COMFORTABLE of
# the memory gets a warning, and one that needs more than REFUSED is refused.
COMFORTABLE, REFUSED = 0.9, 1.25
FEWEST_IMAGE_TOKENS = 256
MOST_GPUS = 8

Verdict = Literal["fits", "tight", "too large", "unknown"]


@dataclass(frozen=True)
class Plan:
    """The settings of a training that determine its memory.

    Attributes:
        weights: what is trained; ``lora`` are the settings that mode lora would have.
        dtype: the study's ``base_model.dtype``.
        batch_size: samples of an optimizer step.
        micro_batch_size: samples in memory at once, in each process.
        checkpointing: whether activations are recomputed.
        processes: number of processes.
        strategy: what each of them holds.
        device: gpu or cpu.
        lora: settings of adapters, to suggest.
    """

    weights: LoraSettings | FreezeSettings
    dtype: Literal["bfloat16", "float32"]
    batch_size: int
    micro_batch_size: int
    checkpointing: bool
    processes: int
    strategy: Literal["ddp", "fsdp"]
    device: Literal["gpu", "cpu"]
    lora: LoraSettings

    @property
    def setup(self) -> Setup:
        """What the memory formulas take."""
        return Setup(
            weights=self.weights,
            dtype=self.dtype,
            checkpointing=self.checkpointing,
            accumulation=self.batch_size // (self.micro_batch_size * self.processes),
            processes=self.processes,
            strategy=self.strategy,
            device=self.device,
        )

    def batch(self, lengths: Lengths) -> MicroBatch:
        """Return the largest micro-batch."""
        return lengths.largest_batch(self.micro_batch_size)

    def memory(self, shape: ModelShape, lengths: Lengths) -> Parts:
        """Return part -> bytes in each process."""
        return training_memory(shape, self.setup, self.batch(lengths))


@dataclass(frozen=True)
class Change:
    """A change of settings: as keys of the study, the plan, and the most pixels of an image, if they change."""

    words: str
    plan: Plan
    most_pixels: int | None = None

    def need(self, shape: ModelShape, lengths: Lengths) -> int:
        """Return the bytes that each process needs with this change."""
        if self.most_pixels is not None:
            shape = replace(shape, image=replace(shape.image, most=self.most_pixels))
            lengths = lengths.resized(shape)
        return sum(self.plan.memory(shape, lengths).values())


def verdict(need: int, available: int | None) -> Verdict:
    """Return whether a need fits into the available bytes; None if these are unknown."""
    if available is None:
        return "unknown"
    if need > REFUSED * available:
        return "too large"
    return "fits" if need <= COMFORTABLE * available else "tight"


def smallest_change(plan: Plan, shape: ModelShape, lengths: Lengths, available: int) -> Change | None:
    """Return the first change, from small to large, with which the training fits; None if there is none."""
    changes = _changes(plan, shape)
    return next((one for one in changes if one.need(shape, lengths) <= COMFORTABLE * available), None)


def _changes(plan: Plan, shape: ModelShape) -> Iterator[Change]:
    """Yield changes, those that only cost time first."""
    yield from _smaller_batches(plan, "")
    frugal, words = plan, ""
    if not plan.checkpointing:
        frugal, words = replace(plan, checkpointing=True), "gradient_checkpointing: true"
        yield Change(words, frugal)
        yield from _smaller_batches(frugal, words)
    if frugal.micro_batch_size > 1:
        frugal, words = replace(frugal, micro_batch_size=1), _joined(words, "micro_batch_size: 1")
    most = shape.image.most // 2
    while most >= max(FEWEST_IMAGE_TOKENS * shape.image.side**2, 2 * shape.image.fewest):
        yield Change(_joined(words, f"base_model.max_pixels: {most}"), frugal, most)
        most //= 2
    if isinstance(plan.weights, FreezeSettings):
        yield Change("mode: lora", replace(plan, weights=plan.lora, strategy="ddp"))
        yield Change(_joined("mode: lora", words), replace(frugal, weights=plan.lora, strategy="ddp"))
        yield from _more_gpus(plan, "")
        yield from _more_gpus(frugal, words)


def _smaller_batches(plan: Plan, words: str) -> Iterator[Change]:
    size, share = plan.micro_batch_size, plan.batch_size // plan.processes
    while size > 1:
        size = smaller(size, share)
        yield Change(_joined(words, f"micro_batch_size: {size}"), replace(plan, micro_batch_size=size))


def _more_gpus(plan: Plan, words: str) -> Iterator[Change]:
    gpus = 2 * plan.processes
    while plan.device == "gpu" and gpus <= MOST_GPUS and plan.batch_size % (gpus * plan.micro_batch_size) == 0:
        yield Change(_joined(words, f"gpus: {gpus}, parallel: fsdp"), replace(plan, processes=gpus, strategy="fsdp"))
        gpus *= 2


def _joined(*words: str) -> str:
    return ", ".join(filter(None, words))

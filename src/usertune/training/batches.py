"""Micro-batches of optimizer steps. The samples of a step do not depend on the number of processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.utils.data import BatchSampler, Dataset

from usertune.data.samples import Sample
from usertune.models.conversation import TokenizedConversation

TokenizedSample = tuple[Sample, TokenizedConversation]
# The last is the sample's number.
Row = tuple[Sample, TokenizedConversation, int]

DUMMY = -1
NUMBERS = "sample_numbers"


def numbered_batch(
    collate: Callable[[Sequence[TokenizedSample]], dict[str, torch.Tensor]], rows: Sequence[Row]
) -> dict[str, torch.Tensor]:
    """Return the batch that ``collate`` makes of the rows, with the samples' numbers (`NUMBERS`, no model input)."""
    batch = collate([(sample, tokens) for sample, tokens, _ in rows])
    return {**batch, NUMBERS: torch.tensor([number for *_, number in rows])}


class Samples(Dataset[Row]):
    """Tokenized samples by number; `DUMMY` gives a dummy sample, which has no answer tokens."""

    def __init__(self, samples: Sequence[TokenizedSample]) -> None:
        self.samples = samples
        self.has_image = [bool(sample["images"]) for sample, _ in samples]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, number: int) -> Row:
        sample, tokens = self._dummy() if number == DUMMY else self.samples[number]
        return sample, tokens, number

    def _dummy(self) -> TokenizedSample:
        with_image = [pair for pair, image in zip(self.samples, self.has_image, strict=True) if image]
        sample, tokens = min(with_image or self.samples, key=lambda pair: len(pair[1].input_ids))
        return sample, TokenizedConversation(tokens.input_ids, [False] * len(tokens.input_ids))


def longest_samples(
    samples: Samples, collate: Callable[[Sequence[Row]], dict[str, torch.Tensor]], count: int
) -> dict[str, torch.Tensor]:
    """Return a batch of that many samples, or of all, those with the most tokens."""
    order = sorted(range(len(samples)), key=lambda number: len(samples[number][1].input_ids), reverse=True)
    return collate([samples[number] for number in order[:count]])


@dataclass(frozen=True)
class Share:
    """Rank of a process, and the world size."""

    rank: int = 0
    processes: int = 1


class StepBatches(BatchSampler):
    """The micro-batches of one process. The order of samples does not depend on the number of processes.

    Each optimizer step takes the next ``per_step`` samples of the order; the last step of an epoch takes the rest. A
    process takes every ``processes``-th of them. All processes get equally many micro-batches: a process without
    samples left gets a dummy sample. All processes must run the same modules in each pass (FSDP gathers weights, DDP
    gradients), so if any sample has an image and there are several processes, every micro-batch contains an image, if
    necessary that of a dummy sample.

    Args:
        samples: the samples.
        per_step: samples of one optimizer step, over all processes.
        micro_batch_size: samples in memory at once, in each process.
        share: which process this is.
        seed: seed of the order, which differs in each epoch; None keeps the order of the samples.
    """

    def __init__(self, samples: Samples, per_step: int, micro_batch_size: int, share: Share, seed: int | None) -> None:
        self.samples = samples
        self.per_step = per_step
        self.batch_size = micro_batch_size
        self.drop_last = False
        self.share = share
        self.seed = seed
        self.epoch = 0
        self.needs_image = share.processes > 1 and any(samples.has_image)

    def set_epoch(self, epoch: int) -> None:
        """Use the order of this epoch from the next iteration on."""
        self.epoch = epoch

    def __len__(self) -> int:
        full, left = divmod(len(self.samples), self.per_step)
        return full * self._passes(self.per_step) + self._passes(left)

    def __iter__(self) -> Iterator[list[int]]:
        order = self._order()
        for start in range(0, len(order), self.per_step):
            step = order[start : start + self.per_step]
            own = step[self.share.rank :: self.share.processes]
            for number in range(self._passes(len(step))):
                batch = own[number * self.batch_size : (number + 1) * self.batch_size] or [DUMMY]
                if self.needs_image and DUMMY not in batch and not any(self.samples.has_image[one] for one in batch):
                    batch.append(DUMMY)
                yield batch

    def _passes(self, samples: int) -> int:
        return -(-samples // (self.batch_size * self.share.processes))

    def _order(self) -> list[int]:
        if self.seed is None:
            return list(range(len(self.samples)))
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        order: list[int] = torch.randperm(len(self.samples), generator=generator).tolist()
        return order

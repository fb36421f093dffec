"""How long the samples of a study are in tokens, from the prepared samples or a few raw ones; nothing is decoded."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from usertune.checks.estimates.memory import MicroBatch
from usertune.core.errors import UserError
from usertune.core.manifest import read_manifest
from usertune.data.samples import Sample
from usertune.models.model_shape import ModelShape
from usertune.models.token_rate import tokens_per_byte

# <|im_start|>, the role, a newline, <|im_end|>, a newline; <|vision_start|> and <|vision_end|>.
TURN_TOKENS, AROUND_IMAGE = 5, 2
# Texts from which the rate of tokens is measured.
TEXTS_MEASURED = 50
PERCENTILES = (5, 50, 95, 100)
# What is assumed of a sample that is not prepared yet: its image is as large as the limit allows.
ASSUMED_TEXT, ASSUMED_ANSWER = 150, 50


@dataclass(frozen=True)
class SampleSize:
    """Sizes of one sample: images in pixels (width, height), texts in bytes."""

    images: tuple[tuple[int, int], ...]
    turns: int
    text: int
    answers: int


@dataclass(frozen=True)
class Unprepared:
    """Samples of users who are not prepared yet.

    Attributes:
        count: the greatest possible number of them.
        samples: those that were looked at, in the form of prepared ones.
        bad: number of those that were looked at and cannot be used.
    """

    count: int = 0
    samples: tuple[Sample, ...] = ()
    bad: int = 0


@dataclass(frozen=True)
class Lengths:
    """Lengths of the samples of some users, in tokens.

    Attributes:
        samples: number of samples of these users.
        sizes: the samples that were looked at.
        image_tokens: visual tokens of each of them.
        tokens: all tokens of each of them.
        answers: tokens with a label of each of them.
        rate: tokens a byte of text.
        by_tokenizer: whether the model's tokenizer gave the rate.
        source: the prepared samples; texts of raw samples and headers of their images; or neither, so that the lengths
            are an upper bound.
        bad: number of raw samples that were looked at and cannot be used.
    """

    samples: int
    sizes: tuple[SampleSize, ...]
    image_tokens: tuple[int, ...]
    tokens: tuple[int, ...]
    answers: tuple[int, ...]
    rate: float
    by_tokenizer: bool
    source: Literal["prepared", "headers", "assumed"] = "prepared"
    bad: int = 0

    @property
    def assumed(self) -> bool:
        """Whether no sample was looked at."""
        return self.source == "assumed"

    def percentiles(self) -> tuple[int, ...]:
        """Return the 5th, 50th and 95th percentile and the maximum of all tokens of a sample (nearest rank)."""
        ordered = sorted(self.tokens)
        return tuple(ordered[max(0, math.ceil(share / 100 * len(ordered)) - 1)] for share in PERCENTILES)

    @property
    def total(self) -> int:
        """Tokens of all samples together."""
        return round(self.samples * sum(self.tokens) / len(self.tokens))

    def largest_batch(self, samples: int, prompt_only: bool = False) -> MicroBatch:
        """Return the largest micro-batch of this many samples: every row is as long as the longest sample.

        Labels of samples of different lengths are at different positions, and the logits of a position are computed for
        the whole micro-batch.
        """
        longest, shortest = max(self.tokens), min(self.tokens)
        answer = max(self.answers)
        positions = min(longest, answer + (longest - shortest) * (samples > 1))
        mean = sum(self.image_tokens) / len(self.image_tokens)
        return MicroBatch(
            samples=samples,
            tokens=longest - (answer if prompt_only else 0),
            image_tokens=max(self.image_tokens) + math.ceil((samples - 1) * mean),
            answer_positions=positions,
            padded=samples > 1 and longest != shortest,
        )

    def with_history(self, shape: ModelShape, samples: int, images: bool) -> Lengths:
        """Return the lengths with the longest samples before each sample in its prompt, so at most what is needed.

        Args:
            shape: the base model.
            samples: number of samples before each.
            images: whether they have their images.
        """
        if self.assumed:
            (image,), (tokens,) = self.image_tokens, self.tokens
            more = samples * image if images else 0
            text = tokens - image
            return replace(self, image_tokens=(image + more,), tokens=(tokens + more + samples * text,))
        by_length = sorted(zip(self.tokens, self.sizes, strict=True), key=lambda one: -one[0])
        history = [size for _, size in by_length[:samples]]
        sizes = tuple(
            SampleSize(
                images=(*(image for one in history if images for image in one.images), *size.images),
                turns=size.turns + sum(one.turns for one in history),
                text=size.text + sum(one.text for one in history),
                answers=size.answers,
            )
            for size in self.sizes
        )
        counted = _counted(shape, self.samples, sizes, self.rate, self.by_tokenizer)
        return replace(counted, source=self.source, bad=self.bad)

    def resized(self, shape: ModelShape) -> Lengths:
        """Return the lengths with the pixel limits of another shape."""
        if self.assumed:
            return assumed_lengths(shape, self.samples)
        counted = _counted(shape, self.samples, self.sizes, self.rate, self.by_tokenizer)
        return replace(counted, source=self.source, bad=self.bad)


def read_lengths(shape: ModelShape, base: Path, manifests: Sequence[Path], limit: int, others: Unprepared) -> Lengths:
    """Return the lengths of the samples of some users: of prepared ones if there are any, else of raw ones.

    Args:
        shape: the base model.
        base: its folder, for the tokenizer.
        manifests: the manifest of each user, which may be missing; its samples are beside it.
        limit: most samples to read, evenly over the users; the first ones of each.
        others: samples of users without a manifest.
    """
    share = max(1, limit // max(1, len(manifests)))
    count, sizes, texts = 0, [], []
    for manifest in manifests:
        try:
            count += int(read_manifest(manifest)["samples"])
            rows = list(_first_samples(manifest, share))
        except (UserError, OSError, ValueError, KeyError, TypeError):
            continue
        texts += [_text(sample, None) for sample in rows[:1]]
        sizes += [_size(sample) for sample in rows]
    if sizes:
        rate, asked = tokens_per_byte(base, texts[:TEXTS_MEASURED])
        return _counted(shape, count + others.count, tuple(sizes), rate, asked)
    if others.samples:
        every = -(-len(others.samples) // TEXTS_MEASURED)
        rate, asked = tokens_per_byte(base, [_text(sample, None) for sample in others.samples[::every]])
        lengths = _counted(shape, others.count, tuple(map(_size, others.samples)), rate, asked)
        return replace(lengths, source="headers", bad=others.bad)
    return assumed_lengths(shape, others.count)


def assumed_lengths(shape: ModelShape, samples: int) -> Lengths:
    """Return lengths for samples that are not prepared: one image as large as the limit allows, and a short text."""
    image = shape.image.most // shape.image.side**2
    tokens = image + ASSUMED_TEXT + ASSUMED_ANSWER
    return Lengths(samples, (), (image,), (tokens,), (ASSUMED_ANSWER,), 0.0, False, source="assumed")


def _first_samples(manifest: Path, count: int) -> Iterator[Sample]:
    samples = manifest.with_name(manifest.name.removesuffix(".manifest.json") + ".jsonl")
    with samples.open(encoding="utf-8") as lines:
        for _, line in zip(range(count), lines, strict=False):
            yield json.loads(line)


def _text(sample: Sample, role: str | None) -> str:
    turns = [turn for turn in sample["messages"] if role in (None, turn["role"])]
    return "".join(part.get("text", "") for turn in turns for part in turn["content"])


def _size(sample: Sample) -> SampleSize:
    return SampleSize(
        images=tuple((image["width"], image["height"]) for image in sample["images"]),
        turns=len(sample["messages"]),
        text=len(_text(sample, None).encode("utf-8", "replace")),
        answers=len(_text(sample, "assistant").encode("utf-8", "replace")),
    )


def _counted(
    shape: ModelShape, samples: int, sizes: tuple[SampleSize, ...], rate: float, by_tokenizer: bool
) -> Lengths:
    images = [[shape.image_tokens(*image) for image in size.images] for size in sizes]
    texts = [math.ceil(rate * size.text) + TURN_TOKENS * size.turns for size in sizes]
    around = [AROUND_IMAGE * len(size.images) for size in sizes]
    return Lengths(
        samples=samples,
        sizes=sizes,
        image_tokens=tuple(map(sum, images)),
        tokens=tuple(sum(own) + extra + text for own, extra, text in zip(images, around, texts, strict=True)),
        # An answer ends with <|im_end|> and a newline.
        answers=tuple(math.ceil(rate * size.answers) + 2 for size in sizes),
        rate=rate,
        by_tokenizer=by_tokenizer,
    )

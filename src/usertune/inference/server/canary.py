"""Checks that a server answers with the adapters that it is asked for, before an answer counts.

An adapter can be loaded without an error and have no effect; the server's answers would then be those of its base
model. The log-probabilities of a few samples' tokens must differ between base model and adapter, and between adapters,
and agree with those of the same models in this process.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

from usertune.core.errors import UserError
from usertune.data.samples import Sample
from usertune.inference.server.chat import ChatMessages
from usertune.inference.server.client import Server

if TYPE_CHECKING:
    from openai import AsyncOpenAI

logger = logging.getLogger(__name__)

PROBES = 4
# How far a log-probability of an answer's token may be from that in this process, natural logarithm. A server has other
# kernels and batches; in bfloat16, each activation is rounded to 8 bits.
BOUNDS = {"float32": 1e-2, "bfloat16": 0.5}
# The same request twice can differ by the rounding of other batches; an effect must be this much larger.
ABOVE_NOISE = 10.0
SMALLEST_EFFECT = 1e-6
NO_LOG_PROBABILITIES = (
    "the server gives no log-probabilities of a prompt (prompt_logprobs), so nothing shows that it uses an adapter and "
    "does not answer as its base model; use a server that does (vLLM), or engine: transformers"
)


@dataclass(frozen=True)
class Scored:
    """What a model at a server says of one conversation: token ids, and the log-probability of each after the first."""

    ids: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class Canary:
    """The log-probabilities of probe samples at a server.

    Attributes:
        base: of the base model, by sample.
        noise: largest difference between two requests to the base model.
        adapters: name of the adapter -> by sample.
    """

    base: Sequence[Scored]
    noise: float
    adapters: Mapping[str, Sequence[Scored]]

    @property
    def smallest_effect(self) -> float:
        """Changes up to this may be noise."""
        return max(SMALLEST_EFFECT, ABOVE_NOISE * self.noise)


def ask_probes(server: Server, messages: ChatMessages, samples: Sequence[Sample], names: Sequence[str]) -> Canary:
    """Ask a server for log-probabilities of its base model (twice) and of adapters.

    Args:
        server: the server.
        messages: turns samples into messages.
        samples: the probes.
        names: names of the adapters.

    Raises:
        UserError: it has no such adapter, gives no log-probabilities, or they are not finite.
    """
    base = server.options.model
    asked = [(model, number, sample) for model in (base, base, *names) for number, sample in enumerate(samples)]
    # By position, since the base model is asked twice.
    positions = list(enumerate(asked))

    async def ask(client: AsyncOpenAI, item: tuple[int, tuple[str, int, Sample]]) -> Scored:
        _, (model, _, sample) = item
        try:
            completion = await server.chat(
                client,
                f"probe {sample['id']!r} of user {sample['user']} with {model}",
                model=model,
                messages=messages.conversation(sample),
                # vLLM's own parameters (its openai/chat_completion/protocol.py). The last turn is left open,
                # so that the prompt ends with the expected answer.
                add_generation_prompt=False,
                continue_final_message=True,
                prompt_logprobs=1,
                return_token_ids=True,
                max_tokens=1,
                temperature=0,
            )
        except UserError as error:
            # Some servers refuse parameters that they do not know, others ignore them.
            raise UserError(f"{error}; {NO_LOG_PROBABILITIES}" if "prompt_logprobs" in str(error) else error) from None
        return scored(completion.body)

    found = {item[0]: result for batch in server.each(positions, ask) for item, result in batch}
    rows = [[found[start + number] for number in range(len(samples))] for start in range(0, len(asked), len(samples))]
    first, second, *others = rows
    return Canary(first, _largest(first, second), dict(zip(names, others, strict=True)))


def scored(body: Mapping[str, Any]) -> Scored:
    """Return the tokens of a prompt with their log-probabilities, from the body of a response.

    Raises:
        UserError: there are none.
    """
    positions = body.get("prompt_logprobs")
    if not isinstance(positions, list) or len(positions) < 2:
        raise UserError(NO_LOG_PROBABILITIES)
    ids = body.get("prompt_token_ids")
    try:
        # The first token has none. Without ids, the token of the prompt is the first of a position.
        tokens = [int(token) for token in ids] if ids else [0, *(int(next(iter(entry))) for entry in positions[1:])]
        values = [float(entry[str(token)]["logprob"]) for entry, token in zip(positions[1:], tokens[1:], strict=True)]
    except (KeyError, TypeError, ValueError, StopIteration):
        raise UserError(NO_LOG_PROBABILITIES) from None
    return Scored(tuple(tokens), tuple(values))


def check_effect(canary: Canary, labels: Mapping[str, str], is_zero: Callable[[str], bool]) -> dict[str, float]:
    """Check that each adapter changes the base model, and each in its own way. For an adapter of zeros, warn.

    Args:
        canary: what the server said.
        labels: name -> what the adapter is called in messages.
        is_zero: whether an adapter is still all zero, by name.

    Returns:
        Name -> largest change of a log-probability.

    Raises:
        UserError: an adapter changes nothing, two change the same, or an output is not finite.
    """
    changes = {name: _largest(canary.base, own) for name, own in canary.adapters.items()}
    zero = set()
    for name, change in changes.items():
        if not math.isfinite(change):
            raise UserError(f"{labels[name]}: with this adapter, the server's output is not finite")
        if change <= canary.smallest_effect and is_zero(name):
            logger.warning(
                "%s: the adapter is still all zero, so its answers are those of the base model", labels[name]
            )
            zero.add(name)
        elif change <= canary.smallest_effect:
            raise UserError(
                f"{labels[name]}: the server lists it as {name}, but answers as its base model: no log-probability of "
                f"{len(canary.base)} samples changes by more than {canary.smallest_effect:.1g}. It did not apply the "
                "adapter (does it run with --enable-lora, and does its log name ignored modules?); its answers are "
                "not used"
            )
    for one, other in combinations([name for name in canary.adapters if name not in zero], 2):
        if _largest(canary.adapters[one], canary.adapters[other]) <= canary.smallest_effect:
            raise UserError(
                f"{labels[one]} and {labels[other]}: the server answers with the same model for both ({one}, {other}); "
                "its answers are not used"
            )
    return changes


def _largest(one: Sequence[Scored], other: Sequence[Scored]) -> float:
    """Return the largest difference of a log-probability; infinite if the tokens differ."""
    largest = 0.0
    for first, second in zip(one, other, strict=True):
        if first.ids != second.ids:
            return math.inf
        largest = max(largest, *(abs(a - b) for a, b in zip(first.values, second.values, strict=True)))
    return largest

"""The same models in this process, to compare a server's log-probabilities and answers with."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers.utils import logging as transformers_logging

from usertune.core.errors import UserError, shown
from usertune.data.samples import Sample
from usertune.inference.effect import answer_log_probabilities
from usertune.inference.engine import EngineSettings
from usertune.inference.greedy import GREEDY
from usertune.inference.server.adapters import WEIGHTS
from usertune.inference.server.canary import BOUNDS, Canary, Scored
from usertune.models.conversation import IGNORED_LABEL, Collator, ConversationTokenizer
from usertune.models.families.catalogue import family_of
from usertune.models.loading import load_processor, on_device
from usertune.models.one_at_a_time import OneAtATime

logger = logging.getLogger(__name__)

# How many answers are compared.
ANSWERS = 4


@dataclass(frozen=True)
class Agreement:
    """How far a server is from this process.

    Attributes:
        base: largest difference of a log-probability of the base model, natural logarithm.
        adapters: name -> that of the adapter.
        answers: (name, number of the probe) -> answer of the adapter here.
    """

    base: float
    adapters: Mapping[str, float]
    answers: Mapping[tuple[str, int], str]


def is_zero(folder: Path) -> bool:
    """Whether an adapter is as it was before training: all its B matrices are zero."""
    tensors = load_file(folder / WEIGHTS)
    return not any(bool(tensor.any()) for name, tensor in tensors.items() if ".lora_B." in name)


class Reference:
    """Base model and adapters in this process.

    Args:
        settings: settings of the engine.
        folders: name of an adapter -> its folder.
    """

    def __init__(self, settings: EngineSettings, folders: Mapping[str, Path]) -> None:
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()
        self._settings = settings
        self._models = OneAtATime(settings.base_folder, settings.start, "lora", folders, settings.dtype)
        processor = load_processor(settings.base_folder, settings.pixels)
        self._conversations = ConversationTokenizer(processor, family_of(settings.base_folder), settings.thinking)
        self._collator = Collator(self._conversations, settings.dataset_root)

    def compare(self, canary: Canary, samples: Sequence[Sample]) -> Agreement:
        """Compare what a server said with the models here.

        Raises:
            UserError: its prompts have other tokens, or a log-probability of an answer's token is too far away.
        """
        batches = [self._batch(sample) for sample in samples]
        base, found, answers = 0.0, dict[str, float](), dict[tuple[str, int], str]()
        for count, (name, said) in enumerate(canary.adapters.items()):
            model: Any = self._models.use(name)
            if not found:
                with model.disable_adapter():
                    base = self._distance(model, batches, canary.base, samples)
                self._check("the base model", base)
            found[name] = self._distance(model, batches, said, samples)
            self._check(name, found[name])
            for number in range(len(samples)):
                if number % len(canary.adapters) == count and len(answers) < ANSWERS:
                    answers[name, number] = self._answer(model, samples[number])
        return Agreement(base, found, answers)

    def _check(self, name: str, distance: float) -> None:
        bound = BOUNDS[self._settings.dtype]
        if not distance <= bound:
            raise UserError(
                f"{name}: the server does not say what the same model says here: a log-probability of an answer's "
                f"token differs by {distance:.3g}, more than {bound:g} ({self._settings.dtype}). Does it have the same "
                "base model and number format? Its answers are not used"
            )

    def _batch(self, sample: Sample) -> dict[str, torch.Tensor]:
        return on_device(self._collator.single(sample))

    def _distance(
        self,
        model: Any,
        batches: Sequence[Mapping[str, torch.Tensor]],
        said: Sequence[Scored],
        samples: Sequence[Sample],
    ) -> float:
        """Return the largest difference of a log-probability of the last answer's tokens."""
        largest = 0.0
        for batch, scored, sample in zip(batches, said, samples, strict=True):
            begin = len(self._conversations.prompt(sample))
            own = answer_log_probabilities(model, batch).tolist()
            labels = batch["labels"][0]
            ids, answer = batch["input_ids"][0].tolist(), (labels != IGNORED_LABEL).nonzero().squeeze(1).tolist()
            here = dict(zip(answer, own, strict=True))
            # The server's prompt ends before the token that ends the answer's turn.
            end = len(scored.ids)
            if tuple(ids[:end]) != scored.ids:
                raise UserError(self._other_tokens(ids, scored.ids, sample))
            compared = [position for position in here if begin <= position < end]
            largest = max(largest, *(abs(here[position] - scored.values[position - 1]) for position in compared))
        return largest

    def _other_tokens(self, ids: Sequence[int], said: Sequence[int], sample: Sample) -> str:
        decode = self._conversations.tokenizer.decode
        at = next((number for number, pair in enumerate(zip(ids, said, strict=False)) if pair[0] != pair[1]), len(ids))
        return (
            f"sample {sample['id']!r} of user {sample['user']}: the server's prompt has other tokens than the same one "
            f"here: {len(said)}, not {len(ids)}, and from token {at} on {shown(decode(list(said[at : at + 8])))}, not "
            f"{shown(decode(list(ids[at : at + 8])))}. Does it have the base model's chat template, and the same "
            "limits of pixels?"
        )

    @torch.inference_mode()
    def _answer(self, model: Any, sample: Sample) -> str:
        prompt = self._conversations.prompt(sample)
        batch = on_device(self._collator.prompt_batch([sample], [prompt]))
        tokenizer = self._conversations.tokenizer
        output = model.generate(
            **batch,
            **GREEDY,
            max_new_tokens=self._settings.max_new_tokens,
            eos_token_id=[self._conversations.end_of_turn_id, tokenizer.eos_token_id],
            pad_token_id=self._conversations.padding_id,
        )
        text: str = tokenizer.decode(output[0, len(prompt) :], skip_special_tokens=True)
        return text

"""Greedy answers of a model loaded in this process, in left-padded batches."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import GenerationConfig
from transformers.utils import GENERATION_CONFIG_NAME
from transformers.utils import logging as transformers_logging

from usertune.core.clock import utc_now
from usertune.core.errors import UserError
from usertune.data.samples import Sample
from usertune.inference.effect import PROBES, adapter_effect, full_effect
from usertune.inference.engine import EngineSettings
from usertune.inference.greedy import GREEDY
from usertune.inference.prediction_store import Prediction
from usertune.inference.questions import Question
from usertune.inference.roomy_cache import roomy_cache
from usertune.models.chat_template import THINKING_BEGINS
from usertune.models.conversation import Collator, ConversationTokenizer
from usertune.models.families.catalogue import family_of
from usertune.models.image_memory import Grid, ImageMemory, auto_bytes
from usertune.models.loading import device_name, load_for_prediction, load_processor, on_device, used_gpus
from usertune.models.one_at_a_time import OneAtATime
from usertune.runtime.energy import EnergyMeter
from usertune.runtime.memory import lack_named, ran_out

logger = logging.getLogger(__name__)

NEEDS_GPU = True
SETTINGS = None
SHARES_BASE = True

# Tokens at the end of a prompt that are enough to contain the opening of a thought.
THOUGHT_TOKENS = 20


def _by_model(questions: Sequence[Question]) -> dict[str, list[Question]]:
    found: dict[str, list[Question]] = {}
    for question in questions:
        found.setdefault(question.model, []).append(question)
    return found


def _memory_for_loading() -> AbstractContextManager[None]:
    return lack_named("out of memory while loading the model", "use a machine or a GPU with more memory")


class Batch(NamedTuple):
    """A batch to answer: its samples, their prompts, and the inputs as from `Collator.prompt_batch`."""

    samples: Sequence[Sample]
    prompts: Sequence[list[int]]
    inputs: Mapping[str, Any]


class TransformersEngine:
    """Answers samples with a model in this process, see `usertune.inference.engine.Engine`."""

    def __init__(self, settings: EngineSettings) -> None:
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()
        self.settings = settings
        base_folder, mode, weights_folder = settings.base_folder, settings.mode, settings.weights_folder
        processor = load_processor(base_folder, settings.pixels)
        self.conversations = ConversationTokenizer(processor, family_of(base_folder), settings.thinking)
        self.collator = Collator(self.conversations, settings.dataset_root)
        self.models: OneAtATime | None = None
        with _memory_for_loading():
            if settings.adapters:
                self.models = OneAtATime(base_folder, settings.start, mode, settings.adapters, settings.dtype)
                self.model: Any = self.models.use(next(iter(settings.adapters)))
            else:
                self.model = load_for_prediction(base_folder, mode, weights_folder, settings.dtype, settings.start)
        self.end_ids = self._end_ids()
        self.images: ImageMemory | None = None
        self.keeps_images = False

    def change_weights(self, settings: EngineSettings) -> None:
        """Answer with other adapters on the same base model, see `SharingEngine.change_weights`."""
        before, after = (replace(each, adapters={}, weights_folder=None) for each in (self.settings, settings))
        if self.models is None or settings.mode != "lora" or not settings.adapters or before != after:
            raise ValueError("only adapters can be changed, on the same base model and with the same settings")
        self.settings, self.model = settings, None
        self.models.offer(settings.adapters)

    def identity(self) -> str:
        """Return the name of the GPU, or "cpu"."""
        return device_name()

    def gpus(self) -> list[str]:
        """Return the UUIDs of the GPUs that hold the model; empty on the CPU."""
        return used_gpus()

    def effects(self, questions: Sequence[Question]) -> dict[str, dict[str, Any]]:
        """Measure on a few samples how much the trained weights change the output of the base model.

        Returns:
            For an adapter, ``probes`` (number of samples), ``largest_change`` (of an answer token's
            log-probability), and ``merged`` if answers come from the sum of base model and adapter. For a full model,
            the result of `full_effect`, which needs no samples. Nothing for the base model.

        Raises:
            UserError: an adapter is not zero and changes nothing, its output is not finite, or memory runs out.
        """
        found = {}
        for key, own in _by_model(questions).items():
            folder = self.settings.adapters.get(key, self.settings.weights_folder)
            if folder is None:
                continue
            if self.settings.mode == "full":
                effect = full_effect(self._start_folder(), folder)
            else:
                probes = own[: 1 if key else PROBES]
                effect = self._adapter_effect(key, [question.sample for question in probes], folder)
            if effect is not None:
                found[key] = {**effect, **({"merged": True} if self._merges() else {})}
        return found

    def _start_folder(self) -> Path:
        """Return the complete model that training started from."""
        start = self.settings.start
        return start.folder if start is not None and start.mode == "full" else self.settings.base_folder

    def _adapter_effect(self, key: str, samples: Sequence[Sample], folder: Path) -> dict[str, Any]:
        self._use(key)
        advice = "lower base_model.max_pixels or use a GPU with more memory"
        with lack_named("out of memory while testing the adapter on a sample", advice):
            return adapter_effect(self.model, [self._probe(sample) for sample in samples], folder)

    def _use(self, key: str) -> None:
        """Answer with the model with this key from now on."""
        if self.models is not None:
            # The engine must not keep the last model in memory while the next one is loaded.
            self.model = None
            if self.settings.mode == "full":
                # Each complete model has a vision tower of its own.
                self.images = None
            with _memory_for_loading():
                self.model = self.models.use(key)

    def _merges(self) -> bool:
        """Whether answers come from the sum of base model and adapter, which is faster.

        In bfloat16 the sum would round the adapter away; and several adapters need the base model as it was.
        """
        return self.settings.mode == "lora" and self.models is None and self.settings.dtype == "float32"

    def _probe(self, sample: Sample) -> dict[str, torch.Tensor]:
        return on_device(self.collator.single(sample))

    def _end_ids(self) -> list[int]:
        """Return the tokens that end an answer: those of the base model, and the end of turn used in training."""
        own = self.model.generation_config.eos_token_id
        if (self.settings.base_folder / GENERATION_CONFIG_NAME).exists():
            own = GenerationConfig.from_pretrained(str(self.settings.base_folder), local_files_only=True).eos_token_id
        listed = [own] if isinstance(own, int) else list(own or ())
        ends = {self.conversations.end_of_turn_id, self.conversations.tokenizer.eos_token_id, *listed}
        return sorted(end for end in ends if end is not None)

    def answer(self, questions: Sequence[Question], batch_size: int) -> Iterator[list[tuple[Question, Prediction]]]:
        """Answer questions, one model after another, and yield each batch as soon as it is done.

        The questions of each model come in the order of their prompts, the longest first, so that memory, if it runs
        out, runs out at the start; the batch size is then halved. The time of a batch is divided equally among its
        answers; attempts that ran out of memory and the loading of weights do not count.

        Raises:
            UserError: memory runs out with a single sample.
        """
        if self._merges() and hasattr(self.model, "merge_and_unload"):
            self.model = self.model.merge_and_unload(safe_merge=True)
        for key, own in _by_model(questions).items():
            self._use(key)
            for batch in self._answer_with_one(own, batch_size):
                # A size that fits one model fits the others.
                batch_size = min(batch_size, batch[0][1].batch_size or batch_size)
                yield batch

    def _answer_with_one(
        self, questions: Sequence[Question], batch_size: int
    ) -> Iterator[list[tuple[Question, Prediction]]]:
        prompts = {question: self.conversations.prompt(question.sample) for question in questions}
        waiting = sorted(questions, key=lambda question: len(prompts[question]), reverse=True)
        images = self._memory_of_images(questions)
        prepare = partial(self._batch, prompts, images.grids)
        with ThreadPoolExecutor(1, "images") as opener:
            # The images of a batch are opened while the batch before it is generated.
            ahead = opener.submit(prepare, waiting[:batch_size])
            while waiting:
                batch, rest = waiting[:batch_size], waiting[batch_size:]
                started, meter = time.monotonic(), EnergyMeter(self.gpus())
                prepared = ahead.result()
                ahead = opener.submit(prepare, rest[:batch_size])
                try:
                    predictions = self._answer_batch(prepared, images)
                except Exception as error:
                    if not ran_out(error):
                        raise
                    if len(batch) == 1:
                        name = batch[0].sample["id"]
                        raise UserError(
                            f"sample {name} ({len(prompts[batch[0]])} tokens) does not fit into memory alone; "
                            "lower base_model.max_pixels or use a GPU with more memory"
                        ) from None
                    batch_size = (len(batch) + 1) // 2
                    logger.warning("out of memory; continuing with %d samples at once", batch_size)
                    ahead = opener.submit(prepare, waiting[:batch_size])
                else:
                    waiting = rest
                    seconds, now = round((time.monotonic() - started) / len(batch), 4), utc_now()
                    energy = meter.joules()
                    joules = None if energy is None else round(energy / len(batch), 3)
                    measured = {"batch_size": batch_size, "seconds": seconds, "at": now, "joules": joules}
                    timed = [replace(prediction, **measured) for prediction in predictions]
                    yield list(zip(batch, timed, strict=True))
                    continue
                # Outside the except block, since the error keeps the failed batch's tensors alive.
                gc.collect()
                torch.cuda.empty_cache()

    def _memory_of_images(self, questions: Sequence[Question]) -> ImageMemory:
        """Return the memory for the images of these questions, which other models of this engine may see too."""
        names = [image["sha256"] for question in questions for image in question.sample["images"]]
        self.keeps_images = bool(self.settings.adapters) or len(set(names)) < len(names)
        if self.images is None:
            family = self.conversations.family
            adapted = (name for name, _ in self.model.named_parameters() if "lora_" in name)
            is_shared = not any(family.vision_part(name) for name in adapted)
            self.images = ImageMemory(family, self.model, auto_bytes(), features=is_shared)
        return self.images

    def _batch(
        self, prompts: Mapping[Question, list[int]], kept: Mapping[str, Grid], questions: Sequence[Question]
    ) -> Batch:
        """Open the images of a batch, except those that are kept."""
        samples, own = [question.sample for question in questions], [prompts[question] for question in questions]
        return Batch(samples, own, self.collator.prompt_batch(samples, own, kept) if samples else {})

    @torch.inference_mode()
    def _answer_batch(self, prepared: Batch, images: ImageMemory) -> list[Prediction]:
        batch = images.complete(self.model, on_device(prepared.inputs), self.keeps_images)
        output = self.model.generate(
            **batch,
            **GREEDY,
            past_key_values=roomy_cache(self.model),
            max_new_tokens=self.settings.max_new_tokens,
            eos_token_id=self.end_ids,
            pad_token_id=self.conversations.padding_id,
        )
        rows = output[:, batch["input_ids"].shape[1] :].tolist()
        return [self._prediction(row, prompt) for row, prompt in zip(rows, prepared.prompts, strict=True)]

    def _prediction(self, ids: list[int], prompt: list[int]) -> Prediction:
        # Everything after the first end token is padding, which may itself be an end token.
        length = next((position for position, token in enumerate(ids) if token in self.end_ids), len(ids))
        stopped = length < len(ids)
        answer = ids[:length]
        text = self.conversations.tokenizer.decode(answer, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        # If the prompt opens a thought, add the opening: without it, a thought that was cut off would look like an
        # answer.
        if self.conversations.tokenizer.decode(prompt[-THOUGHT_TOKENS:]).rstrip().endswith(THINKING_BEGINS):
            text = f"{THINKING_BEGINS}\n{text}"
        return Prediction(text, new_tokens=len(answer) + stopped, stopped=stopped)

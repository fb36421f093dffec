"""Answers of a server with OpenAI's chat API: OpenAI's own, vLLM, SGLang, transformers serve and the like."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from usertune.core.clock import utc_now
from usertune.core.errors import UserError
from usertune.inference.engine import EngineSettings
from usertune.inference.prediction_store import Prediction
from usertune.inference.questions import Question
from usertune.inference.server.options import ServerOptions as ServerOptions

if TYPE_CHECKING:
    from openai import AsyncOpenAI

    from usertune.data.samples import Sample
    from usertune.inference.server.adapters import ServedAdapter
    from usertune.inference.server.client import Completion
    from usertune.inference.server.reference import Agreement

logger = logging.getLogger(__name__)

NEEDS_GPU = False
SETTINGS = "ServerOptions"


class OpenAIEngine:
    """Asks a server, see `usertune.inference.engine.Engine`."""

    def __init__(self, settings: EngineSettings) -> None:
        # Planning imports this module, and has no use for the client library.
        from usertune.inference.server.chat import ChatMessages
        from usertune.inference.server.client import Server
        from usertune.models.families.catalogue import family_of
        from usertune.models.model_shape import image_limits

        options = settings.options
        assert isinstance(options, ServerOptions)
        self.settings, self.options = settings, options
        limits = image_limits(settings.base_folder, settings.pixels) if options.resize else None
        self.messages = ChatMessages(settings.dataset_root, family_of(settings.base_folder), limits)
        self.server = Server(options)
        self.facts = self.server.one(self.server.facts)
        self.adapters = self._adapters()

    def _adapters(self) -> dict[str, ServedAdapter]:
        """Return key of a model -> its adapter.

        Raises:
            UserError: the server does not have an adapter, or could not apply it.
        """
        from usertune.inference.server.adapters import served_adapter
        from usertune.models.families.catalogue import family_of

        own = self.settings.weights_folder
        folders = dict(self.settings.adapters) if own is None else {"": own, **self.settings.adapters}
        family = family_of(self.settings.base_folder)
        found = {key: served_adapter(folder, family) for key, folder in folders.items()}
        known = self.facts.models
        for key, adapter in found.items():
            if known is not None and adapter.name not in known:
                whose = f"model {key}" if key else "all users"
                raise UserError(
                    f"{adapter.folder}: {self.server.url} does not have this adapter, {adapter.name} (of {whose}); its "
                    f"models: {', '.join(known[:20]) or 'none'}. Start the server with the command that usertune serve "
                    "prints; an adapter that was trained again has another name"
                )
        return found

    def identity(self) -> str:
        """Return the model and its server, as the server describes itself."""
        about = f" ({self.facts.version})" if self.facts.version else ""
        return f"{self.options.model} at {self.server.url}{about}"

    def gpus(self) -> list[str]:
        """Return no GPU of this machine."""
        return []

    def effects(self, questions: Sequence[Question]) -> dict[str, dict[str, Any]]:
        """Check that the server applies the adapters; see `usertune.inference.server.canary`.

        Returns:
            For each model with an adapter: ``probes`` (number of samples), ``largest_change`` (of a token's
            log-probability, by the adapter), and, if the models are loaded here, ``disagreement`` (largest difference
            of an answer token's log-probability between server and this process), ``bound`` (which it is below) and
            ``identical_answers`` (how many of how many answers are the same).

        Raises:
            UserError: it does not, or it does not say.
        """
        used = {
            question.model: self.adapters[question.model] for question in questions if question.model in self.adapters
        }
        if not used:
            return {}
        from usertune.inference.server.canary import BOUNDS, PROBES, ask_probes, check_effect

        samples = [question.sample for question in questions[:PROBES]]
        folders = {adapter.name: adapter.folder for adapter in used.values()}
        canary = ask_probes(self.server, self.messages, samples, list(folders))
        changes = check_effect(canary, {name: str(folder) for name, folder in folders.items()}, self._is_zero)
        more: dict[str, Any] = {}
        distances: Mapping[str, float] = {}
        if self.options.canary == "transformers":
            from usertune.inference.server.reference import Reference

            agreement = Reference(self.settings, folders).compare(canary, samples)
            distances = agreement.adapters
            more = {"bound": BOUNDS[self.settings.dtype], "identical_answers": self._identical(agreement, samples)}
        logger.info(
            "%s: %d adapters change log-probabilities by %.3g or more on %d samples%s",
            self.server.url, len(changes), min(changes.values()), len(samples),
            f"; the same models here differ by {max(distances.values()):.3g} at most, and give "
            f"{more['identical_answers'][0]} of {more['identical_answers'][1]} answers alike" if distances else "",
        )  # fmt: skip
        return {
            key: {
                "probes": len(samples),
                "largest_change": changes[adapter.name],
                **({"disagreement": distances[adapter.name], **more} if distances else {}),
            }
            for key, adapter in used.items()
        }

    def _is_zero(self, name: str) -> bool:
        from usertune.inference.server.reference import is_zero

        return is_zero(next(adapter.folder for adapter in self.adapters.values() if adapter.name == name))

    def _identical(self, agreement: Agreement, samples: Sequence[Sample]) -> list[int]:
        """Return how many answers of the server are those of the models here, and how many were compared."""

        async def ask(client: AsyncOpenAI, item: tuple[str, int]) -> str:
            return (await self._request(client, samples[item[1]], item[0])).text

        said = [pair for batch in self.server.each(list(agreement.answers), ask) for pair in batch]
        same = sum(text.strip() == agreement.answers[item].strip() for item, text in said)
        return [same, len(said)]

    def answer(self, questions: Sequence[Question], batch_size: int) -> Iterator[list[tuple[Question, Prediction]]]:
        """Ask each question, and yield answers as they arrive.

        Time between arrivals is divided equally among what arrived, so times sum to the wall time.

        Raises:
            UserError: the server refuses a sample, or cannot be reached.
        """
        before = time.monotonic()
        for batch in self.server.each(questions, self._ask):
            now = time.monotonic()
            seconds, before = round((now - before) / len(batch), 4), now
            yield [(question, self._prediction(completion, seconds)) for question, completion in batch]

    async def _ask(self, client: AsyncOpenAI, question: Question) -> Completion:
        adapter = self.adapters.get(question.model)
        return await self._request(client, question.sample, adapter.name if adapter else self.options.model)

    async def _request(self, client: AsyncOpenAI, sample: Sample, model: str) -> Completion:
        what = f"sample {sample['id']!r} of user {sample['user']}"
        try:
            messages = await asyncio.to_thread(self.messages.prompt, sample)
        except ValueError as error:
            raise UserError(f"{what}: {error}") from None
        return await self.server.chat(client, what, model=model, messages=messages, **self.parameters())

    def parameters(self) -> dict[str, Any]:
        """Return the parameters of each request, without model and messages."""
        options, thinking = self.options, self.settings.thinking
        found = {
            options.length_key: self.settings.max_new_tokens,
            "temperature": options.temperature,
            "seed": options.seed,
            "chat_template_kwargs": None if thinking is None else {"enable_thinking": thinking},
            **options.parameters,
        }
        return {key: value for key, value in found.items() if value is not None}

    def _prediction(self, completion: Completion, seconds: float) -> Prediction:
        fingerprint = completion.body.get("system_fingerprint")
        return Prediction(
            completion.text,
            new_tokens=completion.count("completion_tokens"),
            stopped=completion.finished,
            batch_size=self.options.concurrent,
            seconds=seconds,
            at=utc_now(),
            prompt_tokens=completion.count("prompt_tokens"),
            system_fingerprint=fingerprint if isinstance(fingerprint, str) and fingerprint else None,
        )

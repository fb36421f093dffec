"""Answers of a server with OpenAI's chat API: OpenAI's own, vLLM, SGLang, transformers serve and the like."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from usertune.core.clock import utc_now
from usertune.core.errors import UserError
from usertune.inference.engine import EngineSettings
from usertune.inference.prediction_store import Prediction
from usertune.inference.questions import Question
from usertune.inference.server.options import ServerOptions as ServerOptions

if TYPE_CHECKING:
    from openai import AsyncOpenAI

    from usertune.inference.server.client import Completion

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

    def identity(self) -> str:
        """Return the model and its server, as the server describes itself."""
        about = f" ({self.facts.version})" if self.facts.version else ""
        return f"{self.options.model} at {self.server.url}{about}"

    def gpus(self) -> list[str]:
        """Return no GPU of this machine."""
        return []

    def effects(self, questions: Sequence[Question]) -> dict[str, dict[str, Any]]:
        """Return nothing: a server answers with a model that was not trained here."""
        return {}

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
        sample = question.sample
        what = f"sample {sample['id']!r} of user {sample['user']}"
        try:
            messages = await asyncio.to_thread(self.messages.prompt, sample)
        except ValueError as error:
            raise UserError(f"{what}: {error}") from None
        return await self.server.chat(client, what, messages=messages, **self.parameters())

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

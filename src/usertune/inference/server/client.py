"""Asks an OpenAI-compatible server: many requests at once, bounded, and repeated where that can help.

The client library repeats a request after a lost connection, a timeout, and the statuses 408, 409, 429 and 5xx, with
growing pauses or after the time that the server names (Retry-After, up to two minutes). This module adds the bounds,
repeats requests whose answer is not usable, and says errors in words.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

import openai

from usertune.core.errors import UserError
from usertune.inference.server.options import ServerOptions, is_loopback

Item = TypeVar("Item")
Result = TypeVar("Result")

CONNECT_SECONDS = 20
LONGEST_ERROR = 300
MODELS_SHOWN = 20
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 8.0
# The library waits no longer, see openai._constants.MAX_RETRY_AFTER_DELAY.
LONGEST_WAIT = 120


@dataclass(frozen=True)
class Completion:
    """The answer to one request.

    Attributes:
        body: the JSON object that the server sent.
        choice: its first choice.
        text: what the model says, with its thoughts, if the server keeps them apart, between ``<think>`` marks.
    """

    body: Mapping[str, Any]
    choice: Mapping[str, Any]
    text: str

    @property
    def finished(self) -> bool:
        """Whether the answer ended before the longest length."""
        return self.choice.get("finish_reason") not in ("length", "content_filter")

    def count(self, key: str) -> int | None:
        """Return a number of tokens, such as ``prompt_tokens``; None if the server does not say."""
        usage = self.body.get("usage")
        value = usage.get(key) if isinstance(usage, Mapping) else None
        return value if isinstance(value, int) else None


@dataclass(frozen=True)
class ServerFacts:
    """What a server says of itself: its models (None if it does not say), its version, and the card of the model."""

    models: tuple[str, ...] | None
    version: str
    card: Mapping[str, Any]


class Server:
    """A server, and how to ask it.

    Args:
        options: its settings.

    Raises:
        UserError: an environment variable that the settings name is not set.
    """

    def __init__(self, options: ServerOptions) -> None:
        self.options = options
        self.url = options.address()
        self._key = options.key()

    def each(
        self, items: Sequence[Item], ask: Callable[[openai.AsyncOpenAI, Item], Awaitable[Result]]
    ) -> Generator[list[tuple[Item, Result]], None, None]:
        """Ask for each item, at most ``concurrent`` at once, and yield results as they arrive.

        After an error, nothing new is asked; what is under way is awaited and yielded before the error is raised. If
        the caller stops, requests under way are cancelled and connections closed.
        """
        loop = asyncio.new_event_loop()
        client = self._client()
        waiting, running, failed = iter(items), dict[asyncio.Task[Result], Item](), list[BaseException]()
        try:
            while True:
                while not failed and len(running) < self.options.concurrent:
                    try:
                        item = next(waiting)
                    except StopIteration:
                        break
                    running[loop.create_task(_awaited(ask(client, item)))] = item
                if not running:
                    break
                done, _ = loop.run_until_complete(asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED))
                failed += [error for task in done if (error := task.exception())]
                finished = [(running.pop(task), task) for task in done]
                if found := [(item, task.result()) for item, task in finished if not task.exception()]:
                    yield found
            if failed:
                raise failed[0]
        finally:
            loop.run_until_complete(_close(client, list(running)))
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()

    def one(self, ask: Callable[[openai.AsyncOpenAI], Awaitable[Result]]) -> Result:
        """Ask once."""
        with closing(self.each([None], lambda client, _: ask(client))) as results:
            ((_, result),) = next(results)
        return result

    async def chat(self, client: openai.AsyncOpenAI, what: str, **request: Any) -> Completion:
        """Return the answer to a chat request.

        Args:
            client: from `each`.
            what: what is asked, for messages.
            request: parameters of the request, without the model.

        Raises:
            UserError: the server refuses the request, or could not answer it after all repetitions.
        """
        body = {"model": self.options.model, **request}
        known = {key: body.pop(key) for key in ("model", "messages")}
        for attempt in range(self.options.retries + 1):
            try:
                raw = await client.chat.completions.with_raw_response.create(**known, extra_body=body)
                return _completion(raw.text)
            except openai.OpenAIError as error:
                raise UserError(f"{what}: {await self._in_words(client, error, str(known['model']))}") from None
            except ValueError as error:
                problem = str(error)
            await asyncio.sleep(min(FIRST_PAUSE * 2**attempt, LONGEST_PAUSE))
        raise UserError(f"{what}: {self.url} sent no usable answer, {self._tries}: {problem}")

    async def facts(self, client: openai.AsyncOpenAI) -> ServerFacts:
        """Return what the server says of itself. Not every server does, so errors are ignored."""
        once = client.with_options(max_retries=0, timeout=CONNECT_SECONDS)
        cards: list[Any] | None = None
        version = ""
        try:
            listed = await once.models.with_raw_response.list()
            version = str(listed.headers.get("server", ""))
            data = json.loads(listed.text).get("data")
            cards = [card for card in data if isinstance(card, Mapping)] if isinstance(data, list) else None
        except (openai.OpenAIError, ValueError, AttributeError):
            pass
        own = (card for card in cards or () if card.get("id") == self.options.model)
        card: Mapping[str, Any] = next(own, {})
        try:
            # vLLM's address for its version, next to the API.
            root = urlsplit(self.url)._replace(path="/version").geturl()
            said = await once.get(root, cast_to=object)
            version = f"{card.get('owned_by', 'version')} {said['version']}" if isinstance(said, Mapping) else version
        except (openai.OpenAIError, ValueError, KeyError):
            pass
        models = None if cards is None else tuple(str(card.get("id")) for card in cards)
        return ServerFacts(models, self.clean(version), card)

    def clean(self, text: str) -> str:
        """Return a server's text as one short line without the key."""
        line = " ".join(text.replace(self._key, "***").split() if self._key else text.split())
        return line if len(line) <= LONGEST_ERROR else f"{line[:LONGEST_ERROR]}..."

    @property
    def _tries(self) -> str:
        tries = self.options.retries + 1
        return {1: "once", 2: "twice"}.get(tries, f"{tries} times")

    def _client(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(
            base_url=self.url,
            # The library insists on a key, and would take OPENAI_API_KEY, which may belong to another server.
            api_key=self._key or "none",
            max_retries=self.options.retries,
            http_client=openai.DefaultAsyncHttpxClient(
                timeout=openai.Timeout(self.options.timeout, connect=CONNECT_SECONDS),
                # Proxies come from the environment, but a server on this machine is asked directly.
                trust_env=not is_loopback(self.url),
                event_hooks={"request": [_Pace(self.options.per_minute).wait, self._check_key]},
            ),
        )

    async def _check_key(self, request: Any) -> None:
        if self._key is None:
            del request.headers["Authorization"]

    async def _in_words(self, client: openai.AsyncOpenAI, error: openai.OpenAIError, model: str) -> str:
        if isinstance(error, openai.APITimeoutError):
            return f"{self.url} did not answer within {self.options.timeout:g} s, {self._tries}"
        if isinstance(error, openai.APIConnectionError):
            return f"{self.url} cannot be reached, {self._tries}: {self.clean(str(error.__cause__ or error))}"
        if not isinstance(error, openai.APIStatusError):
            return self.clean(str(error))
        status, said = error.status_code, self.clean(_said(error))
        if status in (401, 403):
            named = self.options.api_key_env
            who = f"the key in {named}" if named else "a request without a key (api_key_env names none)"
            return f"{self.url} refuses {who}: {status} {said}"
        if status in (400, 404, 422):
            models = (await self.facts(client)).models
            if models is not None and model not in models:
                listed = ", ".join(models[:MODELS_SHOWN]) + (", ..." if len(models) > MODELS_SHOWN else "") or "none"
                return f"{self.url} has no model {model}; its models: {listed} (it said: {status} {said})"
        asked = _retry_after(error)
        if status == 429 and asked > LONGEST_WAIT:
            return f"{self.url} asks to wait {asked:g} s; run again after that: what is answered is kept ({said})"
        again = f", {self._tries}" if status in (408, 409, 429) or status >= 500 else ""
        return f"{self.url} answered {status}{again}: {said}"


class _Pace:
    """Spaces requests evenly, so that in no minute more are sent than allowed; counts repetitions too."""

    def __init__(self, per_minute: float | None) -> None:
        self._seconds = 60 / per_minute if per_minute else 0.0
        self._sent = -math.inf
        self._turn = asyncio.Lock()

    async def wait(self, _request: object) -> None:
        # One waits at a time, so that a busy moment of this process lets no two through at once.
        async with self._turn:
            while (rest := self._sent + self._seconds - time.monotonic()) > 0:
                await asyncio.sleep(rest)
            self._sent = time.monotonic()


async def _awaited(result: Awaitable[Result]) -> Result:
    return await result


async def _close(client: openai.AsyncOpenAI, running: Sequence[asyncio.Task[Any]]) -> None:
    """Cancel tasks, and close the connections."""
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    await client.close()


def _completion(text: str) -> Completion:
    """Return a completion from the text of a response.

    Raises:
        ValueError: it is not JSON, or has no answer.
    """
    try:
        body = json.loads(text)
        choice = body["choices"][0]
        message = choice["message"]
        content = message.get("content")
        if content is None:
            content = message.get("refusal") or ""
        if not isinstance(content, str):
            raise ValueError("the answer is not a text")
        thought = message.get("reasoning_content") or message.get("reasoning")
    except (KeyError, IndexError, TypeError, AttributeError, RecursionError):
        raise ValueError("the response has no answer") from None
    if isinstance(thought, str):
        content = f"<think>\n{thought.strip()}\n</think>\n\n{content}" if content else f"<think>\n{thought}"
    return Completion(body, choice, content)


def _said(error: openai.APIStatusError) -> str:
    """Return what a server says of an error: its message, or the text of its response."""
    body = error.body
    if isinstance(body, Mapping):
        found = body.get("message") or body.get("detail") or body.get("error")
        if isinstance(found, str):
            return found
    return error.response.text


def _retry_after(error: openai.APIStatusError) -> float:
    try:
        return float(error.response.headers.get("retry-after", 0))
    except ValueError:
        return 0.0

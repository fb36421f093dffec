"""Settings of a server that answers samples over the chat API of OpenAI."""

from __future__ import annotations

import ipaddress
import os
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from usertune.core.errors import UserError
from usertune.inference.engine import EngineOptions

# Settings under which people write a key.
SECRETS = ("api_key", "apikey", "key", "token", "access_token", "password", "secret", "authorization", "headers")
KEY_BELONGS = (
    "a key does not belong in a study, which is copied into results and reports: put it into an environment variable "
    "and name the variable in api_key_env (export OPENAI_API_KEY=..., api_key_env: OPENAI_API_KEY)"
)
STARTS_FROM_ADAPTER = (
    "its adapters start from another adapter, added to the base model, and a server has no such model; adapters that "
    "start from the base model or from an experiment of mode full can be served"
)


def url_problem(url: str) -> str | None:
    """Say why a text cannot be the address of a server; None if it can. The text is not repeated: it may hold a key."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return "this is not a URL"
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return "the URL of a server begins with http:// or https://, such as http://localhost:8000/v1"
    if parts.username or parts.password or parts.query or parts.fragment:
        return f"the URL has a user, a password or parameters; {KEY_BELONGS}"
    return None


def is_loopback(url: str) -> bool:
    """Whether a server is on this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _url(value: str) -> str:
    if problem := url_problem(value):
        raise ValueError(problem)
    return value.rstrip("/")


def _variable(value: str) -> str:
    # Keys contain lower-case letters or hyphens, names of variables by convention do not.
    if not value.replace("_", "A").isalnum() or not value.isupper() or not value.isascii() or value[0].isdigit():
        raise ValueError("the name of an environment variable is needed, such as OPENAI_API_KEY; " + KEY_BELONGS)
    return value


Variable = Annotated[str, Field(min_length=1), AfterValidator(_variable)]


class ServerOptions(EngineOptions):
    """Settings of an OpenAI-compatible server; docs/engines.md explains them."""

    WITHOUT_EFFECT: ClassVar[frozenset[str]] = frozenset(
        {"adapters", "canary", "api_key_env", "concurrent", "per_minute", "timeout", "retries"}
    )

    url: Annotated[str, AfterValidator(_url)] | None = None
    """Address of the API, such as ``http://localhost:8000/v1``."""
    url_env: Variable | None = None
    """Environment variable with the address, instead of ``url``, for a server that moves from host to host. The name of
    the variable then stands for the server in the recipe."""
    model: Annotated[str, Field(min_length=1)]
    """Name of the model at the server."""
    adapters: bool = False
    """Answer for experiments of mode lora with their adapters, which the server has by name (``usertune serve``)."""
    canary: Literal["transformers", "server"] = "transformers"
    """What an adapter's log-probabilities are compared with before its answers count: with those of the server's base
    model, and of the same model loaded in the job (transformers); or with the server's alone (server)."""
    api_key_env: Variable | None = None
    """Environment variable with the key; None sends no key."""
    temperature: Annotated[float, Field(ge=0)] | None = 0.0
    """Sampling temperature; None leaves it to the server, for models that refuse it."""
    seed: int | None = 0
    """Seed that is sent along; None sends none."""
    length_key: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """Name of the parameter for the longest answer; newer models of OpenAI need ``max_completion_tokens``."""
    resize: bool = True
    """Send images scaled as the base model's processor scales them; false sends the files as they are."""
    parameters: dict[str, Any] = {}  # noqa: RUF012 (pydantic copies it)
    """Further parameters of each request; null removes one."""
    concurrent: Annotated[int, Field(ge=1, le=1000)] = 8
    """Requests under way at once."""
    per_minute: Annotated[float, Field(gt=0)] | None = None
    """Most requests a minute, repeated ones included; None: no bound."""
    timeout: Annotated[float, Field(gt=0)] = 300
    """Seconds to wait for an answer before the request is repeated."""
    retries: Annotated[int, Field(ge=0, le=100)] = 8
    """How often a request is repeated that the server could not answer for now."""

    @model_validator(mode="before")
    @classmethod
    def _refuse_keys(cls, raw: Any) -> Any:
        found = [key for key in raw if str(key).lower().replace("-", "_") in SECRETS] if isinstance(raw, dict) else []
        more = raw.get("parameters") if isinstance(raw, dict) else None
        found += [f"parameters.{key}" for key in more if str(key).lower() in SECRETS] if isinstance(more, dict) else []
        if found:
            raise ValueError(f"{', '.join(found)}: {KEY_BELONGS}")
        return raw

    @model_validator(mode="after")
    def _check(self) -> ServerOptions:
        if (self.url is None) == (self.url_env is None):
            raise ValueError("set either url, the address of the server, or url_env, the variable that has it")
        if taken := sorted({"model", "messages", "stream", "n", self.length_key} & self.parameters.keys()):
            raise ValueError(f"parameters: {', '.join(taken)} cannot be set here")
        return self

    def problem(self, mode: str, start: str | None = None) -> str | None:
        """Say why a server cannot answer for a trained experiment; None if it can."""
        if mode == "lora" and self.adapters and start == "lora":
            return f"{STARTS_FROM_ADAPTER}; set engine: transformers for this experiment"
        if mode not in ("lora", "full") or (mode == "lora" and self.adapters):
            return None
        can = "adapters: true, if the server has its adapter (docs/engines.md), or " if mode == "lora" else ""
        return (
            f"a server answers with its own model, not with the weights of an experiment of mode {mode}; set {can}"
            "engine: transformers for this experiment"
        )

    def server(self) -> str:
        """Return the server's URL, or the variable that has it."""
        return self.url or str(self.url_env)

    def address(self) -> str:
        """Return the server's URL.

        Raises:
            UserError: the variable ``url_env`` is not set, or has no usable URL.
        """
        if self.url is not None:
            return self.url
        found = os.environ.get(str(self.url_env), "")
        if not found:
            raise UserError(f"engine: the environment variable {self.url_env} (url_env) is not set")
        if problem := url_problem(found):
            raise UserError(f"engine: the environment variable {self.url_env} (url_env): {problem}")
        return found.rstrip("/")

    def key(self) -> str | None:
        """Return the key; None if the study names none.

        Raises:
            UserError: the variable ``api_key_env`` is not set.
        """
        if self.api_key_env is None:
            return None
        if key := os.environ.get(self.api_key_env, "").strip():
            return key
        raise UserError(
            f"engine: the environment variable {self.api_key_env} (api_key_env) is not set; export it where the "
            "workflow is started"
        )

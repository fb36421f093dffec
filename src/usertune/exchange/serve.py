"""The command that starts a server with the adapters of a study."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

from usertune.checks.freshness import Freshness
from usertune.core.errors import UserError
from usertune.exchange.current import freshness_of, require_current
from usertune.inference.models_in_use import START, WEIGHTS, Found, ModelsInUse, models_in_use
from usertune.inference.server.adapters import ServedAdapter, max_rank, served_adapter
from usertune.inference.server.options import STARTS_FROM_ADAPTER, ServerOptions, is_loopback
from usertune.models.families.catalogue import family_of
from usertune.pipeline import steps
from usertune.study.schema.study import Study

MAKE = "snakemake --profile local"
DEFAULT_URL = "http://127.0.0.1:8000/v1"
ANY_HOST = "0.0.0.0"  # noqa: S104 (the study names another machine, so the server must be reached from outside)
# Adapters of one batch of requests; each takes memory of the GPU. Others wait in main memory.
MOST_AT_ONCE = 16
KEY_OF_VLLM = "VLLM_API_KEY"
INSTALL = "python3 -m venv ~/vllm && ~/vllm/bin/pip install vllm"


@dataclass(frozen=True)
class Labelled:
    """An adapter, and whose it is: experiment, user and fold."""

    label: str
    adapter: ServedAdapter


@dataclass(frozen=True)
class ServerCommand:
    """A command that starts a server.

    Attributes:
        words: program and arguments.
        adapters: the adapters that it loads.
        key_variable: environment variable with the key that requests will have; None for none.
    """

    words: Sequence[str]
    adapters: Sequence[Labelled]
    key_variable: str | None

    def text(self) -> str:
        """Return the command for a shell, after comments that say what it is."""
        lines = [
            f"# vLLM with {len(self.adapters)} adapters. It has an environment of its own: {INSTALL}",
            *(f"#   {own.adapter.name}: {own.label}" for own in self.adapters),
        ]
        if self.key_variable:
            lines.append(f'export {KEY_OF_VLLM}="${self.key_variable}"')
        options = [number for number, word in enumerate(self.words) if word.startswith("--")]
        parts = [self.words[begin:end] for begin, end in zip([0, *options], [*options, None], strict=True)]
        return "\n".join([*lines, " \\\n  ".join(shlex.join(part) for part in parts)])

    def start(self) -> NoReturn:
        """Replace this process by the server.

        Raises:
            UserError: the program does not exist, or the variable with the key is not set.
        """
        environment = dict(os.environ)
        if self.key_variable:
            if not environment.get(self.key_variable):
                raise UserError(f"the environment variable {self.key_variable} (api_key_env) is not set")
            environment[KEY_OF_VLLM] = environment[self.key_variable]
        program = shutil.which(self.words[0])
        if program is None:
            raise UserError(
                f"{self.words[0]}: there is no such program; install vLLM into an environment of its own ({INSTALL}) "
                "and name its folder: --environment ~/vllm"
            )
        os.execve(program, list(self.words), environment)  # noqa: S606 (no shell)


def server_command(
    study: Study, experiments: Sequence[str], environment: Path | None, more: Sequence[str]
) -> ServerCommand:
    """Return the command that starts vLLM with the adapters of experiments.

    Args:
        study: the study.
        experiments: names of experiments of mode lora; empty for all that a server answers with adapters.
        environment: folder of vLLM's Python environment; None: its program is on the path.
        more: further arguments for vLLM.

    Raises:
        UserError: an experiment has no adapter, one is not current, a server would not load it, or the experiments
            need different servers.
    """
    chosen = _chosen(study, experiments)
    options = _options(study, chosen)
    freshness = freshness_of(study)
    found = {name: _models(freshness, name) for name in chosen}
    bases = {_base(models, name) for name, models in found.items()}
    if len(bases) > 1:
        raise UserError(
            f"the adapters of {', '.join(found)} belong on different models ({', '.join(map(str, sorted(bases)))}); a "
            "server has one: choose experiments by --experiment"
        )
    (base,) = bases
    family = family_of(base)
    adapters = [
        Labelled(
            f"{name}, {f'user and fold {key}' if key else 'all users'}", served_adapter(model.weights_folder, family)
        )
        for name, models in found.items()
        for key, model in models.models.items()
        if model.weights_folder is not None
    ]
    # Two experiments can ask for the same adapter.
    adapters = list({own.adapter.name: own for own in reversed(adapters)}.values())[::-1]
    program = "vllm" if environment is None else str(environment.expanduser().absolute() / "bin" / "vllm")
    words = [program, "serve", str(base.absolute()), *_settings(study, options), *_lora(adapters), *more]
    return ServerCommand(words, adapters, options.api_key_env)


def _chosen(study: Study, experiments: Sequence[str]) -> list[str]:
    lora = [name for name, own in study.experiments.items() if own.mode == "lora" and own.generated]
    known = f"experiments of mode lora: {', '.join(lora) or 'none'}"
    if wrong := [name for name in experiments if name not in lora]:
        raise UserError(f"--experiment {wrong[0]}: it has no adapter; {known}")
    if experiments:
        return list(experiments)
    found = [name for name in lora if getattr(study.engine_of(name).options, "adapters", False)]
    if not found:
        raise UserError(
            f"no experiment is answered by a server with adapters: set engine: {{kind: openai, url: {DEFAULT_URL}, "
            f"model: base, adapters: true}} in it, or name one by --experiment; {known}"
        )
    return found


def _options(study: Study, experiments: Sequence[str]) -> ServerOptions:
    """Return the settings of the server that the experiments ask; defaults if none names one."""
    named = [own for name in experiments if isinstance(own := study.engine_of(name).options, ServerOptions)]
    for one in named:
        keys = ("url", "url_env", "model", "api_key_env")
        if wrong := [key for key in keys if getattr(one, key) != getattr(named[0], key)]:
            raise UserError(
                f"the experiments {', '.join(experiments)} ask servers with another {wrong[0]}; choose some"
            )
    return named[0] if named else ServerOptions(url=DEFAULT_URL, model="base")


def _models(freshness: Freshness, experiment: str) -> ModelsInUse:
    """Return an experiment's models, from the manifests that its predictions need."""
    roles: dict[str, dict[str, None]] = {}
    for result in freshness.results.values():
        if result.step == steps.PREDICT.name and result.experiment == experiment:
            for role, paths in result.inputs.items():
                roles.setdefault(role, {}).update(dict.fromkeys(paths))
    require_current(freshness, roles[WEIGHTS], MAKE)
    (base,), weights, start = (
        [Found.read(freshness.folder / path) for path in roles.get(role, ())]
        for role in (steps.BASE_MODEL.name, WEIGHTS, START)
    )
    return models_in_use(base, weights, next(iter(start), None))


def _base(models: ModelsInUse, name: str) -> Path:
    """Return the folder of the model that a server loads adapters on."""
    start = models.start_weights
    if start is not None and start.mode == "lora":
        raise UserError(f"{name}: {STARTS_FROM_ADAPTER}")
    return models.base_folder if start is None else start.folder


def _settings(study: Study, options: ServerOptions) -> list[str]:
    url = urlsplit(options.url or DEFAULT_URL)
    host = str(url.hostname) if is_loopback(options.url or DEFAULT_URL) else ANY_HOST
    base = study.base_model
    pixels = {"min_pixels": base.min_pixels, "max_pixels": base.max_pixels}
    limits = {key: value for key, value in pixels.items() if value is not None}
    return [
        "--served-model-name", options.model, "--host", host, "--port", str(url.port or 8000), "--dtype", base.dtype,
        # Otherwise the model's own sampling parameters would be added to greedy requests.
        "--generation-config", "vllm",
        *(["--mm-processor-kwargs", json.dumps(limits)] if limits else []),
    ]  # fmt: skip


def _lora(adapters: Sequence[Labelled]) -> list[str]:
    own = [labelled.adapter for labelled in adapters]
    return [
        "--enable-lora", "--max-lora-rank", str(max_rank(own)), "--max-loras", str(min(len(own), MOST_AT_ONCE)),
        "--max-cpu-loras", str(len(own)),
        "--lora-modules", *(f"{adapter.name}={adapter.folder.absolute()}" for adapter in own),
    ]  # fmt: skip

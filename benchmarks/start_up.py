"""How long programs take to start: a prediction job until it begins to generate, and the --help of every program.

A prediction job of the demo's base model is measured until its first call of ``model.generate``. It is compared with a
bare script, which imports torch, transformers and peft and loads the same model and processor; both run in turn, in
processes of their own, that end there. The processor's seconds count all threads. --help imports what a program always
imports:

    python benchmarks/start_up.py
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import common

from usertune.cli.main import COMMANDS
from usertune.inference.recipe import PredictRecipe
from usertune.models.base_model import describe_base_model
from usertune.models.recipe import BaseModelRecipe

USERS = ("1", "2")
SCRIPTS = common.REPOSITORY / "scripts"
# Not a program.
IMPORTED_BY_ALL = "environment"

BARE = """
    import sys
    import torch, transformers, peft
    transformers.Qwen3VLForConditionalGeneration.from_pretrained(sys.argv[1], dtype=torch.float32)
    transformers.AutoProcessor.from_pretrained(sys.argv[1])
"""
# Runs a program until the function is called that begins to generate: it is replaced when its module was imported.
UNTIL_GENERATION = """
    import importlib.util, os, runpy, sys

    class EndsWithFirstCall:
        def find_spec(self, name, path, target=None):
            if name != "transformers.generation.utils":
                return None
            sys.meta_path.remove(self)
            spec = importlib.util.find_spec(name)
            execute = spec.loader.exec_module
            def exec_module(module):
                execute(module)
                module.GenerationMixin.generate = lambda *_, **__: os._exit(0)
            spec.loader.exec_module = exec_module
            return spec

    sys.meta_path.insert(0, EndsWithFirstCall())
    sys.argv = sys.argv[1:]
    sys.path.insert(0, os.path.dirname(sys.argv[0]))
    runpy.run_path(sys.argv[0], run_name="__main__")
    os._exit(1)
"""


def main(arguments: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        job = prediction_job(folder)
        found = in_turn({"bare": bare, "job": partial(begin, job, folder)}, arguments.rounds)
    helps = {name: partial(cost, [*program, "--help"]) for name, program in programs().items()}
    cpu = {name: [cpu for _, cpu in values] for name, values in in_turn(helps, arguments.help_rounds).items()}
    seconds, processor = ({way: [pair[part] for pair in found[way]] for way in found} for part in (0, 1))
    return {
        "seconds": {way: common.spread(values) for way, values in seconds.items()},
        "cpu_seconds": {way: common.spread(values) for way, values in processor.items()},
        "job_over_bare": common.ratio(seconds["job"], seconds["bare"]),
        "cpu_of_job_over_bare": common.ratio(processor["job"], processor["bare"]),
        "help_cpu_seconds": {name: common.spread(values) for name, values in cpu.items()},
        "slowest_help_cpu_seconds": max(common.spread(values)["median"] for values in cpu.values()),
    }


def programs() -> dict[str, list[str]]:
    """Return the command of every script and of every subcommand of ``usertune``, by its name."""
    scripts = [script for script in sorted(SCRIPTS.glob("*.py")) if script.stem != IMPORTED_BY_ALL]
    return {
        "python": [sys.executable],
        **{f"script {script.stem}": [sys.executable, str(script)] for script in scripts},
        **{f"usertune {name}": [sys.executable, "-P", "-m", "usertune", name] for name in sorted(COMMANDS)},
    }


def prediction_job(folder: Path) -> list[str]:
    """Write what a prediction job of two users reads; return its command."""
    manifests = common.demo_samples(folder, USERS)
    describe_base_model(BaseModelRecipe(step="base_model", path=str(common.BASE)), folder / "base.json")
    recipe = PredictRecipe(step="predict", max_new_tokens=64, dtype="float32")
    (folder / "users.txt").write_text("\n".join(map(str, manifests.values())))
    (folder / "weights.txt").write_text("")
    command = [str(SCRIPTS / "predict.py"), "--recipe", recipe.text(), "--experiment", "vanilla"]
    command += ["--base-model", str(folder / "base.json"), "--weights", str(folder / "weights.txt")]
    command += ["--users", str(folder / "users.txt"), "--root", str(folder / "dataset"), "--batch-size", "32"]
    command += ["--store", str(folder / "store"), "--predictions", str(folder / "predictions.json")]
    return [sys.executable, "-c", textwrap.dedent(UNTIL_GENERATION), *command]


def bare() -> tuple[float, float]:
    """Return the cost of the bare script."""
    return cost([sys.executable, "-c", textwrap.dedent(BARE), str(common.BASE)])


def begin(job: Sequence[str], folder: Path) -> tuple[float, float]:
    """Return the cost of a prediction job until it generates; it finds nothing that is stored."""
    shutil.rmtree(folder / "store", ignore_errors=True)
    return cost(job)


def cost(command: Sequence[str]) -> tuple[float, float]:
    """Return the wall seconds and the processor's seconds of a process, with its children; leave if it fails."""
    started = time.perf_counter()
    null = os.open(os.devnull, os.O_RDWR)
    actions = [(os.POSIX_SPAWN_DUP2, null, 0), (os.POSIX_SPAWN_DUP2, null, 1)]
    surroundings = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    process = os.posix_spawn(command[0], list(command), surroundings, file_actions=actions)
    _, status, usage = os.wait4(process, 0)
    os.close(null)
    if status:
        sys.exit(f"{command} failed")
    return time.perf_counter() - started, usage.ru_utime + usage.ru_stime


def in_turn(ways: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[Any]]:
    """Run each way once a round, as `common.in_turn` does, and return what each returned."""
    found: dict[str, list[Any]] = {name: [] for name in ways}

    def keep(name: str) -> None:
        found[name].append(ways[name]())

    common.in_turn({name: partial(keep, name) for name in ways}, rounds)
    return found


def tell(measured: dict[str, Any]) -> list[str]:
    ways = {"bare": "a bare script until the model is loaded", "job": "a prediction job until it begins to generate"}
    seconds, processor = (
        {way: common.told(values, "s") for way, values in measured[name].items()} for name in ("seconds", "cpu_seconds")
    )
    lines = [f"{text}: {seconds[way]}, processor {processor[way]}" for way, text in ways.items()]
    lines += [
        f"job over bare: {common.told(measured['job_over_bare'])}; "
        f"processor {common.told(measured['cpu_of_job_over_bare'])}; aim: at most 1.5",
        "processor's seconds of --help:",
    ]
    helps = sorted(measured["help_cpu_seconds"].items(), key=lambda item: -item[1]["median"])
    return [*lines, *(f"  {name}: {common.told(seconds, 's')}" for name, seconds in helps)]


if __name__ == "__main__":
    common.run(
        main,
        tell,
        {
            "rounds": (7, 1, "times that script and job are started"),
            "help-rounds": (5, 1, "times that each --help is started"),
        },
    )

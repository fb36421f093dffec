"""What a CPU training step costs, alone and next to other programs, by how waiting threads wait.

They spin as long as the OpenMP library does by default, sleep at once, or spin briefly, as usertune sets it. A process
of its own trains the demo's LoRA on as many threads as there are cores, alone and next to programs that keep a core
busy each. Each way is measured in turn. The losses of all are checked to be the same numbers:

    python benchmarks/busy_machine.py
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import common

from usertune.runtime.cpu_threads import COUNTS, SHORT_SPIN, WAIT_SETTINGS
from usertune.runtime.signals import end_with_parent

WAYS: dict[str, dict[str, str]] = {
    "library_default": {},
    "sleeping": {"OMP_WAIT_POLICY": "PASSIVE"},
    "short_spin": SHORT_SPIN,
}
LORA = {"rank": 4, "alpha": 32, "dropout": 0.05}
SAMPLES, TOKENS = 16, 54
PLACES = ("quiet", "busy")
OTHERS = ("library_default", "sleeping")
WORKER = "--train-for"


def main(arguments: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    for number in range(arguments.rounds):
        for way in reversed(WAYS) if number % 2 else WAYS:
            found[way].append(_train_in_a_process(way, arguments))
    losses = [training["losses"] for trainings in found.values() for training in trainings]
    if any(one != other for some in losses for one, other in zip(losses[0], some, strict=False)):
        sys.exit("the losses depend on how threads wait, which they must not")
    measured: dict[str, Any] = {"cores": os.cpu_count(), "same_losses": True}
    for place in PLACES:
        rates = {way: [training[place] for training in trainings] for way, trainings in found.items()}
        measured[place] = {
            "steps_per_second": {way: common.spread(values) for way, values in rates.items()},
            **{f"short_spin_over_{way}": common.ratio(rates["short_spin"], rates[way]) for way in OTHERS},
        }
    return measured


def tell(measured: dict[str, Any]) -> list[str]:
    lines = []
    for place in PLACES:
        rates = measured[place]["steps_per_second"]
        lines += [f"{place}: {way} {common.told(rates[way], 'steps/s')}" for way in WAYS]
        ratios = {way: measured[place][f"short_spin_over_{way}"] for way in OTHERS}
        lines += [f"{place}: short_spin over {way} {common.told(ratio)}" for way, ratio in ratios.items()]
    return lines


@contextmanager
def _busy_loops(count: int) -> Iterator[None]:
    command = [sys.executable, "-c", "while True: pass"]
    loops = [subprocess.Popen(command, preexec_fn=end_with_parent) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def _train_in_a_process(way: str, arguments: argparse.Namespace) -> dict[str, Any]:
    kept = {name: value for name, value in os.environ.items() if name not in WAIT_SETTINGS}
    counts = dict.fromkeys(COUNTS, str(arguments.threads or os.cpu_count()))
    done = subprocess.run(
        [sys.executable, __file__, WORKER, str(arguments.seconds), str(arguments.loops)],
        env={**kept, **counts, **WAYS[way]},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        sys.exit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _train(seconds: float, loops: int) -> dict[str, Any]:
    """Return the losses of all steps, and the steps per second, alone ("quiet") and next to loops ("busy")."""
    import torch

    from usertune.models.loading import load_model, prepare_for_training
    from usertune.models.recipe import LoraSettings

    torch.manual_seed(0)
    model: Any = prepare_for_training(load_model(common.BASE, "float32"), LoraSettings.model_validate(LORA)).train()
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=4e-3)
    ids = torch.randint(5, 300, (SAMPLES, TOKENS))
    losses: list[str] = []

    def step() -> None:
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item().hex())

    step()
    quiet = _rate(step, seconds)
    with _busy_loops(loops):
        return {"quiet": quiet, "busy": _rate(step, seconds), "losses": losses}


def _rate(step: Callable[[], None], seconds: float) -> float:
    """Take steps until the time is over, two at least; return how many a second."""
    started, steps = time.perf_counter(), 0
    while steps < 2 or time.perf_counter() - started < seconds:
        step()
        steps += 1
    return steps / (time.perf_counter() - started)


if __name__ == "__main__":
    if sys.argv[1:2] == [WORKER]:
        print(json.dumps(_train(float(sys.argv[2]), int(sys.argv[3]))))
    else:
        common.run(
            main,
            tell,
            {
                "rounds": (5, 1, "times each way is measured"),
                "seconds": (6, 0, "how long a training runs in each place, at least two steps"),
                "threads": (0, 1, "threads of the training; 0: as many as there are cores"),
                "loops": (2, 1, "programs that keep a core busy each"),
            },
        )

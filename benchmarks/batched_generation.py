"""How much faster batched generation is than one sample at a time, on the demo model and in one run.

Both ways answer the same samples with the same model in turn, several times over; the answers are checked to be the
same, text for text:

    python benchmarks/batched_generation.py
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import common

# Ten users of 50 samples.
USERS = tuple(map(str, range(1, 11)))


def main(arguments: argparse.Namespace) -> dict[str, Any]:
    from usertune.inference.engine import EngineSettings
    from usertune.inference.engines.transformers import TransformersEngine
    from usertune.inference.questions import questions_of
    from usertune.models.recipe import Pixels

    users = USERS[: -(-arguments.samples // 50)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        samples = common.read_samples(common.demo_samples(folder, users), arguments.samples)
        questions = questions_of(samples)
        engine = TransformersEngine(
            EngineSettings(common.BASE, "vanilla", None, "float32", Pixels(), folder / "dataset", max_new_tokens=64)
        )
        answers: dict[str, dict[str, str]] = {}

        def answer(way: str, size: int) -> float:
            def call() -> None:
                pairs = [pair for batch in engine.answer(questions, size) for pair in batch]
                answers[way] = {question.sample["id"]: prediction.text for question, prediction in pairs}

            return len(samples) / common.seconds_of(call)

        list(engine.answer(questions[:4], 1))
        sizes = {"single": 1, "batched": arguments.batch_size}
        rates = common.in_turn({way: partial(answer, way, size) for way, size in sizes.items()}, arguments.rounds)
    if answers["single"] != answers["batched"]:
        sys.exit("batched and single answers differ")
    return {
        "samples": len(samples),
        "batch_size": arguments.batch_size,
        "same_answers": True,
        "samples_per_second": {way: common.spread(values) for way, values in rates.items()},
        "batched_over_single": common.ratio(rates["batched"], rates["single"]),
    }


def tell(measured: dict[str, Any]) -> list[str]:
    rates = measured["samples_per_second"]
    return [
        f"one at a time: {common.told(rates['single'], 'samples/s')}",
        f"batches of {measured['batch_size']}: {common.told(rates['batched'], 'samples/s')}",
        f"ratio: {common.told(measured['batched_over_single'])}; aim: at least 4. All answers are equal.",
    ]


if __name__ == "__main__":
    common.run(
        main,
        tell,
        {
            "samples": (96, 4, "samples to answer"),
            "batch-size": (32, 4, "samples of a batch"),
            "rounds": (3, 1, "times each way is measured"),
        },
    )

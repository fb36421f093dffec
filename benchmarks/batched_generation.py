"""How much faster batched generation is than one sample at a time, on the demo model and in one run.

Both ways answer the same samples with the same model in turn, several times over; the ratio of the medians is
printed, and the answers are checked to be the same text for text. Run after `make demo-data`:

    python benchmarks/batched_generation.py
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from usertune.data.prepare import prepare_user
from usertune.data.samples import Sample, read_user
from usertune.inference.engine import EngineSettings
from usertune.inference.engines.transformers import TransformersEngine

RECIPE = {"step": "prepare", "format": "messages", "task": "grounding", "on_bad_sample": "error", "upstream": {}}


def main(arguments: argparse.Namespace) -> None:
    samples = _samples(arguments.dataset, arguments.samples)
    settings = EngineSettings(
        base_folder=arguments.base,
        mode="vanilla",
        weights_folder=None,
        dtype="float32",
        pixels={"min": None, "max": None},
        dataset_root=arguments.dataset,
        max_new_tokens=64,
    )
    generator = TransformersEngine(settings)
    sizes = (1, arguments.batch_size)
    seconds: dict[int, list[float]] = {size: [] for size in sizes}
    answers: dict[int, dict[str, str]] = {}
    _answer_all(generator, samples[:4], 1)
    for _ in range(arguments.rounds):
        for size in sizes:
            started = time.perf_counter()
            answers[size] = _answer_all(generator, samples, size)
            seconds[size].append(time.perf_counter() - started)
    assert answers[1] == answers[arguments.batch_size], "batched and single answers differ"
    rates = {size: len(samples) / statistics.median(seconds[size]) for size in sizes}
    for size, rate in rates.items():
        print(f"batch of {size:3d}: {rate:7.1f} samples/s (median of {arguments.rounds})")
    print(f"ratio: {rates[arguments.batch_size] / rates[1]:.1f} (aim: at least 4); all answers equal")


def _samples(dataset: Path, count: int) -> list[Sample]:
    samples: list[Sample] = []
    with tempfile.TemporaryDirectory() as folder:
        for user in map(str, range(1, 11)):
            manifest = Path(folder) / f"{user}.json"
            prepare_user(RECIPE, dataset, user, Path(folder) / f"{user}.jsonl", manifest)
            samples.extend(read_user(manifest)[1])
    return samples[:count]


def _answer_all(generator: TransformersEngine, samples: list[Sample], batch_size: int) -> dict[str, str]:
    return {
        sample["id"]: prediction.text for batch in generator.answer(samples, batch_size) for sample, prediction in batch
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", type=Path, default=Path("demo/dataset"), help="default: demo/dataset")
    parser.add_argument("--base", type=Path, default=Path("demo/base"), help="default: demo/base")
    parser.add_argument("--samples", type=int, default=96, help="samples to answer (default: 96)")
    parser.add_argument("--batch-size", type=int, default=32, help="the batched way (default: 32)")
    parser.add_argument("--rounds", type=int, default=3, help="times each way is measured (default: 3)")
    main(parser.parse_args())

"""How fast usertune trains and predicts on a GPU, beside TRL's SFTTrainer and one sample at a time, in one command.

For a bare machine with one GPU, torch and transformers; usertune need not be installed, only a few small packages:

    pip install accelerate peft pydantic pillow psutil filelock safetensors trl datasets
    PYTHONPATH=src python benchmarks/gpu.py

Qwen3-VL-2B, 4B and 8B have their true sizes, random weights and the demo's tokenizer, and bfloat16. Each is trained
with adapters and, where it fits, completely, and answers screenshots of 1080 x 2340 pixels. TRL is compared with where
it is installed. What does not fit or fails is written with its reason. Utilisation is the operations that the model
needs divided by what the GPU could do in the time; operations that are computed twice do not count.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent.parent / "src"))

import common
import prediction_speed
import shapes
import training_speed
from memory_estimates import REAL
from training_speed import Side, SideError, Work, settings

FOUR = {
    "text_config": {
        **REAL["2B"]["text_config"], "hidden_size": 2560, "num_hidden_layers": 36, "intermediate_size": 9728,
        "num_attention_heads": 32,
    },
    "vision_config": REAL["2B"]["vision_config"],
}  # fmt: skip
SIZES = {
    name: shapes.Shape(f"the sizes of Qwen3-VL-{name}", differences)
    for name, differences in (("2B", REAL["2B"]), ("4B", FOUR), ("8B", REAL["8B"]))
}
# Dense bfloat16 operations a second, from the makers' data sheets, by a part of the name that torch gives.
PEAK = {
    "H100 PCIe": 756e12, "H100": 989e12, "H200": 989e12, "H20": 148e12, "GH200": 989e12, "B200": 2250e12,
    "A100": 312e12, "A800": 312e12, "A40": 150e12, "L40S": 362e12, "L4": 121e12, "RTX 4090": 165e12,
}  # fmt: skip
CANDIDATES = (
    settings(1, 2, checkpointing=True), settings(1, 2), settings(4, 2), settings(8, 4),
    settings(8, 4, checkpointing=True),
)  # fmt: skip
MODES = ("lora", "full")
BATCH_SIZES = (8, 16, 32, 64)


def main(arguments: argparse.Namespace) -> dict[str, Any]:
    import torch

    has_gpu = torch.cuda.is_available()
    if not has_gpu and not arguments.tiny:
        sys.exit("no GPU; --tiny shows on the CPU that the program runs")
    name = torch.cuda.get_device_name() if has_gpu else "cpu"
    found: dict[str, Any] = {}
    for size, shape in list(SIZES.items())[: arguments.sizes]:
        with tempfile.TemporaryDirectory() as temporary:
            found[size] = measure_size(Path(temporary), shapes.SHAPES["tiny"] if arguments.tiny else shape, arguments)
    return {"device": name, "peak_operations_per_second": peak_of(name), "sizes": found}


def peak_of(name: str) -> float | None:
    """Return the operations that a GPU can do in a second; None if it is not known."""
    known = [part for part in PEAK if part in name]
    return PEAK[max(known, key=len)] if known else None


def measure_size(folder: Path, shape: shapes.Shape, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train a model in both modes and answer with it."""
    device, dtype = ("cpu", "float32") if arguments.tiny else ("cuda", "bfloat16")
    shapes.make_base(folder / "base", shape, dtype)
    screenshot = shapes.TINY_SCREENSHOT if arguments.tiny else shapes.SCREENSHOT
    samples = shapes.screenshots(folder / "data", arguments.samples, screenshot)
    result: dict[str, Any] = {}
    for mode in MODES[: arguments.modes]:
        work = Work(folder, samples, mode, arguments.batch_size, device=device, dtype=dtype)
        result[mode] = train(work, shape, arguments)
    result["prediction"] = predict(folder, samples, shape, dtype, arguments)
    return result


def train(work: Work, shape: shapes.Shape, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train with each side that is there and fits."""
    sides = {"usertune": Side("own_training.py", sys.executable)}
    if importlib.util.find_spec("trl"):
        sides["trl"] = Side("trl_training.py", sys.executable)
    skipped = {} if "trl" in sides else {"trl": "not installed"}
    if work.mode == "lora":
        training_speed.make_adapter(work)
    for name, side in list(sides.items()):
        try:
            training_speed.try_settings(work, name, side, () if arguments.tiny else CANDIDATES)
        except SideError as problem:
            skipped[name] = str(problem).splitlines()[0]
            del sides[name]
    if "usertune" not in sides:
        return {"skipped": skipped}
    ways = {name: partial(training_speed.train, work, name, side) for name, side in sides.items()}
    rates = common.in_turn(ways, arguments.rounds)
    counts = training_speed.counted(work)
    needed = training_operations(shape, counts, work.mode)
    return {
        "sides": {
            name: {**training_speed.found(side, rates[name]), "utilisation": used(needed, rates[name])}
            for name, side in sides.items()
        },
        "shape": counts,
        "operations_of_a_sample": needed,
        "losses": training_speed.losses_of(sides, work.dtype),
        "skipped": skipped,
        **training_speed.compared(sides, rates),
    }


def predict(
    folder: Path, samples: list[Any], shape: shapes.Shape, dtype: str, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Answer in batches and one by one."""
    asked = prediction_speed.Questions(folder / "base", folder / "data", samples, shapes.TRAINED_TOKENS, dtype)
    found = prediction_speed.compare(asked, folder, (2,) if arguments.tiny else BATCH_SIZES, arguments.rounds)
    needed = prediction_operations(shape, found["shape"])
    rates = found["samples_per_second"]
    return {**found, "utilisation": {way: used(needed, [rate["median"]]) for way, rate in rates.items()}}


def training_operations(shape: shapes.Shape, counts: Mapping[str, int], mode: str) -> float:
    """Return the operations that one sample of a training needs.

    Backward, the body costs as much again for its inputs, and with all its weights trained as much again for those.
    Logits are needed where labels are.
    """
    parts = shapes.flops(shape.differences, counts["visual_tokens"], counts["other_tokens"])
    head = parts["head"] * counts["trained_tokens"] / (counts["visual_tokens"] + counts["other_tokens"])
    passes = 2 if mode == "lora" else 3
    return parts["vision"] + passes * (parts["body"] + head)


def prediction_operations(shape: shapes.Shape, counts: Mapping[str, int]) -> float:
    """Return the operations that one answer needs: the prompt once, then one position for each new token."""
    tokens = counts["visual_tokens"] + counts["other_tokens"]
    parts = shapes.flops(shape.differences, counts["visual_tokens"], counts["other_tokens"])
    return parts["vision"] + parts["body"] + counts["new_tokens"] * (parts["body"] + parts["head"]) / tokens


def used(operations: float, rates: list[float]) -> dict[str, float] | None:
    """Return the share of what the GPU could do that was used; None if that is not known."""
    import torch

    peak = peak_of(torch.cuda.get_device_name()) if torch.cuda.is_available() else None
    return common.spread([operations * rate / peak for rate in rates]) if peak else None


def tell(measured: dict[str, Any]) -> list[str]:
    lines = [measured["device"]]
    for size, modes in measured["sizes"].items():
        for mode in (mode for mode in MODES if mode in modes):
            lines += [f"{size}, {mode}, {name}: {reason}" for name, reason in modes[mode]["skipped"].items()]
            for name, side in modes[mode].get("sides", {}).items():
                share = f", utilisation {side['utilisation']['median']:g}" if side["utilisation"] else ""
                lines.append(
                    f"{size}, {mode}, {name}: {common.told(side['samples_per_second'], 'samples/s')}{share}, peak "
                    f"{side['peak_mb']['median']:g} MB, {side['settings']}"
                )
        for way, rate in modes["prediction"]["samples_per_second"].items():
            lines.append(f"{size}, prediction, {way}: {common.told(rate, 'samples/s')}")
    return lines


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    common.run(
        main,
        tell,
        {
            "samples": (32, 4, "samples of an epoch"),
            "batch-size": (8, 2, "samples of an optimizer step"),
            "rounds": (3, 1, "times each side is measured"),
            "sizes": (3, 1, "how many of 2B, 4B and 8B"),
            "modes": (2, 1, "how many of lora and full"),
        },
    )

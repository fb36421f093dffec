"""How much a result depends on how it was computed, on the demo model: what docs/reproducibility.md states.

Trainings of one adapter with other micro-batches, two processes, recomputed activations, and torch's own dropout in
place of that by sample; answers in batches and one at a time; and what dropout by sample costs. Run after
`make demo-data`:

    python benchmarks/reproducibility.py --out benchmarks/results/reproducibility.json
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from usertune.core.manifest import read_result
from usertune.data.prepare import prepare_user
from usertune.data.samples import read_user
from usertune.inference.engine import EngineSettings
from usertune.inference.engines.transformers import TransformersEngine
from usertune.models.base_model import describe_base_model
from usertune.models.qwen3_vl import load_model, prepare_for_training
from usertune.training import finetune
from usertune.training.processes import ALONE, Processes
from usertune.training.sample_dropout import Draw, draw_by_sample
from usertune.training.train import train_experiment

PREPARE = {"step": "prepare", "format": "messages", "task": "grounding", "on_bad_sample": "error", "upstream": {}}
PIXELS = {"min": None, "max": None}
TRAINING = {
    "epochs": 3, "learning_rate": 4e-3, "schedule": "linear", "warmup": 0.03, "weight_decay": 0.01,
    "max_grad_norm": 1.0, "batch_size": 16, "validate_every_steps": 1000, "seed": 0,
    "lora": {"rank": 4, "alpha": 32, "dropout": 0.05},
}  # fmt: skip
TRAIN_USERS, TEST_USERS = ("11", "12", "13"), tuple(map(str, range(1, 9)))


def main(arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as name:
        place = Place(Path(name), arguments.dataset, arguments.base)
        found = {
            "command": "python benchmarks/reproducibility.py",
            "machine": {"processor": platform.processor() or platform.machine(), "torch": torch.__version__},
            "training": trainings(place),
            "prediction": answers(place, arguments.samples),
            "dropout_by_sample_cost": costs(arguments.base, arguments.rounds),
        }
    text = json.dumps(found, indent=2) + "\n"
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(text)
    print(text)


class Place:
    """Prepared samples of the demo, in a folder that goes away."""

    def __init__(self, folder: Path, dataset: Path, base: Path) -> None:
        self.folder, self.dataset, self.base = folder, dataset, base
        describe_base_model({"path": str(base), "revision": None, "pixels": PIXELS}, folder / "base.json")
        for user in (*TRAIN_USERS, *TEST_USERS):
            prepare_user(PREPARE, dataset, user, folder / f"user_{user}.jsonl", self.manifest(user))

    def manifest(self, user: str) -> Path:
        """Return the manifest of a user's samples."""
        return self.folder / f"user_{user}.manifest.json"

    def train(
        self, name: str, micro_batch_size: int, processes: Processes = ALONE, dtype: str = "float32", **how: Any
    ) -> tuple[list[float], dict[str, torch.Tensor]]:
        """Train, and return the losses and the adapter."""
        out = self.folder / name
        execution = {"gradient_checkpointing": False, "save_every_steps": 1000, "dataloader_num_workers": 0, **how}
        train_experiment(
            recipe={"step": "train", "mode": "lora", "training": TRAINING, "pixels": PIXELS, "dtype": dtype},
            execution={**execution, "micro_batch_size": micro_batch_size},
            experiment="lora",
            base_manifest=self.folder / "base.json",
            train_manifests=[self.manifest(user) for user in TRAIN_USERS],
            validation_manifests=[],
            dataset_root=self.dataset,
            manifest_file=out / "manifest.json",
            log_file=out / "log.csv",
            gpus=0,
            processes=processes,
        )
        losses = [float(row["loss"]) for row in csv.DictReader((out / "log.csv").open())]
        weights = load_file(out / read_result(out / "manifest.json")["weights_folder"] / "adapter_model.safetensors")
        return losses, weights


def trainings(place: Place) -> dict[str, Any]:
    """Return, for other ways to compute the same training, the largest differences of losses and weights."""
    reference = place.train("reference", 16)
    found = {
        "micro_batch_size 1 instead of 16": _difference(reference, place.train("one", 1)),
        "micro_batch_size 8 instead of 16": _difference(reference, place.train("eight", 8)),
        "gradient_checkpointing": _difference(reference, place.train("again", 16, gradient_checkpointing=True)),
        "2 processes instead of 1": _difference(
            reference, place.train("two", 8, Processes(nproc_per_node=2, threads=2))
        ),
    }
    bfloat16 = place.train("bfloat16", 16, dtype="bfloat16")
    found["bfloat16, micro_batch_size 1 instead of 16"] = _difference(bfloat16, place.train("b1", 1, dtype="bfloat16"))
    with _torch_dropout():
        theirs = place.train("theirs", 16)
        found["torch's dropout, micro_batch_size 1 instead of 16"] = _difference(theirs, place.train("theirs1", 1))
    return found


def _difference(first: Any, second: Any) -> dict[str, float]:
    losses = max(abs(one - other) / one for one, other in zip(first[0], second[0], strict=True))
    weights = max(float((first[1][name] - second[1][name]).abs().max()) for name in first[1])
    largest = max(float(value.abs().max()) for value in first[1].values())
    return {
        "largest_relative_difference_of_a_loss": float(f"{losses:.2g}"),
        "largest_difference_of_a_weight": float(f"{weights:.2g}"),
        "largest_weight": float(f"{largest:.2g}"),
    }


@contextmanager
def _torch_dropout() -> Iterator[None]:
    original = finetune.draw_by_sample
    finetune.draw_by_sample = lambda _, seed: Draw(seed)
    try:
        yield
    finally:
        finetune.draw_by_sample = original


def answers(place: Place, count: int) -> dict[str, Any]:
    """Return how many answers in batches of 32 are others than one at a time."""
    samples = [sample for user in TEST_USERS for sample in read_user(place.manifest(user))[1]][:count]
    found: dict[str, Any] = {"samples": len(samples)}
    for dtype in ("float32", "bfloat16"):
        generator = TransformersEngine(
            EngineSettings(place.base, "vanilla", None, dtype, PIXELS, place.dataset, max_new_tokens=64)
        )
        texts = {}
        for size in (32, 1):
            pairs = [pair for batch in generator.answer(samples, size) for pair in batch]
            texts[size] = {sample["id"]: answer.text for sample, answer in pairs}
        found[dtype] = sum(texts[32][name] != texts[1][name] for name in texts[1])
    return found


def costs(base: Path, rounds: int) -> dict[str, Any]:
    """Return the time of a training step's passes with dropout by sample over that with torch's dropout."""
    config = Qwen3VLConfig.from_pretrained(str(base))
    text = config.text_config
    text.hidden_size, text.num_hidden_layers, text.num_attention_heads, text.num_key_value_heads = 1024, 8, 16, 8
    text.head_dim, text.intermediate_size, text.vocab_size = 64, 3072, 32_000
    text.rope_parameters = {**text.rope_parameters, "mrope_section": [12, 10, 10]}
    config.vision_config.out_hidden_size = 1024
    larger = Qwen3VLForConditionalGeneration(config)
    return {
        "demo model, 16 samples of 54 tokens": _cost(load_model(base, "float32"), 16, 54, rounds),
        "8 layers of 1,024 features, 2 samples of 400 tokens": _cost(larger, 2, 400, max(3, rounds // 10)),
    }


def _cost(model: Any, samples: int, tokens: int, rounds: int) -> dict[str, float]:
    adapted = prepare_for_training(model, "lora", {"lora": TRAINING["lora"]}).train()
    layers = [module for module in adapted.modules() if hasattr(module, "lora_dropout")]
    kinds: dict[str, list[nn.Module]] = {"torch": [layer.lora_dropout["default"] for layer in layers]}
    draw = draw_by_sample(adapted, 0)
    kinds["by sample"] = [layer.lora_dropout["default"] for layer in layers]
    ids = torch.randint(5, 300, (samples, tokens))
    seconds: dict[str, list[float]] = {name: [] for name in kinds}
    for number in range(rounds + 1):
        for name, dropouts in kinds.items():
            for layer, dropout in zip(layers, dropouts, strict=True):
                layer.lora_dropout["default"] = dropout
            started = time.perf_counter()
            draw.begin(torch.arange(samples), tokens, number)
            adapted(input_ids=ids, labels=ids, use_cache=False).loss.backward()
            adapted.zero_grad()
            if number:
                seconds[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "seconds_with_torch": float(f"{medians['torch']:.3g}"),
        "seconds_by_sample": float(f"{medians['by sample']:.3g}"),
        "ratio": round(medians["by sample"] / medians["torch"], 3),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", type=Path, default=Path("demo/dataset"), help="default: demo/dataset")
    parser.add_argument("--base", type=Path, default=Path("demo/base"), help="default: demo/base")
    parser.add_argument("--samples", type=int, default=240, help="samples to answer (default: 240)")
    parser.add_argument("--rounds", type=int, default=50, help="times that a step is measured (default: 50)")
    parser.add_argument("--out", type=Path, metavar="JSON", help="also write the results there")
    main(parser.parse_args())

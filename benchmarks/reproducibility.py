"""How much a result depends on how it was computed, on the demo model: what docs/reproducibility.md states.

Trainings of one adapter with other micro-batches, two processes, recomputed activations, and torch's own dropout in
place of that by sample; answers in batches and one at a time; and what dropout by sample costs. Takes minutes:

    python benchmarks/reproducibility.py
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import common

from usertune.core.manifest import read_result
from usertune.demo.dataset import Counts
from usertune.models.base_model import describe_base_model
from usertune.models.recipe import BaseModelRecipe, LoraSettings, Pixels
from usertune.training.processes import ALONE, Processes

PIXELS = Pixels(min=None, max=None)
TRAINING = {
    "epochs": 3, "learning_rate": 4e-3, "schedule": "linear", "warmup": 0.03, "weight_decay": 0.01,
    "max_grad_norm": 1.0, "batch_size": 16, "validate_every_steps": 1000, "seed": 0,
    "lora": {"rank": 4, "alpha": 32, "dropout": 0.05},
}  # fmt: skip
TRAIN_USERS, TEST_USERS = ("11", "12", "13"), tuple(map(str, range(1, 9)))


def main(arguments: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        counts = Counts(train=arguments.train_samples, test=min(50, arguments.samples))
        place = Place(Path(name), counts, arguments.epochs)
        return {
            "training": trainings(place, arguments.processes),
            "prediction": answers(place, arguments.samples),
            "dropout_by_sample": costs(arguments.rounds, arguments.layers),
        }


def tell(measured: dict[str, Any]) -> list[str]:
    lines = [
        f"{name}: a loss by {found['loss']:.1e} of itself, a weight by {found['weight']:.1e} "
        f"(the largest is {found['largest_weight']:g})"
        for name, found in measured["training"].items()
    ]
    different = measured["prediction"]
    lines += [
        f"{dtype}: {different[dtype]} of {different['samples']} answers differ between batches of 32 and of one"
        for dtype in ("float32", "bfloat16")
    ]
    return lines + [
        f"a step with dropout by sample over one with torch's, {name}: {common.told(found['by_sample_over_torch'])}"
        for name, found in measured["dropout_by_sample"].items()
    ]


class Place:
    """Prepared samples of the demo, in a folder that goes away."""

    def __init__(self, folder: Path, counts: Counts, epochs: int) -> None:
        self.folder, self.epochs = folder, epochs
        describe_base_model(
            BaseModelRecipe(step="base_model", path=str(common.BASE), pixels=PIXELS), folder / "base.json"
        )
        self.manifests = common.demo_samples(folder, (*TRAIN_USERS, *TEST_USERS), counts)

    def train(
        self, name: str, micro_batch_size: int, processes: Processes = ALONE, dtype: str = "float32", **how: Any
    ) -> tuple[list[float], dict[str, Any]]:
        """Train, and return the losses and the tensors of the adapter."""
        from safetensors.torch import load_file

        from usertune.training.recipe import Execution, TrainRecipe
        from usertune.training.train import Allotment, TrainFiles, train_experiment

        out = self.folder / name
        execution = {"gradient_checkpointing": False, "save_every_steps": 1000, "dataloader_num_workers": 0, **how}
        recipe = {
            "step": "train",
            "mode": "lora",
            "training": {**TRAINING, "epochs": self.epochs},
            "pixels": PIXELS,
            "dtype": dtype,
        }
        files = TrainFiles(
            base_model=self.folder / "base.json",
            train=[self.manifests[user] for user in TRAIN_USERS],
            validation=[],
            dataset_root=self.folder / "dataset",
            manifest=out / "manifest.json",
            losses=out / "log.csv",
        )
        train_experiment(
            TrainRecipe.model_validate(recipe),
            Execution.model_validate({**execution, "micro_batch_size": micro_batch_size}),
            "lora",
            files,
            Allotment(processes=processes),
        )
        losses = [float(row["loss"]) for row in csv.DictReader((out / "log.csv").open())]
        weights = load_file(out / read_result(out / "manifest.json")["weights_folder"] / "adapter_model.safetensors")
        return losses, weights


def trainings(place: Place, processes: int) -> dict[str, Any]:
    """Return, for other ways to compute the same training, the largest differences of losses and weights."""
    from usertune.training import finetune
    from usertune.training.sample_dropout import Draw

    reference = place.train("reference", 16)
    several = Processes(nproc_per_node=processes, threads=processes)
    found = {
        "micro_batch_size_1": _difference(reference, place.train("one", 1)),
        "micro_batch_size_8": _difference(reference, place.train("eight", 8)),
        "gradient_checkpointing": _difference(reference, place.train("again", 16, gradient_checkpointing=True)),
        "several_processes": _difference(reference, place.train("several", 16 // processes, several)),
    }
    bfloat16 = place.train("bfloat16", 16, dtype="bfloat16")
    found["bfloat16_micro_batch_size_1"] = _difference(bfloat16, place.train("b1", 1, dtype="bfloat16"))
    with patch.object(finetune, "draw_by_sample", lambda _, seed: Draw(seed)):
        theirs = place.train("theirs", 16)
        found["torch_dropout_micro_batch_size_1"] = _difference(theirs, place.train("theirs1", 1))
    return found


def _difference(first: Any, second: Any) -> dict[str, float]:
    losses = max(abs(one - other) / one for one, other in zip(first[0], second[0], strict=True))
    weights = max(float((first[1][name] - second[1][name]).abs().max()) for name in first[1])
    largest = max(float(value.abs().max()) for value in first[1].values())
    return {
        name: float(f"{value:.2g}")
        for name, value in {"loss": losses, "weight": weights, "largest_weight": largest}.items()
    }


def answers(place: Place, count: int) -> dict[str, Any]:
    """Return how many answers in batches of 32 are others than one at a time."""
    from usertune.inference.engine import EngineSettings
    from usertune.inference.engines.transformers import TransformersEngine
    from usertune.inference.questions import questions_of

    samples = common.read_samples({user: place.manifests[user] for user in TEST_USERS}, count)
    found: dict[str, Any] = {"samples": len(samples)}
    for dtype in ("float32", "bfloat16"):
        generator = TransformersEngine(
            EngineSettings(common.BASE, "vanilla", None, dtype, PIXELS, place.folder / "dataset", max_new_tokens=64)
        )
        texts = {}
        for size in (32, 1):
            pairs = [pair for batch in generator.answer(questions_of(samples), size) for pair in batch]
            texts[size] = {question.sample["id"]: answer.text for question, answer in pairs}
        found[dtype] = sum(texts[32][name] != texts[1][name] for name in texts[1])
    return found


def costs(rounds: int, layers: int) -> dict[str, Any]:
    """Return the time of a training step's passes with dropout by sample over that with torch's dropout."""
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    from usertune.models.loading import load_model

    config = Qwen3VLConfig.from_pretrained(str(common.BASE))
    text = config.text_config
    text.hidden_size, text.num_hidden_layers, text.num_attention_heads, text.num_key_value_heads = 1024, layers, 16, 8
    text.head_dim, text.intermediate_size, text.vocab_size = 64, 3072, 32_000
    text.rope_parameters = {**text.rope_parameters, "mrope_section": [12, 10, 10]}
    config.vision_config.out_hidden_size = 1024
    larger = Qwen3VLForConditionalGeneration(config)
    return {
        "demo_model": _cost(load_model(common.BASE, "float32"), 16, 54, rounds),
        "larger_model": {"layers": layers, "features": 1024, **_cost(larger, 2, 25 * layers, -(-rounds // 10))},
    }


def _cost(model: Any, samples: int, tokens: int, rounds: int) -> dict[str, Any]:
    import torch

    from usertune.models.loading import prepare_for_training
    from usertune.training.sample_dropout import draw_by_sample

    adapted = prepare_for_training(model, LoraSettings.model_validate(TRAINING["lora"])).train()
    layers = [module for module in adapted.modules() if hasattr(module, "lora_dropout")]
    kinds = {"torch": [layer.lora_dropout["default"] for layer in layers]}
    draw = draw_by_sample(adapted, 0)
    kinds["by_sample"] = [layer.lora_dropout["default"] for layer in layers]
    ids = torch.randint(5, 300, (samples, tokens))

    def step(kind: str) -> None:
        for layer, dropout in zip(layers, kinds[kind], strict=True):
            layer.lora_dropout["default"] = dropout
        draw.begin(torch.arange(samples), tokens, 0)
        adapted(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        adapted.zero_grad()

    step("torch")
    seconds = common.in_turn({kind: partial(step, kind) for kind in kinds}, rounds)
    return {
        "samples": samples,
        "tokens": tokens,
        "seconds": {kind: common.spread(values) for kind, values in seconds.items()},
        "by_sample_over_torch": common.ratio(seconds["by_sample"], seconds["torch"]),
    }


if __name__ == "__main__":
    common.run(
        main,
        tell,
        {
            "train-samples": (20, 2, "samples of each of three users to train on"),
            "epochs": (3, 1, "passes over them"),
            "processes": (2, 1, "processes of the training with several"),
            "samples": (240, 8, "samples to answer"),
            "rounds": (50, 1, "times that a step of the demo model is measured, ten times those of the larger one"),
            "layers": (4, 1, "layers of the larger model, which gets 25 tokens for each of them"),
        },
    )

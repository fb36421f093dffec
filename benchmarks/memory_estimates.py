"""The memory that usertune check estimates, beside the peaks of real trainings.

Tensors: three tiny models train for two steps, each as lora and full, with and without checkpointing and in both number
formats; the live bytes of all tensors are counted at every operation, so the result is the same on every machine.

Process: a training step of Qwen3-VL-2B with random weights (lora, float32, checkpointing, one screenshot of 1080 x 2340
pixels), in a process of its own, of which the kernel reports the peak. It needs 20 GB of memory, 10
GB of disk space, and minutes:

    python benchmarks/memory_estimates.py
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import shutil
import subprocess
import sys
import tempfile
import weakref
from pathlib import Path
from typing import Any
from unittest.mock import patch

import common
import torch
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from usertune.checks.estimates.memory import RUNTIME_BYTES, MicroBatch, Parts, Setup, training_memory
from usertune.data.samples import Sample
from usertune.models.model_shape import ModelShape, read_model_shape
from usertune.models.recipe import FreezeSettings, LoraSettings, Pixels

LORA: dict[str, Any] = {"rank": 4, "alpha": 8, "dropout": 0.05}
FREEZE = {"vision": True, "merger": True}
SCREENSHOT = (1080, 2340)
TINY_SCREEN = (160, 320)
# Name -> what differs from the demo's base model.
TINY: dict[str, dict[str, Any]] = {
    "wide": {
        "text_config": {
            "hidden_size": 256, "num_hidden_layers": 8, "intermediate_size": 768, "num_attention_heads": 8,
        },
    },
    "deep, large vocabulary": {
        "text_config": {
            "hidden_size": 192, "num_hidden_layers": 12, "intermediate_size": 512, "num_attention_heads": 6,
            "vocab_size": 4000,
        },
        "vision_config": {"depth": 4, "hidden_size": 128, "intermediate_size": 256},
        "tie_word_embeddings": False,
    },
    "narrow": {
        "text_config": {"num_hidden_layers": 16, "intermediate_size": 1024, "num_key_value_heads": 4},
    },
}  # fmt: skip
# The sizes of Qwen3-VL-2B-Instruct (its config.json on the hub), and 8B.
REAL: dict[str, dict[str, Any]] = {
    "2B": {
        "text_config": {
            "hidden_size": 2048, "num_hidden_layers": 28, "intermediate_size": 6144, "num_attention_heads": 16,
            "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936,
            "rope_parameters": {
                "rope_type": "default", "rope_theta": 5e6, "mrope_section": [24, 20, 20], "mrope_interleaved": True,
            },
        },
        "vision_config": {
            "depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "num_heads": 16,
            "num_position_embeddings": 2304, "deepstack_visual_indexes": [5, 11, 17],
        },
    },
    "8B": {
        "text_config": {
            "hidden_size": 4096, "num_hidden_layers": 36, "intermediate_size": 12288, "num_attention_heads": 32,
            "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936,
            "rope_parameters": {
                "rope_type": "default", "rope_theta": 5e6, "mrope_section": [24, 20, 20], "mrope_interleaved": True,
            },
        },
        "vision_config": {
            "depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "num_heads": 16,
            "num_position_embeddings": 2304, "deepstack_visual_indexes": [8, 16, 24],
        },
        "tie_word_embeddings": False,
    },
}  # fmt: skip
WEIGHTS = "model.safetensors"


class LiveTensors(TorchDispatchMode):
    """Counts the bytes of all storages that are alive, at every operation of torch; ``peak`` is the most.

    What an operation allocates and frees within itself is not seen.

    Args:
        model: its weights count from the start.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self._known: dict[int, weakref.ref[Any]] = {}
        self._live = self.peak = 0
        for weights in (*model.parameters(), *model.buffers()):
            self._count(weights)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, and count its outputs."""
        outputs = function(*args, **(kwargs or {}))
        for output in tree_leaves(outputs):
            if isinstance(output, torch.Tensor):
                self._count(output)
        return outputs

    def _count(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return

        def freed(_: object) -> None:
            self._live -= size
            del self._known[key]

        self._known[key] = weakref.ref(storage, freed)
        self._live += size
        self.peak = max(self.peak, self._live)


def make_base(folder: Path, differences: dict[str, Any], hollow: bool = False) -> None:
    """Write a base model with the demo's processor, other sizes and random weights.

    Args:
        folder: the folder to make.
        differences: keys of config.json, and of its sections, that differ from the demo's base model.
        hollow: write the headers of the weights in bfloat16, and no numbers; the file takes no place on the disk.
    """
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    shutil.copytree(common.BASE, folder)
    config = json.loads((folder / "config.json").read_text())
    for key, value in differences.items():
        config[key] = {**config[key], **value} if isinstance(value, dict) else value
    config["vision_config"]["out_hidden_size"] = config["text_config"]["hidden_size"]
    torch.manual_seed(0)
    with torch.device("meta" if hollow else "cpu"):
        model = Qwen3VLForConditionalGeneration(Qwen3VLConfig(**config))
    if not hollow:
        model.save_pretrained(folder)
        return
    (folder / "config.json").write_text(json.dumps(config))
    header, end = {}, 0
    for name, weights in model.named_parameters():
        size = 2 * weights.numel()
        header[name] = {"dtype": "BF16", "shape": list(weights.shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    with (folder / WEIGHTS).open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)


def screens(root: Path, count: int, size: tuple[int, int], longer: int = 0) -> list[Sample]:
    """Draw screens of noise, and return a sample of each.

    Args:
        root: the dataset's folder, to be made.
        count: number of samples.
        size: width and height in pixels.
        longer: words by which each text is longer than the one before.
    """
    root.mkdir()
    samples: list[Sample] = []
    for number in range(count):
        file = root / f"{number}.png"
        Image.effect_noise(size, 50).convert("RGB").save(file)
        samples.append(common.sample(file, " ".join(["tap"] * (10 + longer * number)), "[512, 340]"))
    return samples


def fine_tuning(
    base: Path, root: Path, samples: list[Sample], mode: str, dtype: str, checkpointing: bool, micro: int
) -> Any:
    """Return a run of two optimizer steps over the samples, or of one over a single sample."""
    from usertune.training.inputs import FineTuning
    from usertune.training.recipe import Execution, TrainRecipe

    weights = {"lora": LORA} if mode == "lora" else {"freeze": FREEZE}
    training = {
        "epochs": 1, "learning_rate": 1e-4, "schedule": "linear", "weight_decay": 0, "max_grad_norm": 1,
        "batch_size": max(1, len(samples) // 2), "validate_every_steps": 100, "seed": 0, **weights,
    }  # fmt: skip
    recipe = {"step": "train", "mode": mode, "dtype": dtype, "training": training}
    execution = Execution(
        micro_batch_size=micro, gradient_checkpointing=checkpointing, save_every_steps=100, dataloader_num_workers=0
    )
    return FineTuning(TrainRecipe.model_validate(recipe), execution, base, root, samples, [])


def tensors_of_training(run: Any, work: Path) -> tuple[int, int]:
    """Train, and return the peak of the bytes of live tensors during the steps, and the number of trained weights."""
    from usertune.training import finetune

    found = {}
    train = finetune._run

    def watched(trainer: Any, *rest: Any) -> None:
        found["trained"] = sum(weights.numel() for weights in trainer.model.parameters() if weights.requires_grad)
        with LiveTensors(trainer.model) as live:
            train(trainer, *rest)
        found["peak"] = live.peak

    with patch.object(finetune, "_run", watched):
        finetune.fine_tune(run, work / "work", work / "weights", work / "losses.csv")
    return found["peak"], found["trained"]


def estimate_of(run: Any, shape: ModelShape) -> Parts:
    """Return the estimate of a run; lengths are counted by the processor."""
    from usertune.models.conversation import ConversationTokenizer
    from usertune.models.families.catalogue import family_of
    from usertune.models.loading import load_processor

    conversations = ConversationTokenizer(load_processor(run.base_folder, Pixels()), family_of(run.base_folder))
    tokenized = [conversations.conversation(sample) for sample in run.train_samples]
    lengths = [len(one.input_ids) for one in tokenized]
    micro, answer = run.execution.micro_batch_size, max(sum(one.is_answer) for one in tokenized)
    batch = MicroBatch(
        samples=micro,
        tokens=max(lengths),
        image_tokens=micro * conversations.image_tokens(run.train_samples[0])[0],
        answer_positions=answer + max(lengths) - min(lengths),
        padded=max(lengths) > min(lengths),
    )
    setup = Setup(
        weights=run.recipe.weights,
        dtype=run.recipe.dtype,
        checkpointing=run.execution.gradient_checkpointing,
        accumulation=run.training.batch_size // micro,
        device="cpu",
    )
    return training_memory(shape, setup, batch)


def compare_tiny(
    name: str, mode: str, dtype: str = "float32", checkpointing: bool = False, micro: int = 2, longer: int = 0
) -> dict[str, Any]:
    """Train a tiny model; return the measured and the estimated bytes of its tensors, without those of libraries."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_base(folder / "base", TINY[name])
        samples = screens(folder / "data", 8, TINY_SCREEN, longer)
        run = fine_tuning(folder / "base", folder / "data", samples, mode, dtype, checkpointing, micro)
        shape = read_model_shape(folder / "base", Pixels())
        estimated = sum(estimate_of(run, shape).values()) - RUNTIME_BYTES["cpu"]
        measured, trained = tensors_of_training(run, folder)
    settings = LoraSettings(**LORA) if mode == "lora" else FreezeSettings(**FREEZE)
    if shape.trained(settings) != trained:
        sys.exit(f"{name}, {mode}: {trained} weights are trained, but {shape.trained(settings)} were counted")
    return {
        "model": name, "mode": mode, "dtype": dtype, "checkpointing": checkpointing, "micro_batch_size": micro,
        "measured_mb": round(measured / 1e6, 2), "estimated_mb": round(estimated / 1e6, 2),
        "ratio": round(estimated / measured, 3),
    }  # fmt: skip


# Takes the folder of `compare_process`: trains one step, and prints the peak of the process in bytes.
ONE_STEP = """
import resource, sys
from pathlib import Path
sys.path.insert(0, {benchmarks!r})
import memory_estimates as own
from usertune.training.finetune import fine_tune
folder = Path(sys.argv[1])
run = own.run_in(folder)
fine_tune(run, folder / "work", folder / "weights", folder / "losses.csv")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def run_in(folder: Path) -> Any:
    """Return the run of `compare_process`: lora, float32, with checkpointing, one screenshot a step."""
    samples = json.loads((folder / "samples.json").read_text())
    return fine_tuning(folder / "base", folder / "data", samples, "lora", "float32", True, 1)


def compare_process(differences: dict[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    """Train one step in a process of its own; return its measured and its estimated peak."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_base(folder / "base", differences)
        samples = screens(folder / "data", 1, size)
        (folder / "samples.json").write_text(json.dumps(samples))
        shape = read_model_shape(folder / "base", Pixels())
        parts = estimate_of(run_in(folder), shape)
        program = ONE_STEP.format(benchmarks=str(Path(__file__).parent))
        # So that the other process has the machine's memory.
        gc.collect()
        done = subprocess.run([sys.executable, "-c", program, str(folder)], capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"the training failed with exit code {done.returncode}:\n{done.stderr[-3000:]}")
        measured = int(done.stdout.split()[-1])
    estimated = sum(parts.values())
    return {
        "weights": shape.total,
        "visual_tokens": shape.image_tokens(*size),
        "measured_gib": round(measured / 2**30, 3),
        "estimated_gib": round(estimated / 2**30, 3),
        "ratio": round(estimated / measured, 3),
        "parts_gib": {name: round(value / 2**30, 3) for name, value in parts.items()},
    }


def main(arguments: argparse.Namespace) -> dict[str, Any]:
    # Messages about each tiny model would hide the result.
    logger = logging.getLogger("usertune")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        return _compare(arguments)
    finally:
        logger.setLevel(level)


def _compare(arguments: argparse.Namespace) -> dict[str, Any]:
    names = list(TINY)[: arguments.models]
    tiny = [
        compare_tiny(name, mode, dtype, checkpointing)
        for name in names
        for mode in ("lora", "full")
        for dtype in ("float32", "bfloat16")[: arguments.formats]
        for checkpointing in (False, True)
    ]
    ratios = [one["ratio"] for one in tiny]
    real = compare_process(REAL["2B"], SCREENSHOT) if arguments.real else compare_process(TINY["wide"], TINY_SCREEN)
    return {
        "tensors": tiny,
        "lowest_ratio": min(ratios, default=None),
        "highest_ratio": max(ratios, default=None),
        "process": real,
    }


def tell(measured: dict[str, Any]) -> list[str]:
    lines = [
        f"{one['model']}, {one['mode']}, {one['dtype']}, checkpointing {one['checkpointing']}: "
        f"estimated {one['estimated_mb']} MB, measured {one['measured_mb']} MB, ratio {one['ratio']}"
        for one in measured["tensors"]
    ]
    process = measured["process"]
    return [
        *lines,
        f"a process with {process['weights']:,} weights and {process['visual_tokens']} visual tokens: estimated "
        f"{process['estimated_gib']} GiB, measured {process['measured_gib']} GiB, ratio {process['ratio']}",
    ]


if __name__ == "__main__":
    common.run(
        main,
        tell,
        {
            "models": (3, 1, "tiny models"),
            "formats": (2, 1, "number formats"),
            "real": (1, 0, "whether the process trains Qwen3-VL-2B, or a tiny model"),
        },
    )

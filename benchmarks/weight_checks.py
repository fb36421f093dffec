"""What the checks of weights cost: a base model's folder when jobs are planned, and all numbers when they are loaded.

The folder has the tensors of Qwen3-VL-8B's layers in four files without data (no place on the disk), the weights that
are loaded are one GB of random numbers in bfloat16, read from the file system's cache on one thread:

    python benchmarks/weight_checks.py
"""

from __future__ import annotations

import argparse
import json
import shutil
import struct
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common

from usertune.models.model_folder import INDEX

ATTENTION = [f"self_attn.{name}" for name in ("q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "k_norm")]
LAYER = [*ATTENTION, "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj", "input_layernorm", "post_attention_layernorm"]
BLOCK = ["attn.qkv", "attn.proj", "mlp.linear_fc1", "mlp.linear_fc2", "norm1", "norm2"]
OTHERS = ["language_model.embed_tokens", "language_model.norm", "visual.patch_embed.proj", "visual.pos_embed"]


def make_folder(folder: Path) -> int:
    """Write a base model's folder with Qwen3-VL-8B's names; return the number of tensors."""
    shutil.copytree(common.BASE, folder)
    (folder / "model.safetensors").unlink()
    names = [f"model.language_model.layers.{number}.{part}.weight" for number in range(36) for part in LAYER]
    names += [
        f"model.visual.blocks.{n}.{part}.{kind}" for n in range(27) for part in BLOCK for kind in ("weight", "bias")
    ]
    names += [
        f"model.visual.deepstack_merger_list.{n}.{part}.weight" for n in range(3) for part in ("norm", "linear_fc1")
    ]
    names += [*(f"model.{name}.weight" for name in [*OTHERS, "visual.merger.norm"]), "lm_head.weight"]
    files = {name: f"model-{number % 4}.safetensors" for number, name in enumerate(names)}
    for file in set(files.values()):
        own = [name for name in names if files[name] == file]
        header = {
            name: {"dtype": "BF16", "shape": [1], "data_offsets": [2 * n, 2 * n + 2]} for n, name in enumerate(own)
        }
        text = json.dumps(header).encode()
        (folder / file).write_bytes(struct.pack("<Q", len(text)) + text + bytes(2 * len(own)))
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": files}))
    config = json.loads((folder / "config.json").read_text())
    config |= {"text_config": {"num_hidden_layers": 36}}
    config |= {"vision_config": {"depth": 27, "deepstack_visual_indexes": [8, 16, 24]}}
    (folder / "config.json").write_text(json.dumps(config))
    return len(names)


def main(arguments: argparse.Namespace) -> dict[str, Any]:
    import torch
    from safetensors.torch import load_file, save_file

    from usertune.models.model_folder import ModelFolder
    from usertune.models.weights import is_finite

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder, file = Path(temporary) / "base", Path(temporary) / "weights.safetensors"
        tensors = make_folder(folder)
        if problems := ModelFolder(folder).inspect():
            sys.exit(f"the folder made here is refused: {problems}")
        save_file({str(number): torch.randn(4096, 4096).bfloat16() for number in range(arguments.tensors)}, file)
        weights = load_file(file)
        size = file.stat().st_size / 1e9

        def per_gigabyte(function: Callable[[], object]) -> Callable[[], float]:
            return lambda: common.seconds_of(function) / size

        found = common.in_turn(
            {
                "planning": lambda: 1000 * common.seconds_of(lambda: ModelFolder(folder).inspect()),
                "reading": per_gigabyte(lambda: [value.clone() for value in load_file(file).values()]),
                "checking": per_gigabyte(lambda: [is_finite(value) for value in weights.values()]),
                "isfinite": per_gigabyte(lambda: [value.isfinite().all() for value in weights.values()]),
            },
            arguments.rounds,
        )
    return {
        "tensors_of_the_folder": tensors,
        "gigabytes": round(size, 3),
        "planning_milliseconds": common.spread(found["planning"]),
        "seconds_per_gigabyte": {name: common.spread(found[name]) for name in ("reading", "checking", "isfinite")},
        "checking_over_reading": common.ratio(found["checking"], found["reading"]),
    }


def tell(measured: dict[str, Any]) -> list[str]:
    words = {"reading": "reading", "checking": "looking for numbers that are not finite", "isfinite": "by isfinite"}
    return [
        f"planning: a folder of {measured['tensors_of_the_folder']} tensors in 4 files is checked in "
        f"{common.told(measured['planning_milliseconds'], 'ms')}",
        *(
            f"loading, one thread: {words[name]}: {common.told(values, 's a GB')}"
            for name, values in measured["seconds_per_gigabyte"].items()
        ),
        f"looking over reading: {common.told(measured['checking_over_reading'])}",
    ]


if __name__ == "__main__":
    common.run(main, tell, {"rounds": (5, 1, "times each is measured"), "tensors": (30, 1, "of 34 MB each, to load")})

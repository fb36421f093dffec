"""What the checks of weights cost: a base model's folder when jobs are planned, and all numbers when they are loaded.

The folder has the tensors of Qwen3-VL-8B's layers in four files without data (no place on the disk), the weights that
are loaded are one GB of random numbers in bfloat16, read from the file system's cache. Run anywhere:

    OMP_NUM_THREADS=1 python benchmarks/weight_checks.py
"""

from __future__ import annotations

import json
import shutil
import statistics
import struct
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from usertune.models.model_folder import INDEX, ModelFolder
from usertune.models.weights import is_finite

BASE = Path(__file__).resolve().parent.parent / "demo" / "base"
ATTENTION = [f"self_attn.{name}" for name in ("q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "k_norm")]
LAYER = [*ATTENTION, "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj", "input_layernorm", "post_attention_layernorm"]
BLOCK = ["attn.qkv", "attn.proj", "mlp.linear_fc1", "mlp.linear_fc2", "norm1", "norm2"]
OTHERS = ["language_model.embed_tokens", "language_model.norm", "visual.patch_embed.proj", "visual.pos_embed"]
REPEATS = 5


def make_folder(folder: Path) -> int:
    """Write a base model's folder with Qwen3-VL-8B's names; return the number of tensors."""
    shutil.copytree(BASE, folder)
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
    (folder / INDEX).write_text(json.dumps({"weight_map": files}))
    config = json.loads((folder / "config.json").read_text())
    config |= {"text_config": {"num_hidden_layers": 36}}
    config |= {"vision_config": {"depth": 27, "deepstack_visual_indexes": [8, 16, 24]}}
    (folder / "config.json").write_text(json.dumps(config))
    return len(names)


def seconds(function: Callable[[], object]) -> float:
    """Return the median time of several calls."""
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder, file = Path(temporary) / "base", Path(temporary) / "weights.safetensors"
        tensors = make_folder(folder)
        assert ModelFolder(folder).inspect() == []
        took = seconds(lambda: ModelFolder(folder).inspect())
        print(f"planning: a folder of {tensors} tensors in 4 files is checked in {1000 * took:.0f} ms")
        save_file({str(number): torch.randn(4096, 4096).bfloat16() for number in range(30)}, file)
        weights = load_file(file)
        size = file.stat().st_size / 1e9
        read = seconds(lambda: [value.clone() for value in load_file(file).values()]) / size
        check = seconds(lambda: [is_finite(value) for value in weights.values()]) / size
        plain = seconds(lambda: [value.isfinite().all() for value in weights.values()]) / size
        print(
            f"loading, {torch.get_num_threads()} thread(s): reading {read:.2f} s a GB, looking for numbers that are "
            f"not finite {check:.2f} s a GB (by isfinite {plain:.2f} s a GB)"
        )


if __name__ == "__main__":
    main()

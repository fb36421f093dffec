"""How fast usertune trains, beside TRL, ms-swift and the way of the reference experiment, in one run.

All sides train the same samples in the same order from the same weights, each in a process of its own with two threads,
in turn, several times over; the losses of all optimizer steps are checked to agree. Timed are all optimizer steps of
two epochs with the loading of their data, from the call that trains on; of usertune also what it prepares once the
model is loaded. The reference has its own settings: one sample at a time, gradient checkpointing, no workers. The
others get the fastest of the same list, found by short trials that are stored too. TRL and ms-swift need environments
of their own: make peers

    python benchmarks/training_speed.py
    python benchmarks/training_speed.py --shape true-2b --reference 0
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import common
import shapes
from transformers.utils import logging as transformers_logging

PEERS = Path(__file__).resolve().parent / "peers"
# Each has its program there, and its environment in .peers.
PEER_NAMES = ("trl", "swift")
# TRL without what makes it as fast on a CPU as it can be; a difference only where logits cost much.
AS_INSTALLED, LARGE_HEAD = "trl_as_installed", "vocabulary"
EPOCHS = 2
THREADS = 2
RANK, ALPHA = 8, 32
LEARNING_RATES = {"lora": 1e-3, "full": 1e-4}
# Relative difference of each step's loss. Sums in another order change the last digits of float32, and AdamW divides
# by the size of the gradients, so that a step may enlarge what differs in the smallest ones. In bfloat16 equal losses
# say no more than that both do about the same; float32 is what shows it.
LOSS_BOUNDS = {"float32": 1e-3, "bfloat16": 5e-2}


def settings(micro: int, workers: int, checkpointing: bool = False) -> dict[str, Any]:
    """Return settings of a side, by the names of a study's section ``training``."""
    return {
        "micro_batch_size": micro,
        "gradient_checkpointing": checkpointing,
        "dataloader_num_workers": workers,
    }


# What is tried; all batches have four samples. Checkpointing is always slower, so it is not tried where memory allows.
CANDIDATES = (settings(1, 0), settings(1, 1), settings(2, 0), settings(4, 1))
# The reference's own.
REFERENCE = settings(1, 0, checkpointing=True)
# Samples of an epoch, samples of an optimizer step, rounds.
SIZES = {"proportional": (16, 4, 3), "vocabulary": (4, 4, 3), "true-2b": (1, 1, 2)}
# A step of the 2B takes minutes: no trials.
FIXED = {"true-2b": settings(1, 0)}


class SideError(RuntimeError):
    """A side could not do what it was asked; the message is what it said."""


@dataclass
class Side:
    """One of those that are compared: a program and the Python that runs it."""

    program: str
    python: str
    settings: dict[str, Any] | None = None
    trials: list[dict[str, Any]] = field(default_factory=list)
    rounds: list[dict[str, Any]] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Work:
    """What all sides train.

    Attributes:
        folder: of everything that the run writes.
        samples: those of an epoch.
        mode: lora or full.
        batch_size: samples of an optimizer step.
        device: "cpu" or "cuda".
        dtype: number format of the frozen weights and of products of matrices; trained weights are in float32.
    """

    folder: Path
    samples: Sequence[Any]
    mode: str
    batch_size: int
    device: str = "cpu"
    dtype: str = "float32"

    @property
    def order(self) -> list[int]:
        """Numbers of the samples, in the order of usertune's training."""
        from usertune.models.conversation import TokenizedConversation
        from usertune.training.batches import Samples, Share, StepBatches

        rows = Samples([(sample, TokenizedConversation([], [])) for sample in self.samples])
        batches = StepBatches(rows, self.batch_size, self.batch_size, Share(), seed=0)
        numbers: list[int] = []
        for epoch in range(EPOCHS):
            batches.set_epoch(epoch)
            numbers += [number for batch in batches for number in batch]
        return numbers

    def job(self, name: str, tried: Sequence[Mapping[str, Any]], samples: Sequence[Any], epochs: int) -> dict[str, Any]:
        """Return what a side reads: where everything is, and the settings to train with, one after another."""
        return {
            "side": name,
            "base": str(self.folder / "base"),
            "root": str(self.folder / "data"),
            "work": str(self.folder / name),
            "adapter": str(self.folder / "adapter") if self.mode == "lora" else None,
            "rank": RANK,
            "alpha": ALPHA,
            # So that losses can be compared.
            "dropout": 0.0,
            "device": self.device,
            "dtype": self.dtype,
            "learning_rate": LEARNING_RATES[self.mode],
            "batch_size": self.batch_size,
            "epochs": epochs,
            "samples": samples,
            "settings": tried,
        }


def main(arguments: argparse.Namespace) -> dict[str, Any]:
    # Bars of loaded weights would hide the result.
    transformers_logging.disable_progress_bar()
    sides, skipped = sides_of(arguments)
    asked = (arguments.samples, arguments.batch_size, arguments.rounds)
    count, batch_size, rounds = (one or other for one, other in zip(asked, SIZES[arguments.shape], strict=True))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        shape = shapes.SHAPES["tiny" if arguments.tiny else arguments.shape]
        screenshot = shapes.TINY_SCREENSHOT if arguments.tiny else shapes.SCREENSHOT
        shapes.make_base(folder / "base", shape)
        samples = shapes.screenshots(folder / "data", count, screenshot)
        work = Work(folder, samples, arguments.mode, batch_size)
        if arguments.mode == "lora":
            make_adapter(work)
        for name, side in list(sides.items()):
            try:
                try_settings(work, name, side, () if arguments.tiny else CANDIDATES, FIXED.get(arguments.shape))
            except SideError as problem:
                if name not in (*PEER_NAMES, AS_INSTALLED):
                    raise
                skipped[name] = str(problem).splitlines()[-1]
                del sides[name]
        ways = {name: partial(train, work, name, side) for name, side in sides.items()}
        rates = common.in_turn(ways, rounds)
        counts = counted(work)
    return {
        "shape": {"about": shape.about, **counts, **ratios_of(shape, counts)},
        "mode": arguments.mode,
        "samples": count,
        "batch_size": batch_size,
        "sides": {name: found(side, rates[name]) for name, side in sides.items()},
        "skipped": skipped,
        "losses": losses_of(sides, work.dtype),
        **compared(sides, rates),
    }


def sides_of(arguments: argparse.Namespace) -> tuple[dict[str, Side], dict[str, str]]:
    """Return the sides, and the reasons for which others are missing."""
    sides = {"usertune": Side("own_training.py", sys.executable)}
    skipped: dict[str, str] = {}
    for name in PEER_NAMES:
        if python := peer_python(name):
            sides[name] = Side(f"{name}_training.py", python)
        else:
            skipped[name] = "not installed; make peers"
    if arguments.shape == LARGE_HEAD and "trl" in sides:
        sides[AS_INSTALLED] = Side(sides["trl"].program, sides["trl"].python)
    if arguments.reference:
        sides["reference"] = Side("reference_training.py", sys.executable, REFERENCE)
    else:
        skipped["reference"] = "not asked for"
    return sides, skipped


def peer_python(name: str) -> str | None:
    """Return the Python of a peer's environment, which ``make peers`` makes; ``USERTUNE_PEER_NAME`` names another."""
    python = os.environ.get(f"USERTUNE_PEER_{name.upper()}") or str(common.REPOSITORY / ".peers" / name / "bin/python")
    return python if Path(python).exists() else None


def make_adapter(work: Work) -> None:
    """Write the adapter that all sides start from: random, and without effect as yet."""
    import torch
    from peft import LoraConfig, get_peft_model

    from usertune.models.families.catalogue import family_of
    from usertune.models.loading import load_model

    base = work.folder / "base"
    torch.manual_seed(0)
    lora = LoraConfig(
        r=RANK,
        lora_alpha=ALPHA,
        lora_dropout=0.0,
        target_modules=family_of(base).adapted_modules,
        task_type="CAUSAL_LM",
    )
    get_peft_model(load_model(base, work.dtype), lora).save_pretrained(work.folder / "adapter")


def try_settings(
    work: Work, name: str, side: Side, candidates: Sequence[dict[str, Any]], fixed: dict[str, Any] | None = None
) -> None:
    """Choose the fastest settings of a side that has none, by training one batch with each.

    Raises:
        SideError: no settings work.
    """
    if side.settings is None and (fixed or not candidates):
        side.settings = fixed or CANDIDATES[0]
    if side.settings is not None:
        return
    candidates = [tried for tried in candidates if work.batch_size % tried["micro_batch_size"] == 0]
    first = [work.samples[number] for number in work.order[: work.batch_size]]
    # The first training of a process is slower, whatever its settings.
    results = run_side(work, name, side, work.job(name, [candidates[0], *candidates], first, 1))[1:]
    side.trials = [
        {**tried, "samples_per_second": round(result.get("samples_per_second", 0), 3)}
        for tried, result in zip(candidates, results, strict=True)
    ]
    best = max(range(len(results)), key=lambda number: float(side.trials[number]["samples_per_second"]))
    if "failed" in results[best]:
        raise SideError(results[best]["failed"])
    side.settings = candidates[best]


def train(work: Work, name: str, side: Side) -> float:
    """Train with a side and return its samples per second."""
    assert side.settings is not None, "try_settings comes first"
    # usertune shuffles the samples; the others get them in that order.
    own = side.program == "own_training.py"
    samples = work.samples if own else [work.samples[number] for number in work.order]
    (result,) = run_side(work, name, side, work.job(name, [side.settings], samples, EPOCHS if own else 1))
    if "failed" in result:
        raise SideError(result["failed"])
    side.rounds.append(result)
    return float(result["samples_per_second"])


def run_side(work: Work, name: str, side: Side, job: dict[str, Any]) -> list[dict[str, Any]]:
    """Run a job in a process of its own and return what it measured with each of the settings.

    Raises:
        SideError: the process ended with an error.
    """
    file, out = work.folder / f"{name}.job.json", work.folder / f"{name}.result.json"
    file.write_text(json.dumps(job))
    path = [str(PEERS), *([str(common.REPOSITORY / "src")] if side.python == sys.executable else [])]
    threads = {"OMP_NUM_THREADS": str(THREADS), "MKL_NUM_THREADS": str(THREADS), "CUDA_VISIBLE_DEVICES": ""}
    environment = {
        **os.environ,
        **(threads if work.device == "cpu" else {}),
        "PYTHONPATH": os.pathsep.join(path),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
    }
    words = [side.python, str(PEERS / side.program), str(file), str(out)]
    done = subprocess.run(words, cwd=work.folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SideError(f"{name} failed with exit code {done.returncode}:\n{done.stderr[-4000:]}")
    written = json.loads(out.read_text())
    side.versions = written["versions"]
    results: list[dict[str, Any]] = written["results"]
    return results


def counted(work: Work) -> dict[str, int]:
    """Return the numbers of visual, other and trained tokens of the longest sample."""
    from usertune.models.conversation import ConversationTokenizer
    from usertune.models.families.catalogue import family_of
    from usertune.models.loading import load_processor
    from usertune.models.recipe import Pixels

    base = work.folder / "base"
    conversations = ConversationTokenizer(load_processor(base, Pixels()), family_of(base))
    tokenized = [conversations.conversation(sample) for sample in work.samples]
    (visual,) = {conversations.image_tokens(sample)[0] for sample in work.samples}
    return {
        "visual_tokens": visual,
        "other_tokens": max(len(one.input_ids) for one in tokenized) - visual,
        "trained_tokens": max(sum(one.is_answer) for one in tokenized),
    }


def ratios_of(shape: shapes.Shape, counts: Mapping[str, int]) -> dict[str, float]:
    """Return what the vision tower and the head cost of a forward pass, relative to the body."""
    parts = shapes.flops(shape.differences, counts["visual_tokens"], counts["other_tokens"])
    return {f"{part}_over_body": round(parts[part] / parts["body"], 2) for part in ("vision", "head")}


def found(side: Side, rates: Sequence[float]) -> dict[str, Any]:
    return {
        "settings": side.settings,
        "trials": side.trials,
        "samples_per_second": common.spread(rates),
        "processor_seconds_per_sample": common.spread(
            [result["processor_seconds_per_sample"] for result in side.rounds]
        ),
        "preparation_seconds": common.spread([result["preparation_seconds"] for result in side.rounds]),
        "peak_mb": common.spread([result["peak_bytes"] / 1e6 for result in side.rounds]),
        "before_mb": common.spread([result["before_bytes"] / 1e6 for result in side.rounds]),
        "versions": side.versions,
    }


def losses_of(sides: Mapping[str, Side], dtype: str) -> dict[str, Any]:
    """Return the losses of usertune and how far the others' are from them; leave if that is too far."""
    own, bound = sides["usertune"].rounds[0]["losses"], LOSS_BOUNDS[dtype]
    differences: dict[str, float] = {}
    for name, side in sides.items():
        for result in side.rounds:
            if len(result["losses"]) != len(own):
                sys.exit(f"{name} took {len(result['losses'])} steps, usertune {len(own)}")
            pairs = zip(result["losses"], own, strict=True)
            differences[name] = max(differences.get(name, 0), *(abs(one - other) / other for one, other in pairs))
    if far := {name: value for name, value in differences.items() if value > bound}:
        sys.exit(f"losses differ by more than {bound}: {far}, of {own}")
    return {"usertune": own, "bound": bound, "largest_difference": differences}


def compared(sides: Mapping[str, Side], rates: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Return the ratios of usertune to each of the others: speed, and peak memory of the process."""
    measured: dict[str, Any] = {}
    own = sides["usertune"]
    for name, side in sides.items():
        if side is own:
            continue
        measured[f"speed_over_{name}"] = common.ratio(rates["usertune"], rates[name])
        peaks = [[float(result["peak_bytes"]) for result in one.rounds] for one in (own, side)]
        measured[f"memory_over_{name}"] = common.ratio(*peaks)
    return measured


def tell(measured: dict[str, Any]) -> list[str]:
    lines = [measured["shape"]["about"]]
    for name, side in measured["sides"].items():
        lines.append(
            f"{name}: {common.told(side['samples_per_second'], 'samples/s')}, "
            f"{side['processor_seconds_per_sample']['median']:g} processor seconds a sample, peak "
            f"{common.told(side['peak_mb'], 'MB')}, of which {side['before_mb']['median']:g} MB before training; "
            f"{side['settings']}"
        )
        lines += [f"    tried: {trial}" for trial in side["trials"]]
    for name in measured["sides"]:
        if name != "usertune":
            lines.append(
                f"usertune over {name}: speed {common.told(measured[f'speed_over_{name}'])}, memory "
                f"{common.told(measured[f'memory_over_{name}'])}; losses differ by "
                f"{measured['losses']['largest_difference'][name]:.1e} at most"
            )
    return [*lines, *(f"{name}: {reason}" for name, reason in measured["skipped"].items())]


if __name__ == "__main__":
    common.run(
        main,
        tell,
        {
            "samples": (0, 4, "samples of an epoch; 0, here and below, takes what suits the shape:"),
            "batch-size": (0, 2, "samples of an optimizer step"),
            "rounds": (0, 1, "times each side is measured"),
            "reference": (1, 1, "whether the reference's way is measured too"),
        },
        {
            "shape": (("proportional", "vocabulary", "true-2b"), "sizes of the model"),
            "mode": (("lora", "full"), "what is trained"),
        },
    )

"""How fast usertune predicts, beside the way of the reference experiment, in one run.

The reference's way answers one sample after another: it opens the image, generates, and writes the file of all results
again after every sample. usertune answers with its engine, in batches of the size that a short trial finds fastest,
and appends each batch to its store. Both answer the same samples in turn, several times over; the answers are checked
to be the same, text for text. In the same turns, usertune also answers with one token each, to show how much faster it
could be at most. Models are loaded before, once. Answers of random weights do not end by themselves: all have as many
tokens as allowed, 40. Those of the demo model end.

    python benchmarks/prediction_speed.py
    python benchmarks/prediction_speed.py --shape demo
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

# Before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "2")

import common
import shapes

BATCH_SIZES = {"proportional": (4, 8, 16), "vocabulary": (4, 8, 16), "demo": (32, 64, 128)}
SAMPLES = {"proportional": 16, "vocabulary": 16, "demo": 128}
DEMO_USERS = ("1", "2", "3")


@dataclass(frozen=True)
class Questions:
    """What both sides answer: samples of images below ``root``, by the model in ``base``."""

    base: Path
    root: Path
    samples: Sequence[Any]
    new_tokens: int
    dtype: str = "float32"


def main(arguments: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as temporary:
        asked = questions_in(Path(temporary), arguments)
        sizes = (2,) if arguments.tiny else BATCH_SIZES[arguments.shape]
        found = compare(asked, Path(temporary), sizes, arguments.rounds)
    name = "tiny" if arguments.tiny else arguments.shape
    about = shapes.SHAPES[name].about if name in shapes.SHAPES else "the demo model"
    if found["equal_answers"] < found["samples"]:
        sys.exit("usertune and the reference's way give other answers")
    if found["distinct_answers"] < 2:
        sys.exit("all samples have the same answer, so equal answers show nothing")
    return {**found, "shape": {"about": about, **found["shape"]}}


def compare(asked: Questions, folder: Path, sizes: Sequence[int], rounds: int) -> dict[str, Any]:
    """Answer in both ways, in turn, after trials of the batch sizes; return what was measured."""
    texts: dict[str, list[str]] = {}
    one_by_one = reference_way(asked, folder / "results.json", texts)
    batched = own_way(asked, folder / "store", texts)
    few = asked.samples[: max(sizes)]
    # What is only slow the first time.
    one_by_one(few[:1])
    batched(sizes[0], few[: sizes[0]])
    trials = {size: len(few) / batched(size, few) for size in sizes}
    best = max(trials, key=lambda size: trials[size])
    ways = {
        "usertune": partial(batched, best, asked.samples),
        "one_by_one": partial(one_by_one, asked.samples),
        # Opening and seeing the images and reading the prompts, which is what batches cannot make much faster.
        "first_tokens": partial(batched, best, asked.samples, 1),
    }
    seconds = common.in_turn(ways, rounds)
    first_tokens = seconds.pop("first_tokens")
    pairs = zip(texts["usertune"], texts["one_by_one"], strict=True)
    return {
        "shape": counted(asked),
        "samples": len(asked.samples),
        "equal_answers": sum(one == other for one, other in pairs),
        "distinct_answers": len(set(texts["usertune"])),
        "batch_size": best,
        "trials": {str(size): round(rate, 3) for size, rate in trials.items()},
        "samples_per_second": {
            way: common.spread([len(asked.samples) / value for value in values]) for way, values in seconds.items()
        },
        "speed_over_one_by_one": common.ratio(seconds["one_by_one"], seconds["usertune"]),
        "speed_if_later_tokens_were_free": common.ratio(seconds["one_by_one"], first_tokens),
    }


def questions_in(folder: Path, arguments: argparse.Namespace) -> Questions:
    """Make the model and the samples."""
    count = arguments.samples or SAMPLES[arguments.shape]
    if arguments.shape == "demo" and not arguments.tiny:
        samples = common.read_samples(common.demo_samples(folder, DEMO_USERS), count)
        return Questions(common.BASE, folder / "dataset", samples, 64)
    shape = shapes.SHAPES["tiny" if arguments.tiny else arguments.shape]
    shapes.make_base(folder / "base", shape)
    size = shapes.TINY_SCREENSHOT if arguments.tiny else shapes.SCREENSHOT
    samples = shapes.screenshots(folder / "data", count, size)
    return Questions(folder / "base", folder / "data", samples, shapes.TRAINED_TOKENS)


def reference_way(asked: Questions, results: Path, texts: dict[str, list[str]]) -> Callable[[Sequence[Any]], float]:
    """Return what answers samples one by one and returns the seconds."""
    import torch
    from PIL import Image
    from transformers import AutoModelForImageTextToText, AutoProcessor

    processor = AutoProcessor.from_pretrained(asked.base, local_files_only=True)
    device, dtype = "cuda" if torch.cuda.is_available() else "cpu", getattr(torch, asked.dtype)
    model = AutoModelForImageTextToText.from_pretrained(asked.base, dtype=dtype, local_files_only=True).to(device)

    def answer(samples: Sequence[Any]) -> float:
        started = time.perf_counter()
        rows: list[dict[str, str]] = []
        for sample in samples:
            text = processor.apply_chat_template(sample["messages"][:-1], tokenize=False, add_generation_prompt=True)
            images = [Image.open(asked.root / image["path"]) for image in sample["images"]]
            inputs = processor(text=[text], images=images, return_tensors="pt").to(device, dtype)
            with torch.no_grad():
                output = model.generate(**inputs, max_new_tokens=asked.new_tokens, do_sample=False)
            new = output[:, inputs["input_ids"].shape[1] :]
            (prediction,) = processor.batch_decode(new, skip_special_tokens=True, clean_up_tokenization_spaces=False)
            rows.append({"id": sample["id"], "prediction": prediction})
            results.write_text(json.dumps(rows, indent=2))
        texts["one_by_one"] = [row["prediction"] for row in rows]
        return time.perf_counter() - started

    return answer


def own_way(asked: Questions, store: Path, texts: dict[str, list[str]]) -> Callable[..., float]:
    """Return what answers samples in batches of a size, with so many tokens at most, and returns the seconds."""
    from usertune.inference.engine import EngineSettings
    from usertune.inference.engines.transformers import TransformersEngine
    from usertune.inference.prediction_store import PredictionStore
    from usertune.inference.questions import questions_of
    from usertune.models.recipe import Pixels

    engine = TransformersEngine(
        EngineSettings(asked.base, "vanilla", None, asked.dtype, Pixels(), asked.root, asked.new_tokens)
    )

    def answer(size: int, samples: Sequence[Any], new_tokens: int = asked.new_tokens) -> float:
        engine.settings = replace(engine.settings, max_new_tokens=new_tokens)
        started = time.perf_counter()
        writer = PredictionStore(store, "speed").writer()
        found = {}
        for batch in engine.answer(questions_of(samples), size):
            writer.append([(question.user, question.request, prediction) for question, prediction in batch])
            found.update({question.sample["id"]: prediction.text for question, prediction in batch})
        if new_tokens == asked.new_tokens:
            texts["usertune"] = [found[sample["id"]] for sample in samples]
        return time.perf_counter() - started

    return answer


def counted(asked: Questions) -> dict[str, int]:
    """Return the numbers of visual and other tokens of the longest prompt, and the most new ones."""
    from usertune.models.conversation import ConversationTokenizer
    from usertune.models.families.catalogue import family_of
    from usertune.models.loading import load_processor
    from usertune.models.recipe import Pixels

    conversations = ConversationTokenizer(load_processor(asked.base, Pixels()), family_of(asked.base))
    visual = max(conversations.image_tokens(sample)[0] for sample in asked.samples)
    longest = max(len(conversations.prompt(sample)) for sample in asked.samples)
    return {"visual_tokens": visual, "other_tokens": longest - visual, "new_tokens": asked.new_tokens}


def tell(measured: dict[str, Any]) -> list[str]:
    rates = measured["samples_per_second"]
    return [
        measured["shape"]["about"],
        f"one by one: {common.told(rates['one_by_one'], 'samples/s')}",
        f"usertune, batches of {measured['batch_size']}: {common.told(rates['usertune'], 'samples/s')}",
        f"    tried: {measured['trials']} samples/s",
        f"ratio: {common.told(measured['speed_over_one_by_one'])}; all {measured['samples']} answers are equal",
        f"if all tokens after the first were free: {common.told(measured['speed_if_later_tokens_were_free'])}",
    ]


if __name__ == "__main__":
    common.run(
        main,
        tell,
        {
            "samples": (0, 4, "samples to answer; 0 takes 16, and of the demo 128:"),
            "rounds": (3, 1, "times each way is measured"),
        },
        {"shape": (("proportional", "vocabulary", "demo"), "the model")},
    )

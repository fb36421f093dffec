"""How fast many adapters answer on one base model, on the demo's model and on a wider one, in one run.

Every adapter answers samples of its own. The ways:

    job     -> a process for each adapter, which loads base model and adapter, as a prediction job for each would;
               measured for a few adapters, and multiplied
    reload  -> one process, which loads base model and adapter again for each adapter
    swapped -> the engine's way: one process and one base model, whose adapter's tensors are replaced
    mixed   -> one process, all adapters in memory, batches of samples for different adapters (adapter_names of PEFT)

Times include the start of the processes, and but for mixed a probe of each adapter. All ways answer the same samples in
turn; their answers are checked to be the same, text for text:

    python benchmarks/many_adapters.py
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import common

USERS = tuple(map(str, range(1, 11)))
# The wider model, with random weights.
WIDTH, LAYERS, HEADS = 256, 6, 4
MAX_NEW_TOKENS = 16


def main(arguments: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        common.demo_samples(folder, USERS)
        bases = {"demo": common.BASE, "wider": wider_model(folder / "wider")}
        found = {model: measure(folder, base, arguments) for model, base in bases.items()}
    return {"adapters": arguments.adapters, "samples_of_each": arguments.samples, "models": found}


def measure(folder: Path, base: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the seconds of each way on one base model."""
    adapters = make_adapters(base, folder / f"adapters_of_{base.name}", arguments.adapters)
    answers: dict[str, list[str]] = {}

    def timed(way: str) -> float:
        task = {"way": way, "folder": str(folder), "base": str(base), "samples": arguments.samples}
        jobs = [{key: adapters[key]} for key in list(adapters)[: arguments.jobs]] if way == "job" else [adapters]
        program = "import json, sys, many_adapters; many_adapters.answer_task(json.loads(sys.argv[1]))"

        def call() -> None:
            answers[way] = []
            for own in jobs:
                argument = json.dumps({**task, "adapters": own, "batch_size": arguments.batch_size})
                said = common.command([sys.executable, "-c", program, argument], Path(__file__).parent)
                answers[way] += json.loads(said.splitlines()[-1])

        return common.seconds_of(call) * (len(adapters) / len(jobs) if way == "job" else 1)

    seconds = common.in_turn({way: partial(timed, way) for way in ("job", *WAYS)}, arguments.rounds)
    if others := [way for way in WAYS if answers[way] != answers["swapped"]]:
        sys.exit(f"{', '.join(others)}: other answers than swapped")
    if answers["job"] != answers["swapped"][: len(answers["job"])]:
        sys.exit("job: other answers than swapped")
    return {
        "base_megabytes": round(sum(file.stat().st_size for file in base.glob("*.safetensors")) / 1e6, 1),
        "same_answers": True,
        "distinct_answers": len(set(answers["swapped"])),
        "seconds": {way: common.spread(values) for way, values in seconds.items()},
        "over_swapped": {
            way: common.ratio(values, seconds["swapped"]) for way, values in seconds.items() if way != "swapped"
        },
    }


def answer_task(task: Mapping[str, Any]) -> None:
    """Answer in one way, and print the texts in the order of adapters and samples. A process for itself."""
    from usertune.inference.engine import EngineSettings
    from usertune.inference.questions import Question
    from usertune.models.recipe import Pixels

    folder = Path(task["folder"])
    samples = common.read_samples({user: folder / f"user_{user}.manifest.json" for user in USERS}, 10**6)
    adapters = {key: Path(path) for key, path in task["adapters"].items()}
    settings = EngineSettings(
        Path(task["base"]), "lora", None, "float32", Pixels(), folder / "dataset", MAX_NEW_TOKENS, adapters=adapters
    )
    count = task["samples"]
    questions = [
        Question(samples[(int(key) * count + number) % len(samples)], key)
        for key in adapters
        for number in range(count)
    ]
    answer = WAYS["swapped" if task["way"] == "job" else task["way"]]
    texts = {question: prediction.text for question, prediction in answer(settings, questions, task["batch_size"])}
    print(json.dumps([texts[question] for question in questions]))


Answered = list[tuple[Any, Any]]


def reload(settings: Any, questions: Sequence[Any], batch_size: int) -> Answered:
    """Load base model and adapter again for each adapter."""
    found: Answered = []
    for key, folder in settings.adapters.items():
        own = [question for question in questions if question.model == key]
        found += swapped(replace(settings, adapters={key: folder}), own, batch_size)
    return found


def swapped(settings: Any, questions: Sequence[Any], batch_size: int) -> Answered:
    """Answer as prediction does."""
    from usertune.inference.engines.transformers import TransformersEngine

    engine = TransformersEngine(settings)
    engine.effects(questions)
    return [pair for batch in engine.answer(questions, batch_size) for pair in batch]


def mixed(settings: Any, questions: Sequence[Any], batch_size: int) -> Answered:
    """Answer in batches of samples for different adapters."""
    from usertune.inference.engines.transformers import TransformersEngine

    engine = TransformersEngine(settings)
    generate = engine.model.generate
    for key, folder in settings.adapters.items():
        engine.model.load_adapter(str(folder), key)
    prompts = {question: engine.conversations.prompt(question.sample) for question in questions}
    waiting = sorted(questions, key=lambda question: len(prompts[question]), reverse=True)
    images = engine._memory_of_images(questions)
    found: Answered = []
    for start in range(0, len(waiting), batch_size):
        batch = waiting[start : start + batch_size]
        engine.model.generate = partial(generate, adapter_names=[question.model for question in batch])
        answers = engine._answer_batch(engine._batch(prompts, images.grids, batch), images)
        found += zip(batch, answers, strict=True)
    return found


WAYS: dict[str, Callable[[Any, Sequence[Any], int], Answered]] = {"reload": reload, "swapped": swapped, "mixed": mixed}


def wider_model(folder: Path) -> Path:
    """Write a model of the demo's kind with random weights and more, wider layers."""
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration, set_seed

    shutil.copytree(common.BASE, folder)
    config = Qwen3VLConfig.from_pretrained(str(folder))
    text = config.text_config
    text.hidden_size, text.num_hidden_layers, text.intermediate_size = WIDTH, LAYERS, 3 * WIDTH
    text.num_attention_heads, text.num_key_value_heads, text.head_dim = HEADS, HEADS // 2, 64
    text.rope_parameters = {**text.rope_parameters, "mrope_section": [12, 10, 10]}
    config.vision_config.out_hidden_size = WIDTH
    set_seed(0)
    (folder / "model.safetensors").unlink()
    Qwen3VLForConditionalGeneration(config).save_pretrained(str(folder))
    return folder


def make_adapters(base: Path, folder: Path, count: int) -> dict[str, str]:
    """Write adapters of random weights that change the answers; return key -> folder."""
    import torch

    from usertune.models.loading import load_model, prepare_for_training
    from usertune.models.recipe import LoraSettings

    adapted: Any = prepare_for_training(load_model(base, "float32"), LoraSettings(rank=8, alpha=32, dropout=0.05))
    found = {}
    for number in range(count):
        torch.manual_seed(number)
        for name, value in adapted.named_parameters():
            if ".lora_B." in name:
                torch.nn.init.normal_(value, std=0.02)
        found[str(number)] = str(folder / str(number))
        adapted.save_pretrained(found[str(number)])
    return found


def tell(measured: dict[str, Any]) -> list[str]:
    lines = [f"{measured['adapters']} adapters x {measured['samples_of_each']} samples, all answers equal:"]
    for model, found in measured["models"].items():
        for way, seconds in found["seconds"].items():
            ratio = f"; {common.told(found['over_swapped'][way])} times swapped" if way != "swapped" else ""
            lines.append(f"{model} ({found['base_megabytes']} MB), {way}: {common.told(seconds, 's')}{ratio}")
    return [*lines, "aim: a job for each adapter takes at least 5 times as long as swapped"]


if __name__ == "__main__":
    common.run(
        main,
        tell,
        {
            "adapters": (30, 2, "adapters"),
            "samples": (20, 2, "samples of each"),
            "jobs": (5, 1, "adapters for which a job is measured"),
            "batch-size": (8, 2, "samples of a batch"),
            "rounds": (3, 1, "times each way is measured"),
        },
    )

"""What one user's edit costs in a study of 1,000 users x 3 experiments x 120 samples, and what no change costs.

The demo's base model is trained really, but briefly, and the answers of all users are put into the store (drawn at
random: what they say costs nothing), as if they had been generated before. Then, on the finished study:

    one sample of one user is edited    -> the run's time, and how many answers it generated
    every file of the dataset is touched -> the same, and whether it trained
    audit, status, dry run, a run with nothing to do -> their CPU times

Needs a temporary folder for about 1 GB; takes ten minutes or more, most of them for the study itself:

    python benchmarks/one_edit.py
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import common

from usertune.data.samples import read_user
from usertune.demo.dataset import Counts, make_dataset
from usertune.inference.engines.catalogue import ENGINES
from usertune.inference.models_in_use import Found, models_in_use
from usertune.inference.prediction_store import Prediction
from usertune.inference.questions import questions_of
from usertune.inference.recipe import PredictRecipe
from usertune.inference.stored_answers import StoredAnswers
from usertune.pipeline.plug_ins import current_code
from usertune.pipeline.recipes import Recipes
from usertune.runtime.provenance import current_provenance, installed_versions
from usertune.study.load import load_study

# Samples of the one user of the trainings.
TRAINED_ON = 8
EXPERIMENTS = {name: {"mode": name} for name in ("vanilla", "lora", "full")}
STUDY = """
name: edited
results: results
dataset: {{root: dataset}}
users: {{train: {train}, test: 1-{users}}}
base_model: {{path: {base}, dtype: float32}}
experiments: {experiments}
training: {{gradient_checkpointing: false, dataloader_num_workers: 0}}
"""


def main(arguments: argparse.Namespace) -> dict[str, Any]:
    users, experiments = arguments.users, dict(list(EXPERIMENTS.items())[: arguments.experiments])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_dataset(folder / "dataset", list(range(1, users + 2)), 0, Counts(*[arguments.samples] * 3))
        _shorten(folder / f"dataset/user_{users + 1}.jsonl", TRAINED_ON)
        (folder / "study.yaml").write_text(
            STUDY.format(base=common.BASE, users=users, train=users + 1, experiments=json.dumps(experiments))
        )
        trained = [f"results/checkpoints/{name}/manifest.json" for name in experiments if name != "vanilla"]
        prepared = [f"results/data/user_{user}.manifest.json" for user in range(1, users + 1)]
        _run(folder, *trained, *prepared, "results/base_model/manifest.json")
        with contextlib.chdir(folder):
            _fill_store()
        first = common.seconds_of(lambda: _run(folder))
        _edit_one_sample(folder / "dataset/user_1.jsonl")
        edited = _measured_run(folder)
        for path in (folder / "dataset").rglob("*"):
            os.utime(path)
        touched = _measured_run(folder)
        looks = {
            "audit": lambda: common.usertune(folder, "audit", "--study", "study.yaml"),
            "status": lambda: common.usertune(folder, "status", "--study", "study.yaml"),
            "dry_run": lambda: _run(folder, "--dry-run"),
            "nothing_to_do": lambda: _run(folder),
        }
        timed = {name: partial(common.cpu_seconds_of, look) for name, look in looks.items()}
        seconds = common.in_turn(timed, arguments.rounds)
    return {
        "users": users,
        "experiments": len(experiments),
        "samples": arguments.samples,
        "first_comparison_seconds": round(first, 1),
        "one_sample_edited": edited,
        "dataset_touched": touched,
        "seconds": {name: common.spread(values) for name, values in seconds.items()},
        "nothing_to_do_over_dry_run": common.ratio(seconds["nothing_to_do"], seconds["dry_run"]),
    }


def tell(measured: dict[str, Any]) -> list[str]:
    size = f"{measured['users']} users x {measured['experiments']} experiments x {measured['samples']} samples"
    lines = [f"{size}: {measured['first_comparison_seconds']} s for the first comparison"]
    for name, aim in (("one_sample_edited", "; aim: 60 s without generation"), ("dataset_touched", "")):
        run = measured[name]
        lines.append(
            f"{name.replace('_', ' ')}: {run['seconds']} s, of these {run['generation_seconds']} s to load models and "
            f"generate, {run['answers_generated']} answers generated, "
            f"{run['trainings']} trainings{aim}"
        )
    lines += [f"{name}: {common.told(values, 's of CPU')}" for name, values in measured["seconds"].items()]
    ratio = common.told(measured["nothing_to_do_over_dry_run"])
    return [*lines, f"a run with nothing to do, over a dry run: {ratio}; aim: at most 1.2"]


def _measured_run(folder: Path) -> dict[str, Any]:
    answers, weights, started = _stored(folder), _trainings(folder), time.time()
    seconds = common.seconds_of(lambda: _run(folder))
    made = [json.loads(path.read_text()) for path in folder.glob("results/predictions/*/*.json")
            if path.stat().st_mtime > started]  # fmt: skip
    generation = sum(one["generation_seconds"] + (one["loading_seconds"] or 0) for one in made if one["generated"])
    again = sum(weights.get(path) != time for path, time in _trainings(folder).items())
    return {
        "seconds": round(seconds, 1),
        "generation_seconds": round(generation, 1),
        "answers_generated": _stored(folder) - answers,
        "trainings": again,
    }


def _fill_store() -> None:
    study = load_study(["study.yaml"])
    recipes = Recipes(study, current_code(study), installed_versions())
    chance = random.Random(0)
    results = Path(study.results)
    base = Found.read(results / "base_model/manifest.json")
    for experiment, settings in study.experiments.items():
        trained = [results / f"checkpoints/{experiment}/manifest.json"] if settings.trained else []
        models = models_in_use(base, [Found.read(path) for path in trained])
        stores = StoredAnswers(results / "store/predictions", PredictRecipe.parse(recipes.predict(experiment)), models)
        record = current_provenance("predict", plug_ins=(ENGINES.module(study.evaluation.engine.kind),))
        writer = stores.writer(record)
        for user in study.users.test:
            _, samples = read_user(results / f"data/user_{user}.manifest.json")
            writer.append((question, _answer(chance)) for question in questions_of(samples))


def _answer(chance: random.Random) -> Prediction:
    text = f"```grounding\n[{chance.randrange(1000)}, {chance.randrange(1000)}]\n```"
    return Prediction(text, new_tokens=20, stopped=True)


def _edit_one_sample(path: Path) -> None:
    lines = path.read_text().splitlines()
    sample = json.loads(lines[5])
    sample["messages"][0]["content"][1]["text"] += " please"
    lines[5] = json.dumps(sample)
    path.write_text("".join(line + "\n" for line in lines))


def _shorten(path: Path, lines: int) -> None:
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:lines]))


def _stored(folder: Path) -> int:
    segments = folder.glob("results/store/predictions/*/user_*/*.jsonl")
    return sum(len(path.read_text().splitlines()) for path in segments)


def _trainings(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.glob("results/checkpoints/*/*/complete.json")}


def _run(folder: Path, *arguments: str) -> None:
    workflow = ["--snakefile", str(common.REPOSITORY / "Snakefile"), "--configfile", "study.yaml", "--cores", "all"]
    common.snakemake(folder, *arguments, *workflow)


if __name__ == "__main__":
    common.run(
        main,
        tell,
        {
            "users": (1000, 1, "test users"),
            "samples": (120, 6, "samples of each"),
            "experiments": (3, 1, "vanilla, lora and full, or the first of them"),
            "rounds": (3, 1, "times that audit, status and dry run are measured"),
        },
    )

"""What one user's edit costs in a study of 83 users x 3 experiments x 120 samples, and how long its audit takes.

The demo's base model is trained really, but briefly, and the answers of all users are put into the store (drawn at
random: what they say costs nothing), as if they had been generated before. Then, on the finished study:

    one sample of one user is edited    -> the run's time, and how many answers it generated
    every file of the dataset is touched -> the same, and whether it trained
    the audit, and a look at the status  -> their times

Run anywhere, with a folder for about 100 MB; takes minutes, most of them for the study itself:

    python benchmarks/one_edit.py
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from usertune.core.hashing import step_fingerprint
from usertune.core.manifest import read_result
from usertune.core.step_fingerprints import model_of
from usertune.data.samples import read_user, request_digest
from usertune.demo.dataset import Counts, make_dataset
from usertune.inference.engines.catalogue import ENGINES
from usertune.inference.prediction_store import Prediction, PredictionStore
from usertune.pipeline.recipes import Recipes, current_code
from usertune.runtime.provenance import current_provenance, installed_versions
from usertune.study.load import load_study

REPOSITORY = Path(__file__).resolve().parent.parent
STUDY = """
name: edited
results: results
dataset: {{root: dataset}}
users: {{train: 84, test: 1-{users}}}
base_model: {{path: {repository}/demo/base, dtype: float32}}
experiments:
  vanilla: {{mode: vanilla}}
  lora: {{mode: lora}}
  full: {{mode: full}}
training: {{gradient_checkpointing: false, dataloader_num_workers: 0}}
"""


def main(users: int, samples: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_dataset(folder / "dataset", [*range(1, users + 1), 84], 0, Counts(8, 8, samples))
        (folder / "study.yaml").write_text(STUDY.format(repository=REPOSITORY, users=users))
        trained = [f"results/checkpoints/{experiment}/manifest.json" for experiment in ("lora", "full")]
        prepared = [f"results/data/user_{user}.manifest.json" for user in range(1, users + 1)]
        _snakemake(folder, *trained, *prepared)
        os.chdir(folder)
        _fill_store()
        print(f"{users} users x 3 experiments x {samples} samples: {_snakemake(folder):.0f} s for the first comparison")
        _edit_one_sample(folder / "dataset/user_2.jsonl")
        before = _stored(folder)
        seconds = _snakemake(folder)
        print(f"one sample of one user edited: {seconds:.1f} s (aim: 60), {_stored(folder) - before} answers generated")
        for path in (folder / "dataset").rglob("*"):
            os.utime(path)
        before, weights = _stored(folder), _trainings(folder)
        seconds = _snakemake(folder)
        again = _trainings(folder) != weights
        print(f"dataset touched: {seconds:.1f} s, {_stored(folder) - before} answers generated, trained again: {again}")
        started = time.perf_counter()
        _run([sys.executable, "-P", "-m", "usertune", "audit", "--study", "study.yaml"], folder)
        print(f"audit: {time.perf_counter() - started:.1f} s (aim: 5)")
        started = time.perf_counter()
        _run([sys.executable, "-P", "-m", "usertune", "status", "--study", "study.yaml"], folder)
        print(f"status: {time.perf_counter() - started:.1f} s")
        started = time.perf_counter()
        _snakemake(folder, "--dry-run")
        print(f"dry run, nothing to do: {time.perf_counter() - started:.1f} s")


def _fill_store() -> None:
    study = load_study(["study.yaml"])
    recipes = Recipes(study, current_code(study), installed_versions())
    chance = random.Random(0)
    results = Path(study.results)
    base = read_result(results / "base_model/manifest.json")
    for experiment, settings in study.experiments.items():
        trained = read_result(results / f"checkpoints/{experiment}/manifest.json") if settings.trained else None
        namespace = step_fingerprint(json.loads(recipes.predict(experiment)), model_of(base, trained))
        store = PredictionStore(results / "store/predictions", namespace)
        key = store.remember(current_provenance("predict", plug_ins=(ENGINES.module(study.evaluation.engine),)))
        with store.writer() as writer:
            for user in study.users.test:
                _, samples = read_user(results / f"data/user_{user}.manifest.json")
                writer.append((user, request_digest(sample), _answer(chance, key)) for sample in samples)


def _answer(chance: random.Random, made: str) -> Prediction:
    text = f"```grounding\n[{chance.randrange(1000)}, {chance.randrange(1000)}]\n```"
    return Prediction(text, new_tokens=20, stopped=True, provenance=made)


def _edit_one_sample(path: Path) -> None:
    lines = path.read_text().splitlines()
    sample = json.loads(lines[5])
    sample["messages"][0]["content"][1]["text"] += " please"
    lines[5] = json.dumps(sample)
    path.write_text("".join(line + "\n" for line in lines))


def _stored(folder: Path) -> int:
    segments = folder.glob("results/store/predictions/*/user_*/*.jsonl")
    return sum(len(path.read_text().splitlines()) for path in segments)


def _trainings(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.glob("results/checkpoints/*/*/complete.json")}


def _snakemake(folder: Path, *arguments: str) -> float:
    started = time.perf_counter()
    workflow = ["--snakefile", str(REPOSITORY / "Snakefile"), "--configfile", "study.yaml", "--cores", "all"]
    _run([sys.executable, "-m", "snakemake", *arguments, *workflow], folder)
    return time.perf_counter() - started


def _run(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=83, help="test users (default: 83)")
    parser.add_argument("--samples", type=int, default=120, help="samples of each (default: 120)")
    arguments = parser.parse_args()
    main(arguments.users, arguments.samples)

"""The demo study in a fresh folder: how long each part of `make demo` takes, how many jobs, and what comes out.

The virtual environment is there already. The results lie in a temporary folder, not in results/; minutes:

    python benchmarks/demo.py
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import common
import yaml

from usertune.core.users import parse_users
from usertune.demo.dataset import Counts, make_dataset
from usertune.study.files import SPLITS

COLUMNS = ("click_accuracy", "click_accuracy_low", "click_accuracy_high")


OPTIONS = {
    "train-users": (63, 1, "users to train on"),
    "validation-users": (10, 0, "users to validate on"),
    "test-users": (10, 1, "users to test on"),
    "experiments": (6, 1, "vanilla, lora, full, personal, pooled and prior, or the first of them"),
    "samples": (0, 4, "samples of each user; 0: as many as the demo has"),
}


def main(arguments: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        study = Path(name) / "study.yaml"
        started = time.perf_counter()
        study.write_text(demo_study(arguments, study.parent))
        drawing = time.perf_counter() - started
        return {"drawing_seconds": round(drawing, 1), **run_study(study, "local")}


def demo_study(arguments: argparse.Namespace, folder: Path) -> str:
    """Draw the demo's data in ``folder``/dataset; return the demo study, with results next to its file."""
    study = yaml.safe_load((common.REPOSITORY / "config.yaml").read_text())
    chosen = {split: parse_users(study["users"][split])[: getattr(arguments, f"{split}_users")] for split in SPLITS}
    study["users"] |= chosen
    study["experiments"] = dict(list(study["experiments"].items())[: arguments.experiments])
    if "pooled" not in study["experiments"]:
        # It names experiments that were left out.
        study["hypothesis"] = None
    if "personal" not in study["experiments"]:
        # A few samples have fewer episodes than folds.
        study["folds"] = None
    study["dataset"]["root"], study["base_model"]["path"] = str(folder / "dataset"), str(common.BASE)
    counts = Counts(*3 * [arguments.samples]) if arguments.samples else Counts()
    make_dataset(folder / "dataset", [int(user) for users in chosen.values() for user in users], 0, counts)
    return yaml.safe_dump(study)


def run_study(study: Path, profile: str, **environment: str) -> dict[str, Any]:
    """Run a study twice.

    Args:
        study: its file.
        profile: "local" or "slurm".
        environment: variables for Snakemake.

    Returns:
        ``jobs`` (planned), ``seconds`` (of the run, as a person waits), ``first_result_seconds`` (until all users were
        scored with vanilla, which the run then shows), ``again_seconds`` (of the second run, which finds nothing to
        do), and what `look_at` found after the first one.
    """
    run = ["--snakefile", str(common.REPOSITORY / "Snakefile"), "--configfile", str(study)]
    run += ["--profile", str(common.REPOSITORY / "profiles" / profile)]
    jobs = common.jobs_of(common.snakemake(study.parent, "-n", *run, environment=environment))
    began = time.time()
    seconds = common.seconds_of(lambda: common.snakemake(study.parent, *run, environment=environment))
    first = max(score.stat().st_mtime for score in (study.parent / "results/scores/vanilla").glob("*.json")) - began
    found = look_at(study)
    again = common.seconds_of(lambda: common.snakemake(study.parent, *run, environment=environment))
    return {
        "jobs": jobs,
        "seconds": round(seconds, 1),
        "first_result_seconds": round(first, 1),
        "again_seconds": round(again, 1),
        **found,
    }


def look_at(study: Path) -> dict[str, Any]:
    """Return ``times`` of a study's newest run (`usertune status --times`), and the ``accuracy`` of each experiment."""
    times = json.loads(common.usertune(study.parent, "status", "--times", "--json", "--study", str(study)))
    with (study.parent / "results/tables/summary.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {
        "times": {
            "gpu_jobs": {job["label"]: round(job["work"], 1) for job in times["jobs"]},
            "allocations": times["allocations"],
            "model_loads": times["model_loads"],
            "shares": {name: round(value, 1) for name, value in times["shares"].items()},
            "fractions": {name: round(value / times["seconds"], 3) for name, value in times["shares"].items()},
        },
        "accuracy": {row["experiment"]: {name: _number(row[name]) for name in COLUMNS} for row in rows},
    }


def _number(text: str) -> float | None:
    return float(text) if text else None


def tell(measured: dict[str, Any]) -> list[str]:
    return [
        f"{measured['jobs']} jobs: {measured['drawing_seconds']} s to draw the data, "
        f"{measured['seconds']} s to run ({measured['first_result_seconds']} s to the first result), "
        f"{measured['again_seconds']} s for a second run",
        *(f"{label}: {seconds} s" for label, seconds in measured["times"]["gpu_jobs"].items()),
        *(f"{name}: click accuracy {100 * row['click_accuracy']:.1f} %" for name, row in measured["accuracy"].items()),
    ]


if __name__ == "__main__":
    common.run(main, tell, OPTIONS)

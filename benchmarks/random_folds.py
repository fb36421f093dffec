"""What random folds leak to personal weights: the demo's `personal`, with folds of whole episodes and at random.

Only the folds differ. Samples of an episode share screenshots, so with random folds a sample's own screen is often in
the training that answers it. Minutes:

    python benchmarks/random_folds.py
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from pathlib import Path
from typing import Any

import common
import yaml

import demo

EXPERIMENTS = ("full", "personal")


def main(arguments: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # The first four experiments of the demo; personal is the last of them.
        study = yaml.safe_load(demo.demo_study(argparse.Namespace(**vars(arguments), experiments=4), folder))
        study["experiments"] = {key: study["experiments"][key] for key in EXPERIMENTS}
        # The training of `full` does not depend on the folds, so it runs once.
        return {by: measure(study, folder, by) for by in ("episode", "random")}


def measure(study: dict[str, Any], folder: Path, by: str) -> dict[str, Any]:
    """Run the study with folds ``by`` episode or random; return click accuracies and what folds have in common."""
    study["folds"]["by"] = by
    file = folder / "study.yaml"
    file.write_text(yaml.safe_dump(study))
    common.snakemake(
        folder,
        *("--snakefile", str(common.REPOSITORY / "Snakefile"), "--configfile", str(file)),
        *("--profile", str(common.REPOSITORY / "profiles/local")),
    )
    results = folder / "results"
    accuracy = {row["experiment"]: float(row["click_accuracy"]) for row in rows(results / "tables/summary.csv")}
    (gain,) = rows(results / "tables/differences.csv")
    (folds,) = (row for row in rows(results / "data/leakage.csv") if row["later"] == "each fold of all test users")
    return {
        "accuracy": accuracy,
        "gain": {key: float(gain[key]) if gain[key] else None for key in ("difference", "low", "high")},
        "samples": int(folds["samples"]),
        "samples_with_screenshot_of_another_fold": int(folds["samples_with_identical_screenshot"]),
    }


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


def tell(measured: dict[str, Any]) -> list[str]:
    return [
        f"folds by {by}: full {100 * found['accuracy']['full']:.1f} %, personal "
        f"{100 * found['accuracy']['personal']:.1f} %; {found['samples_with_screenshot_of_another_fold']} of "
        f"{found['samples']} samples show a screenshot that another fold has"
        for by, found in measured.items()
    ]


if __name__ == "__main__":
    common.run(
        main,
        tell,
        {
            "train-users": (63, 1, "users to train on"),
            "validation-users": (10, 0, "users to validate on"),
            "test-users": (10, 1, "users to test on"),
            "samples": (0, 12, "samples of each user; 0: as many as the demo has"),
        },
    )

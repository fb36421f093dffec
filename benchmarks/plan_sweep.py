"""What a sweep costs when jobs are planned: `snakemake -n` on a study with 1 training, and with a sweep of 20.

Both studies have vanilla and the users of the demo. They are planned in turn, several times over:

    python benchmarks/plan_sweep.py
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import common

from usertune.demo.dataset import Counts, make_dataset

STUDY = """
name: planning
dataset: {{root: dataset}}
users: {{train: 3-5, test: 1-2}}
base_model: {{path: {base}}}
experiments:
  vanilla: {{mode: vanilla}}
  seeds: {{mode: lora, sweep: {{seed: {seeds}}}}}
"""


def main(arguments: argparse.Namespace) -> dict[str, Any]:
    sizes = {"one": 1, "sweep": arguments.trainings}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_dataset(folder / "dataset", [1, 2, 3, 4, 5], 0, Counts(20, 20, 50))
        for size, count in sizes.items():
            (folder / f"{size}.yaml").write_text(STUDY.format(base=common.BASE, seeds=list(range(count))))
        jobs: dict[str, int] = {}

        def plan(size: str) -> None:
            options = ["--snakefile", str(common.REPOSITORY / "Snakefile"), "--configfile", f"{size}.yaml"]
            jobs[size] = common.jobs_of(common.snakemake(folder, "-n", "--quiet", "rules", "host", *options))

        seconds = common.in_turn({size: partial(plan, size) for size in sizes}, arguments.rounds)
    # A training, a prediction and a score.
    if jobs["sweep"] - jobs["one"] != 3 * (arguments.trainings - 1):
        sys.exit(f"the studies have other jobs than expected: {jobs}")
    more = [sweep - one for one, sweep in zip(seconds["one"], seconds["sweep"], strict=True)]
    return {
        "trainings": arguments.trainings,
        "jobs": jobs,
        "seconds": {size: common.spread(values) for size, values in seconds.items()},
        "more_seconds": common.spread(more),
    }


def tell(measured: dict[str, Any]) -> list[str]:
    lines = [f"{size}: {common.told(values, 's')}" for size, values in measured["seconds"].items()]
    return [*lines, f"difference: {common.told(measured['more_seconds'], 's')}; aim: less than 1 s"]


if __name__ == "__main__":
    common.run(main, tell, {"rounds": (5, 1, "times each is planned"), "trainings": (20, 2, "trainings of the sweep")})

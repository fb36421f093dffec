"""What planning costs: `snakemake -n` on a study of 83 users x 3 experiments, beside a workflow without a body.

The other workflow has the same jobs with the same edges, two files each, and nothing else: no study, no recipes, no
images to look at. Both are planned in turn, several times over. The study is planned with torch, transformers and
matplotlib made impossible to import:

    python benchmarks/dry_run.py
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import common

from usertune.demo.dataset import Counts, make_dataset

STUDY = """
name: planning
dataset: {{root: {root}/dataset}}
users: {{train: {train}, test: 1-{test}}}
base_model: {{path: {base}}}
experiments:
  vanilla: {{mode: vanilla}}
  lora: {{mode: lora}}
  full: {{mode: full}}
"""
# A rule of the other workflow. Its jobs are numbered as in the study; their inputs are in jobs.json.
EMPTY_RULE = """
rule {name}:
    input: lambda wildcards: JOBS["{name}"][wildcards.number]
    output: "made/{name}/{{number}}", "made/{name}/{{number}}.manifest"
    shell: "true"
"""
FORBIDDEN = ("torch", "transformers", "matplotlib")


def main(arguments: argparse.Namespace) -> dict[str, Any]:
    users = arguments.users
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_dataset(folder / "dataset", list(range(1, users + 1)), 0, Counts(20, 20, 50))
        (folder / "study.yaml").write_text(STUDY.format(root=folder, base=common.BASE, train=users, test=users - 1))
        for package in FORBIDDEN:
            (folder / f"{package}.py").write_text(f"raise ImportError('{package} was imported while planning')\n")
        options = {
            "study": ["--snakefile", str(common.REPOSITORY / "Snakefile"), "--configfile", "study.yaml"],
            "empty": ["--snakefile", "empty.smk"],
        }
        _write_empty(folder, common.snakemake(folder, "--dag", *options["study"]))
        jobs: dict[str, int] = {}

        def plan(workflow: str) -> None:
            said = common.snakemake(
                folder, "-n", "--quiet", "rules", "host", *options[workflow],
                environment={"PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])},
            )  # fmt: skip
            jobs[workflow] = common.jobs_of(said)

        seconds = common.in_turn({name: partial(plan, name) for name in options}, arguments.rounds)
    if not jobs["study"] == jobs["empty"] > 0:
        sys.exit(f"the workflows have different numbers of jobs: {jobs}")
    return {
        "users": users,
        "jobs": jobs["study"],
        "seconds": {name: common.spread(values) for name, values in seconds.items()},
        "study_over_empty": common.ratio(seconds["study"], seconds["empty"]),
    }


def _write_empty(folder: Path, dag: str) -> None:
    """Write the workflow with the jobs and edges of a graph in DOT; jobs without an edge read a file that is there."""
    rules = dict(re.findall(r'^\t(\d+)\[label = "(\w+)', dag, re.MULTILINE))
    jobs: dict[str, dict[str, list[str]]] = {rule: {} for rule in rules.values()}
    for number, rule in rules.items():
        jobs[rule][number] = []
    for before, after in re.findall(r"^\t(\d+) -> (\d+)", dag, re.MULTILINE):
        jobs[rules[after]][after].append(f"made/{rules[before]}/{before}")
    (folder / "raw").mkdir()
    for number, rule in rules.items():
        if not jobs[rule][number]:
            (folder / "raw" / number).touch()
            jobs[rule][number] = [f"raw/{number}"]
    (targets,) = jobs.pop("all").values()
    (folder / "jobs.json").write_text(json.dumps(jobs))
    head = f'import json\nJOBS = json.load(open("jobs.json"))\nrule all:\n    input: {targets}\n'
    (folder / "empty.smk").write_text(head + "".join(EMPTY_RULE.format(name=rule) for rule in jobs))


def tell(measured: dict[str, Any]) -> list[str]:
    lines = [f"{name}: {common.told(values, 's')}" for name, values in measured["seconds"].items()]
    return [
        f"{measured['jobs']} jobs",
        *lines,
        f"ratio: {common.told(measured['study_over_empty'])}; aim: at most 1.5",
    ]


if __name__ == "__main__":
    common.run(main, tell, {"rounds": (5, 1, "times each is planned"), "users": (83, 3, "users of the study")})

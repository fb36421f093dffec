"""What planning costs: `snakemake -n` on a study of 1,000 users x 3 experiments, beside a workflow without a body.

The study is compared with a workflow that has the same jobs with the same numbers of inputs, outputs and characters of
their commands, and nothing else: no study, no recipes, no images to look at. Both are planned in turn, several times
over, and what counts is the CPU time. The study is planned with torch, transformers and matplotlib made impossible to
import. As in the study, each batch of users is a rule of its own in that workflow, since its files share no wildcard.

Then a study of ten times the users is planned once, and its workflow without a body, whose time is Snakemake's own.
benchmarks/one_edit.py measures a run that has nothing to do. Takes minutes:

    python benchmarks/dry_run.py
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
from collections import Counter
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
FORBIDDEN = ("torch", "transformers", "matplotlib")
# Plans a workflow, and writes down its jobs as Snakemake's log describes them.
LIST_JOBS = """
import json, sys
from snakemake.cli import main
from snakemake.logging import logger
jobs = []
def note(record):
    if getattr(record, "shellcmd", None) is not None or getattr(record, "rule_name", None) == "all":
        if hasattr(record, "jobid"):
            jobs.append([record.rule_name, [str(file).split(" ")[0] for file in record.input],
                         [str(file).split(" ")[0] for file in record.output], len(record.shellcmd or "")])
    return True
logger.addFilter(note)
try:
    main()
finally:
    json.dump(jobs, open("listed.json", "w"))
"""
# A rule of the other workflow; its inputs are in jobs.json.
EMPTY_RULE = """
rule {name}:
    input: lambda wildcards: JOBS["{name}"][wildcards.number]
    output: {outputs}
    log: "log/{name}/{{number}}"
    params: text="{text}"
    shell: "true {{params.text}}"
"""
Job = tuple[str, list[str], list[str], int]


def main(arguments: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        found = _planned(Path(name) / "planned", arguments.users, arguments.samples, arguments.rounds)
        many = _planned(Path(name) / "many", arguments.many, 1, 1)
    return {**found, "many": many, "many_over_jobs": _growth(found, many)}


def _planned(folder: Path, users: int, samples: int, rounds: int) -> dict[str, Any]:
    """Return what planning a study of some users costs, and the workflow without a body."""
    folder.mkdir()
    make_dataset(folder / "dataset", list(range(1, users + 1)), 0, Counts(samples, samples, samples))
    (folder / "study.yaml").write_text(STUDY.format(root=folder, base=common.BASE, train=users, test=users - 1))
    for package in FORBIDDEN:
        (folder / f"{package}.py").write_text(f"raise ImportError('{package} was imported while planning')\n")
    (folder / "list_jobs.py").write_text(LIST_JOBS)
    options = {
        "study": ["--snakefile", str(common.REPOSITORY / "Snakefile"), "--configfile", "study.yaml"],
        "empty": ["--snakefile", "empty.smk"],
    }
    common.command([sys.executable, "list_jobs.py", "-n", "--quiet", "all", *options["study"]], folder)
    listed: list[Job] = json.loads((folder / "listed.json").read_text())
    _write_empty(folder, listed)
    jobs: dict[str, int] = {}

    def plan(workflow: str) -> float:
        started = common.cpu_seconds_of_children()
        said = common.snakemake(
            folder, "-n", "--quiet", "rules", "host", *options[workflow],
            environment={"PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])},
        )  # fmt: skip
        jobs[workflow] = common.jobs_of(said)
        return common.cpu_seconds_of_children() - started

    seconds = common.in_turn({name: partial(plan, name) for name in options}, rounds)
    if not jobs["study"] == jobs["empty"] == len(listed) > 0:
        sys.exit(f"the workflows have different numbers of jobs: {jobs}, and {len(listed)} are listed")
    return {
        "users": users,
        "jobs": jobs["study"],
        "files": sum(len(job[1]) for job in listed),
        "seconds": {name: common.spread(values) for name, values in seconds.items()},
        "study_over_empty": common.ratio(seconds["study"], seconds["empty"]),
    }


def _growth(few: dict[str, Any], many: dict[str, Any]) -> dict[str, float]:
    """Return how many times as many jobs and seconds the larger study has."""
    times = {name: many["seconds"][name]["median"] / few["seconds"][name]["median"] for name in ("study", "empty")}
    return {"jobs": round(many["jobs"] / few["jobs"], 2), **{name: round(value, 2) for name, value in times.items()}}


def _write_empty(folder: Path, listed: list[Job]) -> None:
    """Write the workflow with these jobs. What no job makes is a file that is there."""
    ((_, targets, _, _),) = (job for job in listed if job[0] == "all")
    own = [job for job in listed if job[0] != "all"]
    numbers: Counter[str] = Counter()
    paths: dict[str, str] = {}
    jobs: dict[str, dict[str, list[str]]] = {}
    rules: dict[str, str] = {}
    named = []
    for rule, inputs, outputs, length in own:
        name = re.sub(r"\W", "_", rule)
        number, numbers[name] = str(numbers[name]), numbers[name] + 1
        paths |= {file: f"made/{name}/{number}/{place}" for place, file in enumerate(outputs)}
        templates = ", ".join(f'"made/{name}/{{number}}/{place}"' for place in range(len(outputs)))
        rules.setdefault(name, EMPTY_RULE.format(name=name, outputs=templates, text="x" * length))
        named.append((name, number, inputs))
    for name, number, inputs in named:
        jobs.setdefault(name, {})[number] = [paths.get(file) or _source(folder, file) for file in inputs]
    (folder / "jobs.json").write_text(json.dumps(jobs))
    (folder / "targets.json").write_text(json.dumps([paths[file] for file in targets]))
    head = 'import json\nJOBS = json.load(open("jobs.json"))\nrule all:\n    input: json.load(open("targets.json"))\n'
    (folder / "empty.smk").write_text(head + "".join(rules.values()))


def _source(folder: Path, file: str) -> str:
    path = f"raw/{re.sub('[^A-Za-z0-9]', '_', file)}"
    (folder / "raw").mkdir(exist_ok=True)
    (folder / path).touch()
    return path


def tell(measured: dict[str, Any]) -> list[str]:
    many, growth = measured["many"], measured["many_over_jobs"]
    return [
        f"{measured['users']:,} users: {measured['jobs']:,} jobs with {measured['files']:,} inputs; seconds of CPU:",
        *(f"{name}: {common.told(values, 's')}" for name, values in measured["seconds"].items()),
        f"ratio: {common.told(measured['study_over_empty'])}; aim: at most 1.25",
        f"{many['users']:,} users: {many['jobs']:,} jobs, {growth['jobs']} times as many",
        *(f"{name}: {values['median']} s, {growth[name]} times" for name, values in many["seconds"].items()),
    ]


if __name__ == "__main__":
    common.run(
        main,
        tell,
        {
            "rounds": (3, 1, "times each is planned"),
            "users": (1001, 3, "users of the study, one of whom is trained on"),
            "samples": (120, 5, "samples of each"),
            "many": (10_001, 6, "users of the larger study, with one sample each"),
        },
    )

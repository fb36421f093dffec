"""What planning costs: `snakemake -n` on a study of 83 users x 3 experiments, beside a workflow without a body.

The other workflow has the same jobs with the same edges, and nothing else: no study, no recipes, no images
to look at. Both are planned in turn, several times over; the ratio of the medians is printed. The study is
planned with torch, transformers and matplotlib made impossible to import. Run anywhere:

    python benchmarks/dry_run.py
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from usertune.demo.dataset import Counts, make_dataset

REPOSITORY = Path(__file__).resolve().parent.parent
STUDY = """
name: planning
dataset: {{root: {root}/dataset}}
users: {{train: 83, test: 1-82}}
base_model: {{path: {repository}/demo/base}}
experiments:
  vanilla: {{mode: vanilla}}
  lora: {{mode: lora}}
  full: {{mode: full}}
"""
EMPTY = """
USERS = list(range(1, 83))
EXPERIMENTS = ["vanilla", "lora", "full"]
rule all:
    input: "r/report.html"
rule prepare:
    input: "dataset/user_{user}.jsonl"
    output: "r/data/{user}.jsonl", "r/data/{user}.json"
    shell: "true"
rule base_model:
    output: "r/base.json"
    shell: "true"
rule train:
    input: "r/base.json", "r/data/83.json"
    output: "r/train/{experiment}.json", "r/train/{experiment}.csv"
    shell: "true"
rule predict:
    input:
        "r/base.json",
        "r/data/{user}.json",
        lambda w: [] if w.experiment == "vanilla" else f"r/train/{w.experiment}.json",
    output: "r/predict/{experiment}/{user}.json"
    shell: "true"
rule score:
    input: "r/data/{user}.json", "r/data/{user}.jsonl", "r/predict/{experiment}/{user}.json"
    output: "r/score/{experiment}/{user}.json", "r/score/{experiment}/{user}.csv"
    shell: "true"
rule compare:
    input:
        expand("r/score/{e}/{u}.json", e=EXPERIMENTS, u=USERS),
        expand("r/score/{e}/{u}.csv", e=EXPERIMENTS, u=USERS),
    output: "r/summary.csv"
    shell: "true"
rule figure:
    input: "r/summary.csv"
    output: "r/figures/{name}.svg"
    shell: "true"
rule report:
    input:
        "r/summary.csv",
        expand("r/figures/{n}.svg", n="abc"),
        expand("r/predict/{e}/{u}.json", e=EXPERIMENTS, u=USERS),
        expand("r/data/{u}.jsonl", u=USERS),
    output: "r/report.html"
    shell: "true"
"""
FORBIDDEN = ("torch", "transformers", "matplotlib")


def main(rounds: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_dataset(root / "dataset", list(range(1, 84)), 0, Counts(20, 20, 50))
        (root / "study.yaml").write_text(STUDY.format(root=root, repository=REPOSITORY))
        (root / "empty.smk").write_text(EMPTY)
        for name in FORBIDDEN:
            (root / f"{name}.py").write_text(f"raise ImportError('{name} was imported while planning')\n")
        ours = ["--snakefile", str(REPOSITORY / "Snakefile"), "--configfile", "study.yaml"]
        theirs = ["--snakefile", "empty.smk"]
        jobs = {name: _jobs(_plan(root, arguments)[1]) for name, arguments in (("study", ours), ("empty", theirs))}
        seconds: dict[str, list[float]] = {"study": [], "empty": []}
        for _ in range(rounds):
            seconds["study"].append(_plan(root, ours)[0])
            seconds["empty"].append(_plan(root, theirs)[0])
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    for name, median in medians.items():
        print(f"{name}: {jobs[name]} jobs, {median:.2f} s (median of {rounds})")
    print(f"ratio: {medians['study'] / medians['empty']:.2f} (aim: at most 1.5)")


def _plan(root: Path, arguments: list[str]) -> tuple[float, str]:
    command = [sys.executable, "-m", "snakemake", "-n", "--quiet", "rules", "host", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    started = time.perf_counter()
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return time.perf_counter() - started, done.stdout + done.stderr


def _jobs(output: str) -> int:
    return next(int(line.split()[1]) for line in output.splitlines() if line.startswith("total "))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="times each is measured (default: 5)")
    main(parser.parse_args().rounds)

"""What comes after the scores of a million rows: the time and the memory of tables, figures, audit and report.

The study has 1,000 users x 3 experiments x 334 samples. A stand-in answers for the models; everything else is made by
the package's own steps: raw data, prepared samples, predictions and scores in this program, on all cores, and the rest
by the programs in scripts/, one after another, each in a process of its own as in a run. All samples of a user have one
small screenshot. Needs a temporary folder for about 3 GB; takes minutes, most of them for the scores:

    python benchmarks/report_scale.py
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import common
from PIL import Image

from usertune.core.files import write_text
from usertune.pipeline import steps
from usertune.pipeline.step import Step
from usertune.study.copy import resolved_text, study_text

sys.path.append(str(common.REPOSITORY))
from tests.support.synthetic_study import BASE, SyntheticStudy

APPS = 20
SAMPLES_OF_AN_EPISODE = 5
# Made in this program before, several results at once.
BEFORE = (steps.PREPARE, steps.BASE_MODEL, steps.TRAIN, steps.PREDICT, steps.SCORE, steps.LEAKAGE)
AIM_SECONDS, AIM_MB = 60, 2000


class Study(SyntheticStudy):
    """A study with one small screenshot for each user."""

    def write_raw(self, user: str) -> None:
        """Write a user's raw samples and the screenshot."""
        chance, number = random.Random(f"targets of {user}"), self.study.all_users.index(user)
        image = f"images/{user}.png"
        (self.dataset / "images").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (90, 180), (number % 256, number // 256, 120)).save(self.dataset / image)
        lines = []
        for step in range(self.samples):
            question = [{"type": "image", "image": image}, {"type": "text", "text": f"Tap the button 'send {step}'"}]
            answer = f"```grounding\n{[chance.randint(100, 900), chance.randint(100, 900)]}\n```"
            turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
            own = {"id": f"{user}/{step}", "episode": f"e{step // SAMPLES_OF_AN_EPISODE}", "step": step}
            lines.append(json.dumps({**own, "messages": turns, "app": f"app {chance.randrange(APPS)}"}))
        write_text(self.dataset / f"user_{user}.jsonl", "\n".join(lines) + "\n")


def main(arguments: argparse.Namespace) -> dict[str, Any]:
    users = [str(number) for number in range(1, arguments.users + 1)]
    with tempfile.TemporaryDirectory() as name:
        study = Study(
            Path(name) / "study", users=users, samples=arguments.samples, apps=True, users_per_job=10,
            changes={"report": {"title": "Large"}},
        )  # fmt: skip
        started = time.monotonic()
        _make_scores(study)
        before = time.monotonic() - started
        measured = {label: _measured(words) for label, words in _programs(study)}
        page = (study.root / "report.html").stat().st_size
    together = {key: [run[key] for label, run in measured.items()] for key in ("seconds", "cpu_seconds", "peak_mb")}
    return {
        "users": arguments.users,
        "experiments": len(study.experiments),
        "rows": arguments.users * arguments.samples * len(study.experiments),
        "seconds_up_to_the_scores": round(before, 1),
        "programs": measured,
        "seconds": round(sum(together["seconds"]), 1),
        "cpu_seconds": round(sum(together["cpu_seconds"]), 1),
        "peak_mb": max(together["peak_mb"]),
        "page_bytes": page,
    }


def tell(measured: dict[str, Any]) -> list[str]:
    lines = [
        f"{label}: {run['seconds']} s, {run['cpu_seconds']} s of CPU, at most {run['peak_mb']} MB"
        for label, run in measured["programs"].items()
    ]
    return [
        f"{measured['rows']:,} rows of {measured['users']:,} users, made in {measured['seconds_up_to_the_scores']} s",
        *lines,
        f"together: {measured['seconds']} s, {measured['cpu_seconds']} s of CPU; aim: at most {AIM_SECONDS} s",
        f"most memory: {measured['peak_mb']} MB; aim: at most {AIM_MB:,} MB; page of {measured['page_bytes']:,} bytes",
    ]


def _make_scores(study: Study) -> None:
    """Write raw data, and make everything up to the scores."""
    with ProcessPoolExecutor() as pool:
        list(pool.map(study.write_raw, study.study.all_users, chunksize=10))
        shutil.copytree(BASE, study.root / "base", dirs_exist_ok=True)
        for step in BEFORE:
            paths = [path for path, result in study.results.items() if result.step == step.name]
            # Ten scores of a batch are made by one process, which reads its predictions once.
            list(pool.map(functools.partial(_make, study), paths, chunksize=10 if len(paths) > 100 else 1))


def _make(study: Study, path: str) -> None:
    study.make(path)


def _programs(study: Study) -> Iterable[tuple[str, list[str]]]:
    """Yield the name and the command of each program after the scores, as the rules call them."""
    root, files, of_step = study.root, study.root / "files", {step: [] for step in steps.STEPS}  # type: ignore[var-annotated]
    for path, result in study.results.items():
        of_step[result.step].append(path)
    text_of = {"study.yaml": study_text(study.study, {}), "study.json": resolved_text(study.study)}
    for name, text in text_of.items():
        write_text(files / name, text)

    def given(name: str, paths: Iterable[str | Path]) -> str:
        write_text(files / name, "".join(f"{root / path}\n" for path in paths))
        return str(files / name)

    def command(step: Step, path: str, options: Mapping[str, Any]) -> list[str]:
        write_text(files / "recipe.json", json.dumps(study.recipe(path)))
        words = [f"--{key}={value}" for key, value in options.items() if not isinstance(value, list)]
        words += [word for key, many in options.items() if isinstance(many, list) for word in (f"--{key}", *many)]
        script = str(common.REPOSITORY / "scripts" / f"{step.name}.py")
        return [sys.executable, script, f"--recipe={files / 'recipe.json'}", *words, f"--log={files / 'log'}"]

    tables, figures = root / "tables", of_step[steps.FIGURE.name]
    (compared,), (audited,), (reported,) = (of_step[step.name] for step in (steps.COMPARE, steps.AUDIT, steps.REPORT))
    scores = given("scores.txt", of_step[steps.SCORE.name])
    yield "compare", command(steps.COMPARE, compared, {"scores": scores, "tables": tables})
    for path in figures:
        result = study.results[path]
        logs = [study.results[training] for training in result.inputs["training_logs"]]
        of_logs = {"training-log": [f"{log.name}={root / log.files[0]}" for log in logs]} if logs else {}
        options = {"name": result.item.figure, "tables": tables, "manifest": root / path, **of_logs}
        yield f"figure {result.item.figure}", command(steps.FIGURE, path, options)
    yield "audit", command(steps.AUDIT, audited, {"resolved-study": files / "study.json", "out": root / audited})
    yield "report", command(steps.REPORT, reported, {
        "study": files / "study.yaml", "base-model": root / "base_model/manifest.json", "tables": tables,
        "figures": [str(root / study.results[path].files[0]) for path in figures], "audit": root / audited,
        "leakage": root / "data/leakage.json",
        "training-manifests": given("trainings.txt", of_step[steps.TRAIN.name]),
        "predictions": given("predictions.txt", of_step[steps.PREDICT.name]),
        "samples": given("samples.txt", [study.samples_of(user) for user in study.users]),
        "data": root / "data", "dataset-root": study.dataset, "out": root / "report.html",
        "cost-figures": root / steps.FIGURE.folder,
        "study-copy": root / "study.yaml", "provenance": root / "provenance.json", "manifest": root / reported,
    })  # fmt: skip


def _measured(words: list[str]) -> dict[str, float]:
    """Run a command and return its seconds, the CPU time and the largest resident memory of its process."""
    started = time.monotonic()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(words, stdout=output, stderr=output)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(0)
            sys.exit(f"{words} failed:\n{output.read().decode()[-5000:]}")
    return {
        "seconds": round(time.monotonic() - started, 1),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 1),
        "peak_mb": round(used.ru_maxrss / 1000),
    }


if __name__ == "__main__":
    common.run(main, tell, {"users": (1000, 3, "test users"), "samples": (334, 10, "samples of each")})

"""kill -9 at any moment: what was finished is kept, and in the end nothing shows that anything happened."""

from __future__ import annotations

import json
import random
import subprocess
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from tests.support.workplace import LOCAL_PROFILE, Workplace, kill_group, new_workplace, wait_until
from usertune.demo.dataset import Counts
from usertune.evaluation.table_names import COST
from usertune.pipeline.layout import step_of_rule
from usertune.pipeline.steps import OF_COSTS

pytestmark = pytest.mark.workflow
LORA = "results/checkpoints/lora/manifest.json"
PREDICTIONS = tuple(f"results/predictions/{name}/users_1-2.json" for name in ("vanilla", "lora"))


@dataclass(frozen=True)
class Step:
    """A step to be disturbed: how often, its target, and the result to delete so that it runs again."""

    name: str
    kills: int
    targets: tuple[str, ...]
    result: str


STEPS = (
    Step(
        "prepare", 3, tuple(f"results/data/user_{user}.jsonl" for user in (1, 2, 11, 12, 13, 74)), "data/user_1.jsonl"
    ),
    Step("train", 5, (LORA,), "checkpoints/lora/manifest.json"),
    Step("predict", 4, PREDICTIONS, "predictions/lora/users_1-2.json"),
    Step("score", 2, ("vanilla", "lora"), "scores/lora/user_1.json"),
    Step("compare", 1, ("compare",), "tables/manifest.json"),
    Step("figure", 1, ("results/figures/loss_curves.svg",), "figures/loss_curves.svg"),
    Step("audit", 1, ("audit",), "audit/*.json"),
    Step("report", 3, ("report",), "report.html"),
)


ON_FOLDS = (
    Step("train_folds", 2, ("results/checkpoints/lora/users_1.json",), "checkpoints/lora/users_1.json"),
    Step("predict", 3, ("results/predictions/lora/users_1-2.json",), "predictions/lora/users_1-2.json"),
)


@dataclass
class Killer:
    """Kills jobs of a study, or the Snakemake that runs it, at random moments.

    Attributes:
        usual: seconds that a step's job usually takes.
        killed: how often a step's job or Snakemake was killed, by (step, "job" or "snakemake").
        checkpoint: the newest complete checkpoint when training was last suspended.
    """

    workplace: Workplace
    chance: random.Random
    usual: dict[str, float]
    killed: Counter[tuple[str, str]] = field(default_factory=Counter)
    checkpoint: int = 0
    _run: subprocess.Popen[str] | None = None
    _expected_to_fail: bool = False

    def kill_once(self, step: Step) -> None:
        """Run a step, and kill one of its processes within its usual time."""
        longest = self.usual[step.name]
        while True:
            jobs = self._jobs_of(step)
            before = set(self.workplace.stored_lines())
            moment = time.monotonic() + self.chance.uniform(0, longest)
            while time.monotonic() < moment and any(job.is_running() for job in jobs):
                time.sleep(0.01)
            victim = self.chance.choice(("job", "snakemake"))
            if self._kill_job(jobs) if victim == "job" else self._kill_snakemake():
                break
            # It was faster than usual: perhaps an orphan had done its work.
            longest /= 2
        self.killed[step.name, victim] += 1
        assert before <= set(self.workplace.stored_lines()), "what was stored stays stored"
        if step.name == "train" and not self.workplace.programs("train"):
            self.checkpoint = self.workplace.newest_checkpoint("lora")

    def end(self) -> None:
        """End what was started."""
        if self._run and self._run.poll() is None:
            self._run.kill()
            self._run.wait()
        for step in (*STEPS, *ON_FOLDS):
            for process in self.workplace.programs(step.name):
                process.kill()

    def _jobs_of(self, step: Step) -> list[psutil.Process]:
        """Wait for running jobs of a step; Snakemake is started where it does not run."""
        end = time.monotonic() + 300
        while not (jobs := self.workplace.programs(step.name)):
            assert time.monotonic() < end, self.workplace.output
            if self._run is None or self._run.poll() is not None:
                self._start(step)
            time.sleep(0.02)
        return jobs

    def _start(self, step: Step) -> None:
        if self._run is not None:
            assert self._run.returncode == 0 or self._expected_to_fail, self.workplace.output
            if self._run.returncode == 0:
                for result in self.workplace.results.glob(step.result):
                    result.unlink()
        self._run = self.workplace.start(*step.targets)
        self._expected_to_fail = False

    def _kill_job(self, jobs: list[psutil.Process]) -> bool:
        job = self.chance.choice(jobs)
        try:
            job.kill()
        except psutil.NoSuchProcess:
            return False
        psutil.wait_procs([job], timeout=60)
        self._expected_to_fail = True
        return True

    def _kill_snakemake(self) -> bool:
        """Kill Snakemake alone; its jobs live on."""
        assert self._run is not None
        if self._run.poll() is not None:
            return False
        self._run.kill()
        self._run.wait()
        self._expected_to_fail = True
        return True


def _usual_seconds(workplace: Workplace) -> dict[str, float]:
    """Return the longest time that a job of each step took, by Snakemake's records."""
    found: dict[str, float] = {}
    for path in (workplace.folder / ".snakemake/metadata").iterdir():
        record = json.loads(path.read_text())
        # Rules of batches are called by their step and their users.
        step = step_of_rule(record["rule"])
        found[step] = max(found.get(step, 0), record["endtime"] - record["starttime"])
    return found


def _small_study(folder: Path) -> Workplace:
    workplace = new_workplace(folder, Counts(train=5, validation=2, test=12))
    workplace.options = LOCAL_PROFILE
    workplace.replace("  full:\n    mode: full\n", "")
    workplace.replace("  epochs: 1", "  epochs: 8")
    # After a kill an attempt uses smaller micro-batches; their sums differ in the last digits.
    workplace.replace("  micro_batch_size: 4", "  micro_batch_size: 1")
    workplace.replace("  batch_size: 10", "  batch_size: 4")
    return workplace


@pytest.mark.timeout(1800)
def test_killed_at_twenty_random_moments(tmp_path: Path) -> None:
    workplace = _small_study(tmp_path / "study")
    workplace.run(timeout=900)
    undisturbed = tmp_path / "undisturbed"
    workplace.results.rename(undisturbed)
    killer = Killer(workplace, random.Random(20), _usual_seconds(workplace))
    try:
        for step in STEPS:
            for _ in range(step.kills):
                killer.kill_once(step)
    finally:
        killer.end()
    assert killer.killed.total() == 20
    assert {victim for _, victim in killer.killed} == {"job", "snakemake"}
    workplace.run(timeout=900)
    _same_results(workplace, undisturbed)
    training = workplace.json("checkpoints/lora/manifest.json")
    assert training["resumed_from_step"] >= killer.checkpoint, "no step before the last checkpoint was repeated"
    # Two experiments, two users with 12 samples each; the line that a kill cut short is not counted.
    assert len([line for line in workplace.stored_lines() if line.endswith("}")]) == 48, "no answer was generated twice"
    # Killed writers leave hidden files next to the results, which nothing reads.
    left = [path for path in workplace.results.rglob("*") if ".tmp" in path.name]
    assert all(path.name.startswith(".") for path in left)
    code, output = workplace.usertune("audit", "--study", str(workplace.study))
    assert code == 0, output
    assert "Nothing to be done" in workplace.run()


@pytest.mark.timeout(1800)
def test_personal_training_and_prediction_killed_at_random_moments(tmp_path: Path) -> None:
    workplace = _small_study(tmp_path / "study")
    workplace.replace("  lora:\n    mode: lora\n", "  lora:\n    mode: lora\n    scope: personal\n")
    workplace.replace("evaluation:\n", "folds: {count: 2, by: random}\nevaluation:\n")
    workplace.replace("  warmup_steps: 1\n", "")
    results = (*ON_FOLDS[0].targets, *ON_FOLDS[1].targets, "results/checkpoints/lora/users_2.json")
    workplace.run(*results, timeout=900)
    undisturbed = tmp_path / "undisturbed"
    workplace.results.rename(undisturbed)
    killer = Killer(workplace, random.Random(10), _usual_seconds(workplace))
    try:
        for step in ON_FOLDS:
            for _ in range(step.kills):
                killer.kill_once(step)
    finally:
        killer.end()
    assert killer.killed.total() == 5
    workplace.run(*results, timeout=900)
    for user in ("1", "2"):
        name = f"checkpoints/lora/users_{user}.json"
        before, after = json.loads((undisturbed / name).read_text()), workplace.json(name)
        assert after["output"] == before["output"]
        for fold, record in after["folds"].items():
            for key in ("fingerprint", "weights_files", "losses_sha256", "steps", "held_out"):
                assert record[key] == before["folds"][fold][key], key
        table = name.replace(".json", ".csv")
        assert (workplace.results / table).read_bytes() == (undisturbed / table).read_bytes()
    name = "predictions/lora/users_1-2.json"
    assert workplace.json(name)["predictions"] == json.loads((undisturbed / name).read_text())["predictions"]
    # Two users with 12 samples each; the line that a kill cut short is not counted.
    assert len([line for line in workplace.stored_lines() if line.endswith("}")]) == 24, "no answer was generated twice"


def _same_results(workplace: Workplace, undisturbed: Path) -> None:
    before, after = (
        json.loads((root / "checkpoints/lora/manifest.json").read_text()) for root in (undisturbed, workplace.results)
    )
    for key in ("fingerprint", "weights_fingerprint", "weights_files", "losses_sha256", "steps"):
        assert after[key] == before[key], key
    for experiment in ("vanilla", "lora"):
        name = f"predictions/{experiment}/users_1-2.json"
        assert workplace.json(name)["predictions"] == json.loads((undisturbed / name).read_text())["predictions"]
    # All but the costs, which have the time that the kills took.
    tables = [path for path in undisturbed.glob("tables/*.csv") if path.name != COST]
    figures = [path for path in undisturbed.glob("figures/*.svg") if not path.name.startswith(OF_COSTS)]
    data = [*undisturbed.glob("data/*.jsonl")]
    assert (bool(tables), bool(figures), len(data)) == (True, True, 6)
    equal = [*tables, *figures, *data]
    for path in [*equal, undisturbed / "checkpoints/lora/training_log.csv"]:
        relative = str(path.relative_to(undisturbed))
        assert (workplace.results / relative).read_bytes() == path.read_bytes(), relative


def test_job_that_outlives_snakemake(tmp_path: Path) -> None:
    workplace = _small_study(tmp_path / "study")
    runs = [workplace.start(LORA)]
    log = workplace.results / "logs/train/lora.log"

    def said(text: str) -> bool:
        return log.exists() and text in log.read_text()

    try:
        wait_until(lambda: said("training on"), runs[0])
        (orphan,) = workplace.programs("train")
        orphan.suspend()
        runs[0].kill()
        runs[0].wait()
        runs.append(workplace.start(LORA))
        wait_until(lambda: said("another process is training lora already; waiting for it"), runs[1])
        orphan.resume()
        assert runs[1].wait(400) == 0, workplace.output
    finally:
        for run in runs:
            kill_group(run)
    assert said("lora is already trained")
    training = workplace.json("checkpoints/lora/manifest.json")
    assert (training["resumed_from_step"], training["attempts"]) == (0, 1)

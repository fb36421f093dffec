"""A small study on the demo's base model, and real Snakemake runs of it."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.support.forked_snakemake import run_each
from usertune.demo.dataset import Counts, make_dataset

REPOSITORY = Path(__file__).resolve().parents[2]
TRAINED = ("lora", "full")
SNAKEMAKE = (sys.executable, "-m", "snakemake")
EXPERIMENTS = ("vanilla", *TRAINED)
# As people run it: with retries, and with no lock that outlives its holder.
LOCAL_PROFILE = ("--profile", str(REPOSITORY / "profiles/local"))

# One key a line, so that tests can replace lines and know their numbers.
STUDY = f"""\
name: tiny
results: results
dataset:
  format: messages
  root: data
  task: grounding
  on_bad_sample: error
users:
  train: 11-13
  validation: 74
  test: 1-2
base_model:
  path: {REPOSITORY}/demo/base
  dtype: float32
experiments:
  vanilla:
    mode: vanilla
  lora:
    mode: lora
    training:
      learning_rate: 4e-3
  full:
    mode: full
training:
  epochs: 1
  learning_rate: 2e-3
  warmup_steps: 1
  batch_size: 4
  micro_batch_size: 4
  gradient_checkpointing: false
  dataloader_num_workers: 0
  validate_every_steps: 10
  save_every_steps: 2
  lora:
    rank: 2
evaluation:
  users_per_job: 2
  batch_size: 10
  max_new_tokens: 40
report:
  samples: all
  # Drawing takes longer than all else. tests/unit/reporting draws the others, and so does the demo.
  figures: {{paired_gains: &not {{draw: false}}, accuracy_heat_map: *not, gain_by_samples: *not, error_map: *not,
    cost_against_accuracy: *not}}
"""
# The figures of that study.
FIGURES = {"accuracy_by_user", "distance_distribution", "loss_curves"}


@dataclass
class Workplace:
    """A folder with a dataset, a study and the results of Snakemake."""

    folder: Path
    # On the CPU wherever the tests run.
    environment: dict[str, str] = field(default_factory=lambda: {"CUDA_VISIBLE_DEVICES": ""})
    runs: int = 0
    # The folder of the workflow's code; tests that edit it use a copy.
    repository: Path = REPOSITORY
    # Given to every run.
    options: tuple[str, ...] = ()

    @property
    def study(self) -> Path:
        return self.folder / "study.yaml"

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def results(self) -> Path:
        return self.folder / "results"

    def replace(self, old: str, new: str) -> int:
        """Replace one text in the study; return the number of its first line."""
        text = self.study.read_text()
        assert text.count(old) == 1, f"{old!r} is {text.count(old)} times in the study"
        self.study.write_text(text.replace(old, new))
        return text[: text.index(old)].count("\n") + 1

    def command(self, *arguments: str, cores: int = 2) -> list[str]:
        """Return the command line of Snakemake."""
        head = [*SNAKEMAKE, "--snakefile", str(self.repository / "Snakefile")]
        where = ["--configfile", str(self.study), "--directory", str(self.folder), "--cores", str(cores)]
        # Before the options that take several values, which would swallow targets.
        return [*head, *arguments, *self.options, *where]

    def start(self, *arguments: str, cores: int = 2) -> subprocess.Popen[str]:
        """Start Snakemake in a separate process group; see `output`."""
        self.runs += 1
        with self._output_file.open("w") as output:
            return subprocess.Popen(
                self.command(*arguments, cores=cores),
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
                env=self.run_environment,
                start_new_session=True,
                # pytest in the background of a script has Ctrl-C ignored, and children inherit that.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            )

    @property
    def output(self) -> str:
        """What the run that was started last has said so far."""
        return self._output_file.read_text()

    @property
    def _output_file(self) -> Path:
        return self.folder / f"output-{self.runs}.txt"

    def snakemake(self, *arguments: str, cores: int = 2, timeout: float = 240) -> tuple[int, str]:
        """Run Snakemake to its end; return its exit code and all that it said."""
        process = self.start(*arguments, cores=cores)
        try:
            code = process.wait(timeout)
        finally:
            kill_group(process)
        return code, self.output

    def run(self, *arguments: str, cores: int = 2, timeout: float = 240) -> str:
        """Run Snakemake, which must succeed; return what it said."""
        code, output = self.snakemake(*arguments, cores=cores, timeout=timeout)
        assert code == 0, output
        return output

    def run_in_terminal(self, *arguments: str, cores: int = 2) -> str:
        """Run Snakemake, which must succeed, on a terminal of 80 columns; return what it wrote to the terminal."""
        reader, terminal = pty.openpty()
        termios.tcsetwinsize(terminal, (24, 80))
        command = self.command(*arguments, cores=cores)
        environment = {**self.run_environment, "TERM": "xterm"}
        process = subprocess.Popen(
            command, stdin=terminal, stdout=terminal, stderr=terminal, env=environment, start_new_session=True
        )
        os.close(terminal)
        written = b""
        try:
            # The last process that has the terminal open closes it.
            with suppress(OSError):
                while piece := os.read(reader, 1 << 16):
                    written += piece
            code = process.wait(60)
        finally:
            kill_group(process)
            os.close(reader)
        output = written.decode()
        assert code == 0, output
        return output

    def variants(self, count: int) -> list[Workplace]:
        """Return that many copies of a study without results; they share its data."""
        copies = []
        for number in range(count):
            folder = self.folder / f"variant-{number}"
            folder.mkdir()
            (folder / "data").symlink_to(self.data)
            shutil.copy(self.study, folder)
            copies.append(Workplace(folder, self.environment, repository=self.repository, options=self.options))
        return copies

    def usertune(self, *arguments: str) -> tuple[int, str]:
        """Run the command `usertune` in the study's folder; return its exit code and all its output."""
        done = subprocess.run(
            [sys.executable, "-P", "-m", "usertune", *arguments],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            env={**self.run_environment, "PYTHONPATH": str(self.repository / "src")},
            check=False,
        )
        return done.returncode, done.stdout

    def json(self, name: str) -> dict[str, Any]:
        """Return a JSON object of the results."""
        value: dict[str, Any] = json.loads((self.results / name).read_text())
        return value

    def predictions(self, experiment: str) -> dict[str, Any]:
        """Return the predictions of both test users."""
        return self.json(f"predictions/{experiment}/users_1-2.json")

    def weights(self) -> dict[str, str]:
        """Return the fingerprint of each trained experiment's weights."""
        return {name: self.json(f"checkpoints/{name}/manifest.json")["weights_fingerprint"] for name in TRAINED}

    def trainings(self) -> dict[str, int]:
        """Return when each training that ever ended did so; a repeated training would show here."""
        return {
            str(path.relative_to(self.results)): path.stat().st_mtime_ns
            for path in self.results.glob("checkpoints/*/*/complete.json")
        }

    def newest_checkpoint(self, experiment: str) -> int:
        """Return the step of the newest complete working checkpoint, 0 if there is none."""
        found = self.results.glob(f"checkpoints/{experiment}/*/checkpoint-*/complete.json")
        return max((int(path.parent.name.rpartition("-")[2]) for path in found), default=0)

    def stored_lines(self) -> list[str]:
        """Return every line of the prediction store."""
        segments = sorted(self.results.glob("store/predictions/**/*.jsonl"))
        return [line for segment in segments for line in segment.read_text().splitlines()]

    def programs(self, step: str) -> list[psutil.Process]:
        """Return the processes of a step in this folder, also after the end of their Snakemake; the newest last."""
        script = str(self.repository / f"scripts/{step}.py")
        found: dict[psutil.Process, int] = {}
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if script in process.cmdline()[1:2] and Path(process.cwd()) == self.folder.resolve():
                    found[process] = process.ppid()
        # What a program forks looks like the program.
        pids = {process.pid for process in found}
        own = [process for process, parent in found.items() if parent not in pids]
        return sorted(own, key=lambda process: process.create_time())

    def add_to_path(self, folder: Path) -> None:
        """Put a folder of programs before those of the system."""
        self.environment["PATH"] = os.pathsep.join([str(folder), os.environ["PATH"]])

    @property
    def run_environment(self) -> dict[str, str]:
        """The environment of every program that is run here."""
        hidden = {"SNAKEMAKE_PROFILE", "CUDA_VISIBLE_DEVICES"}
        kept = {key: value for key, value in os.environ.items() if key not in hidden}
        # TMPDIR keeps GPU locks apart from those of real jobs.
        return {**kept, "TMPDIR": str(self.folder), **self.environment}


def refused(workplaces: Sequence[Workplace], *arguments: str) -> list[str]:
    """Run Snakemake in each folder, which must be refused before any job; return the outputs."""
    runs = [workplace.command(*arguments)[len(SNAKEMAKE) :] for workplace in workplaces]
    said = []
    for workplace, (code, output) in zip(
        workplaces, run_each(runs, workplaces[0].folder, workplaces[0].run_environment), strict=True
    ):
        assert code != 0, output
        assert not workplace.results.exists(), output
        assert "Traceback" not in output, output
        assert "Building DAG" not in output, output
        said.append(output)
    return said


def kill_group(process: subprocess.Popen[Any]) -> None:
    """Kill Snakemake and its jobs."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def wait_until(condition: Callable[[], object], process: subprocess.Popen[str], timeout: float = 300) -> None:
    """Wait for a condition while a process runs."""
    end = time.monotonic() + timeout
    while not condition():
        assert process.poll() is None, "Snakemake ended before what was waited for"
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


def new_workplace(folder: Path, counts: Counts | None = None, users: tuple[int, ...] = (1, 2)) -> Workplace:
    """Make a dataset and a study."""
    folder.mkdir(exist_ok=True)
    counts = counts or Counts(train=5, validation=4, test=5)
    make_dataset(folder / "data", [*users, 11, 12, 13, 74], 0, counts)
    workplace = Workplace(folder)
    workplace.study.write_text(STUDY)
    return workplace


def write_otherwise(workplace: Workplace) -> None:
    """Write some users' raw data in other ways that are allowed.

    The first samples of users 2 (test) and 11 are text alone; user 12's are a system turn with the image, then the
    answer, as in the reference experiment; user 13's file is one of Windows, with a byte order mark.
    """
    for user, change in ((2, _without_image), (11, _without_image), (12, _in_system_turn)):
        path = workplace.data / f"user_{user}.jsonl"
        samples = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for sample in samples if user == 12 else samples[:1]:
            change(sample["messages"])
        path.write_text("".join(json.dumps(sample) + "\n" for sample in samples), encoding="utf-8")
    path = workplace.data / "user_13.jsonl"
    path.write_bytes(path.read_text(encoding="utf-8").replace("\n", "\r\n").encode("utf-8-sig"))


def _without_image(messages: list[dict[str, Any]]) -> None:
    messages[0]["content"] = [part for part in messages[0]["content"] if part["type"] == "text"]


def _in_system_turn(messages: list[dict[str, Any]]) -> None:
    messages[0]["role"] = "system"

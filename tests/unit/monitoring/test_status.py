"""Whether each result is said to be done, running, queued, waiting, failed or stopped, and how people see it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from slurm_guard.journal import Journal
from slurm_guard.queue import ListedJob
from tests.support.synthetic_study import SyntheticStudy
from usertune.checks.freshness import Freshness
from usertune.cluster.job_names import JOURNAL
from usertune.monitoring.jobs import LOST_AFTER, process_lives, read_jobs, read_submissions
from usertune.monitoring.status import Row, Status, status_of
from usertune.monitoring.status_view import MARKS, marks_of_users, render
from usertune.monitoring.status_watch import StudyWatch, show, watch
from usertune.pipeline.steps import OF_COSTS
from usertune.study.schema.report import FIGURE_NAMES

PREDICTION = "predictions/lora/users_1-2.json"
OF_PREDICTION = {"rule": "predict", "wildcards": {"experiment": "lora", "batch": "1-2"}, "attempt": 1}


def ago(**time: float) -> str:
    return (datetime.now().astimezone() - timedelta(**time)).isoformat()


def inspect(study: SyntheticStudy, queue: dict[str, ListedJob] | None = None) -> Status:
    return status_of(Freshness(study.study, study.recipes), read_jobs(Path(), queue))


def row(status: Status, step: str, experiment: str = "lora", user: str = "1") -> Row:
    """Return the row of a step of an experiment, and of a user where it has users."""
    (found,) = (
        row
        for row in status.rows
        if (row.step, row.experiment) == (step, experiment) and (not row.users or user in row.users)
    )
    return found


def write_record(path: str, **changes: Any) -> None:
    """Write the record of a job of this process, which runs and has done 30 of 120 samples."""
    progress = {"unit": "samples", "done": 30, "total": 120, "rate": 3.0, "seconds_left": 30.0, "at": ago(seconds=10)}
    value = {
        "state": "running",
        "error": None,
        "attempt": 1,
        "process": os.getpid(),
        "host": socket.gethostname(),
        "slurm_job": None,
        "node": None,
        "gpus": ["0"],
        "started": ago(seconds=0),
        "updated": ago(seconds=0),
        "ended": None,
        "earlier": [],
        "model_loads": 1,
        "progress": progress,
        **changes,
    }
    log = Path("logs") / path
    log.parent.mkdir(parents=True, exist_ok=True)
    log.with_suffix(".log").touch()
    log.with_suffix(".progress.json").write_text(json.dumps(value))


def remove_prediction() -> None:
    Path(PREDICTION).unlink()


@pytest.fixture
def unpredicted(complete: SyntheticStudy) -> SyntheticStudy:
    """A complete study that lacks one batch's predictions."""
    remove_prediction()
    return complete


def predict_record(**changes: Any) -> None:
    write_record("predict/lora/users_1-2", **changes)


def dead_process() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_a_complete_study(complete: SyntheticStudy) -> None:
    status = inspect(complete)
    assert status.complete
    assert not status.active
    assert status.seconds_left is None
    assert status.counts() == {"done": len(complete.results)}
    assert row(status, "train").samples_per_second == 0.1


def test_nothing_there_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    study = SyntheticStudy(Path("results"))
    assert inspect(study).counts() == {"waiting": len(study.results)}
    assert not list(tmp_path.iterdir()), "reading the status writes nothing"


def test_what_is_made_from_something_missing_is_not_done(unpredicted: SyntheticStudy) -> None:
    status = inspect(unpredicted)
    assert row(status, "predict").state == "waiting"
    assert row(status, "score").state == "waiting"
    assert row(status, "score", user="10").state == "done"
    assert row(status, "predict", "vanilla").state == "done"
    assert status.counts("compare", "figure", "audit", "report") == {"waiting": 3 + len({*FIGURE_NAMES} - {*OF_COSTS})}


def test_another_recipe_and_a_damaged_result_are_not_done(complete: SyntheticStudy) -> None:
    Path("scores/lora/user_1.csv").write_text("modified")
    assert row(inspect(complete), "score").state == "waiting"
    complete.changes["training"] = {"epochs": 2}
    del complete.study, complete.recipes
    assert row(inspect(complete), "train").state == "waiting"
    assert row(inspect(complete), "predict").state == "waiting", "what was made with the old training"
    assert row(inspect(complete), "predict", "vanilla").state == "done"


def test_a_prediction_of_other_weights_is_not_done(complete: SyntheticStudy) -> None:
    other = SyntheticStudy(Path(), **{"samples": 3, "users_per_job": 2}, changes={"training": {"epochs": 2}})
    old = Path("checkpoints/lora/manifest.json").read_bytes()
    other.make("checkpoints/lora/manifest.json", other.recipe("checkpoints/lora/manifest.json"))
    other.make(PREDICTION, complete.recipe(PREDICTION))
    Path("checkpoints/lora/manifest.json").write_bytes(old)
    assert row(inspect(complete), "train").state == "done"
    assert row(inspect(complete), "predict").state == "waiting"


def test_running_here(unpredicted: SyntheticStudy) -> None:
    predict_record()
    found = row(inspect(unpredicted), "predict")
    assert (found.state, found.done, found.total, found.unit) == ("running", 30, 120, "samples")
    assert found.samples_per_second == 3.0
    assert found.seconds_left == pytest.approx(20, abs=5), "30 s left, said 10 s ago"
    assert (found.gpus, found.log) == (("0",), "logs/predict/lora/users_1-2.log")


def test_steps_of_a_training_count_as_samples(complete: SyntheticStudy) -> None:
    Path("checkpoints/lora/manifest.json").unlink()
    progress = {"unit": "steps", "done": 1, "total": 3, "rate": 0.5, "seconds_left": 4, "at": ago(seconds=0)}
    write_record("train/lora", progress=progress)
    assert row(inspect(complete), "train").samples_per_second == 0.5 * 8, "a step takes training.batch_size samples"


@pytest.mark.parametrize(
    ("changes", "state", "error"),
    [
        ({"state": "failed", "error": "out of memory"}, "failed", "out of memory"),
        ({"state": "stopped"}, "stopped", None),
        ({"state": "ended"}, "waiting", None),
    ],
)
def test_ended_without_a_result(
    changes: dict[str, Any], state: str, error: str | None, unpredicted: SyntheticStudy
) -> None:
    predict_record(ended=ago(seconds=0), **changes)
    found = row(inspect(unpredicted), "predict")
    assert (found.state, found.error) == (state, error)


def test_a_killed_process_does_not_run_for_ever(unpredicted: SyntheticStudy) -> None:
    predict_record(process=dead_process())
    found = row(inspect(unpredicted), "predict")
    assert found.state == "failed"
    assert "killed" in str(found.error)


def test_another_process_of_the_same_number_is_not_the_job(unpredicted: SyntheticStudy) -> None:
    predict_record(started=ago(days=2), updated=ago(days=1))
    assert row(inspect(unpredicted), "predict").state == "failed"
    assert process_lives(os.getpid(), datetime.now().astimezone())
    assert not process_lives(10**30, datetime.now().astimezone())


def test_a_process_that_was_not_waited_for_is_dead() -> None:
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert not process_lives(process.pid, datetime.now().astimezone())
    process.wait()


def test_running_elsewhere(unpredicted: SyntheticStudy) -> None:
    elsewhere = {"host": "another", "node": "n7", "slurm_job": "5", "started": ago(hours=3)}
    predict_record(**elsewhere)
    assert row(inspect(unpredicted), "predict").state == "running", "it gave a sign of life just now"
    assert row(inspect(unpredicted), "predict").host == "n7"
    predict_record(**elsewhere, updated=ago(seconds=LOST_AFTER.total_seconds() + 1))
    assert row(inspect(unpredicted), "predict").state == "failed"
    assert row(inspect(unpredicted, {"5": ListedJob("5", "RUNNING")}), "predict").state == "running"
    assert row(inspect(unpredicted, {"5": ListedJob("5", "NODE_FAIL")}), "predict").state == "failed"


def submit(event: str = "submitted", job: str = "5", **more: Any) -> None:
    Journal(Path(JOURNAL)).append(event, job, **OF_PREDICTION, log=f"slurm/{job}.log", **more)


def end(state: str, job: str = "5") -> None:
    Journal(Path(JOURNAL)).append(
        "ended", job, state=state, submitted_at=None, started_at=None, ended_at=None, nodes="n0"
    )


def test_submitted_to_slurm(unpredicted: SyntheticStudy) -> None:
    submit()
    assert row(inspect(unpredicted), "predict").state == "queued"
    assert row(inspect(unpredicted, {"5": ListedJob("5", "PENDING")}), "predict").state == "queued"
    assert row(inspect(unpredicted, {"5": ListedJob("5", "RUNNING")}), "predict").state == "running"
    found = row(inspect(unpredicted, {}), "predict")
    assert (found.state, found.error) == ("failed", "SLURM job 5 no longer exists (not listed)")
    end("TIMEOUT")
    found = row(inspect(unpredicted), "predict")
    assert (found.state, found.error, found.slurm_job) == ("failed", "SLURM job 5: TIMEOUT", "5")
    submit(job="6")
    assert row(inspect(unpredicted), "predict").state == "queued", "it is tried again"
    Journal(Path(JOURNAL)).append("cancelled", "6")
    assert row(inspect(unpredicted), "predict").state == "stopped"


def test_what_the_program_said_explains_more_than_slurm(unpredicted: SyntheticStudy) -> None:
    submit()
    failed = {"state": "failed", "error": "out of memory", "slurm_job": "5"}
    predict_record(**failed, ended=ago(seconds=0))
    assert row(inspect(unpredicted), "predict").error == "out of memory", "no run has seen the end yet"
    end("FAILED")
    assert row(inspect(unpredicted), "predict").error == "out of memory"
    submit(job="6")
    assert row(inspect(unpredicted), "predict").state == "queued"


def test_a_damaged_journal(unpredicted: SyntheticStudy) -> None:
    submit(job="4")
    submit(job="5")
    lines = Path(JOURNAL).read_text()
    strange = (
        '{"event": "submitted", "time": "yesterday", "job": "9"}\n{"event": "ended", "time": null, "job": []}\n3\n'
    )
    Path(JOURNAL).write_text(strange + lines + '{"event": "ended", "job": "5", "ti')
    assert list(read_submissions(Path(JOURNAL))) == ["4", "5"]
    assert row(inspect(unpredicted), "predict").state == "queued"
    Path(JOURNAL).write_bytes(b"\xff\xfe\n" + lines.encode())
    assert list(read_submissions(Path(JOURNAL))) == ["4", "5"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"state": "running"}', "[" * 100_000])
def test_a_damaged_record_counts_as_none(text: str, unpredicted: SyntheticStudy) -> None:
    predict_record()
    Path("logs/predict/lora/users_1-2.progress.json").write_text(text)
    assert row(inspect(unpredicted), "predict").state == "waiting"


def hold(process: int, since: str, host: str | None = None) -> None:
    Path(".lock-holder").write_text(f"process {process} on {host or socket.gethostname()}, since {since}\n")


def test_a_new_run_has_an_old_failure_before_it(unpredicted: SyntheticStudy) -> None:
    predict_record(state="failed", error="bad", started=ago(hours=2), ended=ago(hours=1))
    hold(dead_process(), ago(minutes=1))
    status = inspect(unpredicted)
    assert (row(status, "predict").state, status.active) == ("failed", False)
    hold(os.getpid(), ago(seconds=0))
    status = inspect(unpredicted)
    assert (row(status, "predict").state, status.active) == ("waiting", True)
    hold(1, ago(seconds=0), "another")
    run = inspect(unpredicted).run
    assert run
    assert (run.host, run.alive) == ("another", None)


@pytest.mark.parametrize("text", ["", "nobody", "process 1 on here, since then"])
def test_a_damaged_holder_is_no_run(text: str, complete: SyntheticStudy) -> None:
    Path(".lock-holder").write_text(text)
    assert inspect(complete).run is None


def test_time_left_is_said_only_when_it_is_known(unpredicted: SyntheticStudy) -> None:
    assert inspect(unpredicted).seconds_left is None, "nothing runs"
    predict_record()
    assert inspect(unpredicted).seconds_left == pytest.approx(20, abs=5)
    # The other batch waits: three samples each of two users, at what was measured of this one.
    Path("predictions/lora/users_10,ana.json").unlink()
    assert inspect(unpredicted).seconds_left == pytest.approx(20 + 6 / 3, abs=5)
    Path("checkpoints/full_tuned/manifest.json").unlink()
    assert inspect(unpredicted).seconds_left is None, "nobody knows how long a training takes that has not begun"


def shown(status: Status, width: int = 80) -> str:
    console = Console(width=width, markup=False, highlight=False, color_system=None)
    with console.capture() as capture:
        console.print(render(status), crop=False)
    return capture.get()


def test_every_user_has_a_mark(unpredicted: SyntheticStudy) -> None:
    predict_record()
    status = inspect(unpredicted)
    rows = [row for row in status.rows if row.experiment == "lora"]
    assert marks_of_users(rows) == {"1": "running", "2": "running", "10": "scored", "ana": "scored"}
    Path("scores/vanilla/user_1.json").unlink()
    rows = [row for row in inspect(unpredicted).rows if row.experiment == "vanilla"]
    assert marks_of_users(rows)["1"] == "predicted"
    text = shown(inspect(unpredicted))
    assert ">>##" in text
    assert "+###" in text
    assert len({mark for mark, _ in MARKS.values()}) == len(MARKS)


@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_failure_is_shown_with_its_log(width: int, unpredicted: SyntheticStudy) -> None:
    error = "\x1b[31m[bold]it\x07 is bad[/bold]"
    predict_record(state="failed", error=error, ended=ago(seconds=0), attempt=3)
    text = shown(inspect(unpredicted), width)
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "logs/predict/lora/users_1-2.log" in text, "a path is never broken"
    assert "predicting lora, users" in text
    if width >= 80:
        assert r"\x1b[31m[bold]it\x07 is bad[/bold]" in text
        assert "attempt 3" in text


def test_whether_all_is_well(unpredicted: SyntheticStudy, capsys: pytest.CaptureFixture[str]) -> None:
    study = StudyWatch(unpredicted.study)
    assert show(study, as_json=False, times=False), "what waits is no failure"
    predict_record(state="failed", error="bad", ended=ago(seconds=0))
    assert not show(study, as_json=False, times=False)
    capsys.readouterr()
    assert not show(study, as_json=True, times=False)
    value = json.loads(capsys.readouterr().out)
    assert (value["complete"], value["active"]) == (False, False)
    (failed,) = (row for row in value["rows"] if row["state"] == "failed")
    assert (failed["experiment"], failed["users"], failed["error"]) == ("lora", ["1", "2"], "bad")
    hold(os.getpid(), ago(seconds=0))
    assert show(study, as_json=False, times=False), "the run is active"


def test_watching_ends_when_the_study_is_complete(complete: SyntheticStudy, capsys: pytest.CaptureFixture[str]) -> None:
    watch(StudyWatch(complete.study), 60)
    assert "complete" in capsys.readouterr().out


def test_watching_ends_quietly_on_ctrl_c(
    unpredicted: SyntheticStudy, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("usertune.monitoring.status_watch.time.sleep", interrupt)
    watch(StudyWatch(unpredicted.study), 60)
    assert "waiting" in capsys.readouterr().out


def test_the_program_imports_no_model(complete: SyntheticStudy) -> None:
    heavy = {"torch", "transformers", "matplotlib"}
    program = f"import sys, usertune.monitoring.status_watch; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"

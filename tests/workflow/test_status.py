"""The status of a real run, read from another shell while it is active, and after it failed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.workplace import LOCAL_PROFILE, Workplace, kill_group, wait_until

pytestmark = pytest.mark.workflow
STUDY = ("--study", "study.yaml")


def ask(workplace: Workplace) -> tuple[int, dict[str, Any]]:
    code, output = workplace.usertune("status", *STUDY, "--json")
    value: dict[str, Any] = json.loads(output)
    return code, value


def states(status: dict[str, Any], step: str) -> dict[str, str]:
    return {row["experiment"]: row["state"] for row in status["rows"] if row["step"] == step}


def test_a_run_watched_from_another_shell(workplace: Workplace) -> None:
    workplace.replace("  epochs: 1", "  epochs: 4")
    code, status = ask(workplace)
    assert code == 0
    assert {row["state"] for row in status["rows"]} == {"waiting"}
    assert not workplace.results.exists(), "reading the status writes nothing"
    seen: list[dict[str, Any]] = []
    run = workplace.start("--resources", "gpu=0", cores=1)
    try:
        while run.poll() is None:
            code, status = ask(workplace)
            assert code == 0, status
            seen.append(status)
            # Each reading occupies a core while it lasts.
            time.sleep(0.5)
    finally:
        kill_group(run)
    assert run.returncode == 0, workplace.output
    _check_what_was_seen(seen)
    code, status = ask(workplace)
    assert (code, status["complete"], status["active"]) == (0, True, False)
    code, text = workplace.usertune("status", *STUDY, "--watch")
    assert code == 0, text
    assert "complete" in text, "there is nothing left to watch"
    assert "\x1b" not in text, "no colours in a pipe"
    assert max(map(len, text.splitlines())) <= 80
    _check_times(workplace)


def _check_what_was_seen(seen: list[dict[str, Any]]) -> None:
    def first(condition: Callable[[dict[str, Any]], bool]) -> int:
        return next(index for index, status in enumerate(seen) if condition(status))

    running = first(lambda status: "running" in states(status, "train").values())
    done = first(lambda status: set(states(status, "train").values()) == {"done"})
    assert running < done
    assert all(status["run"]["alive"] for status in seen[running:done])
    ways = {tuple(sorted(set(states(status, "train").values()))) for status in seen}
    assert not {state for way in ways for state in way} & {"failed", "stopped", "queued"}
    rows = [row for status in seen for row in status["rows"] if row["state"] == "running" and row["step"] == "train"]
    assert any(row["total"] and row["unit"] == "steps" and row["log"] for row in rows)


def _check_times(workplace: Workplace) -> None:
    code, output = workplace.usertune("status", *STUDY, "--times", "--json")
    assert code == 0, output
    times = json.loads(output)
    assert (times["local_jobs"], times["allocations"]) == ({"train": 2, "predict": 3}, {})
    assert times["model_loads"] == 5, "one for each training, and one for each prediction of both users"
    assert sum(times["shares"].values()) == pytest.approx(times["seconds"])
    assert times["shares"]["work"] == pytest.approx(sum(job["work"] for job in times["jobs"])), "one job at a time"
    assert times["shares"]["cpu"] > 0
    # A second run that finds everything done in the store loads nothing.
    (workplace.results / "predictions/lora/users_1-2.json").unlink()
    time.sleep(1)
    workplace.run()
    code, text = workplace.usertune("status", *STUDY, "--times")
    assert code == 0, text
    assert "1 GPU job (1 prediction job); 0 loads of a base model" in text
    assert "Loaded no model of their own: predicting lora, users 1-2" in text


def test_a_job_that_was_killed(workplace: Workplace) -> None:
    workplace.replace("  epochs: 1", "  epochs: 40")
    record = workplace.results / "logs/train/lora.progress.json"
    run = workplace.start("results/checkpoints/lora/manifest.json")
    try:
        wait_until(lambda: record.exists() and (json.loads(record.read_text()).get("progress")), run)
        assert states(ask(workplace)[1], "train")["lora"] == "running"
        (job,) = workplace.programs("train")
        job.kill()
        assert run.wait(120) != 0
    finally:
        kill_group(run)
    code, text = workplace.usertune("status", *STUDY)
    assert code == 1
    assert "training lora: process" in text
    assert "it was killed" in text
    assert "results/logs/train/lora.log" in text


def test_a_mistake_in_the_data(workplace: Workplace) -> None:
    workplace.options = LOCAL_PROFILE
    path = workplace.data / "user_1.jsonl"
    whole = path.read_text()
    path.write_text("no sample\n" + whole)
    code, output = workplace.snakemake()
    assert code != 0
    code, status = ask(workplace)
    assert code == 1
    (failed,) = (row for row in status["rows"] if row["state"] == "failed")
    assert (failed["step"], failed["users"], failed["attempt"]) == ("prepare", ["1"], 1)
    assert failed["error"] in output
    assert "user_1.jsonl:1" in failed["error"]
    # After the fix the failure is no longer shown.
    path.write_text(whole)
    workplace.run("results/data/user_1.manifest.json")
    assert ask(workplace)[0] == 0

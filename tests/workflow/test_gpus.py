"""Several GPU jobs at once on one machine. The GPUs are made up; the jobs compute on the CPU."""

from __future__ import annotations

import re
from datetime import datetime
from itertools import combinations
from pathlib import Path

import pytest

from tests.support.forked_snakemake import run_each
from tests.support.workplace import SNAKEMAKE, Workplace, new_workplace
from usertune.demo.dataset import Counts

pytestmark = pytest.mark.workflow
USERS = (1, 2, 3, 4)


def _with_gpus(workplace: Workplace, *ids: str) -> None:
    tools = workplace.folder / "bin"
    tools.mkdir()
    (tools / "nvidia-smi").write_text("#!/bin/sh\n" + "".join(f"echo {name}\n" for name in ids))
    (tools / "nvidia-smi").chmod(0o755)
    workplace.add_to_path(tools)
    workplace.environment.pop("CUDA_VISIBLE_DEVICES")


def _time_with_gpu(log: Path) -> tuple[datetime, datetime]:
    lines = log.read_text().splitlines()
    first = next(line for line in lines if "using GPU" in line)
    return _time(first), _time(lines[-1])


def _time(line: str) -> datetime:
    return datetime.strptime(line[:23], "%Y-%m-%d %H:%M:%S,%f")


def test_jobs_at_once_hold_different_gpus(tmp_path: Path) -> None:
    workplace = new_workplace(tmp_path / "study", Counts(train=2, validation=1, test=3), USERS)
    _with_gpus(workplace, "GPU-one", "GPU-two")
    workplace.replace("  test: 1-2", "  test: 1-4")
    workplace.replace("  users_per_job: 2", "  users_per_job: 1")
    workplace.run("vanilla", cores=16)
    held, times = {}, {}
    for user in USERS:
        (held[user],) = workplace.json(f"predictions/vanilla/users_{user}.json")["gpus"]
        times[user] = _time_with_gpu(workplace.results / f"logs/predict/vanilla/users_{user}.log")
    assert set(held.values()) == {"GPU-one", "GPU-two"}
    overlapping = [
        pair
        for pair in combinations(USERS, 2)
        if times[pair[0]][0] < times[pair[1]][1] and times[pair[1]][0] < times[pair[0]][1]
    ]
    assert overlapping, "jobs ran at the same time"
    for one, other in overlapping:
        assert held[one] != held[other], (times[one], times[other])
    for start, _ in times.values():
        assert sum(begin <= start < end for begin, end in times.values()) <= 2


def test_fewer_gpus_by_request(tmp_path: Path) -> None:
    workplace = new_workplace(tmp_path / "study", Counts(train=2, validation=1, test=1))
    _with_gpus(workplace, "GPU-one", "GPU-two")
    workplace.replace("  users_per_job: 2", "  users_per_job: 1")
    workplace.run("vanilla", "--resources", "gpu=1", cores=16)
    first, second = sorted(
        _time_with_gpu(workplace.results / f"logs/predict/vanilla/users_{user}.log") for user in (1, 2)
    )
    assert first[1] <= second[0]


@pytest.mark.parametrize(("machine", "threads"), [((), "1"), (("GPU-one",), "8")], ids=["no GPU", "one GPU"])
def test_trainings_of_a_small_model_ask_for_one_core_without_a_gpu(
    tmp_path: Path, machine: tuple[str, ...], threads: str
) -> None:
    workplace = new_workplace(tmp_path / "study", Counts(train=2, validation=1, test=1))
    _with_gpus(workplace, *machine)
    plan = workplace.run("-n", "--printshellcmds", cores=16)
    assert re.findall(r"train\.py .* --threads (\d+)", plan) == 2 * [threads]


FULL = "results/checkpoints/full/manifest.json"


def test_two_gpus_train_one_experiment(tmp_path: Path) -> None:
    workplace = new_workplace(tmp_path / "study", Counts(train=3, validation=1, test=1))
    _with_gpus(workplace, "GPU-one", "GPU-two")
    workplace.replace("    mode: full\n", "    mode: full\n    gpus: 2\n    parallel: ddp\n")
    workplace.replace("  micro_batch_size: 4", "  micro_batch_size: 2")
    workplace.run(FULL)
    manifest = workplace.json("checkpoints/full/manifest.json")
    assert sorted(manifest["gpus"]) == ["GPU-one", "GPU-two"]
    assert (manifest["processes"], manifest["parallel"], manifest["steps"]) == (2, "ddp", 3)
    log = (workplace.results / "logs/train/full.log").read_text()
    assert "starting 2 processes on 1 node (ddp)" in log
    assert "step 3 of 3: validation loss" in log, "what the processes say is in the log of the job"


@pytest.mark.parametrize(
    ("machine", "missing"),
    [
        ((), "experiments.full shares one model between 2 GPUs (parallel: auto), but this machine has none; "),
        (("GPU-one",), "experiments.full.gpus is 2, but this machine has 1 usable; set gpus: 1"),
    ],
    ids=["no GPU", "one GPU"],
)
def test_a_plan_names_missing_gpus_and_a_run_is_refused_before_its_first_job(
    tmp_path: Path, machine: tuple[str, ...], missing: str
) -> None:
    workplace = new_workplace(tmp_path / "study", Counts(train=3, validation=1, test=1))
    _with_gpus(workplace, *machine)
    workplace.replace("    mode: full\n", "    mode: full\n    gpus: 2\n")
    workplace.replace("  micro_batch_size: 4", "  micro_batch_size: 2")
    runs = [
        workplace.command(*arguments)[len(SNAKEMAKE) :] for arguments in (["-n"], ["-n", FULL], ["-n", "vanilla"], [])
    ]
    plan, part, without, run = run_each(runs, workplace.folder, workplace.run_environment)
    warning = f"A run on this machine will be refused: {missing}"
    for code, output in (plan, part):
        assert code == 0, output
        assert output.count(warning) == 1
        assert "Job 0: " in output, "the plan goes to its last job"
    assert plan[1].index(warning) < plan[1].index("Building DAG of jobs"), "above the list of jobs"
    assert without[0] == 0
    assert "experiments.full" not in without[1], "what is asked for needs no such training"
    code, output = run
    assert code == 1
    assert output.count(missing) == 1
    for text in ("Traceback", "Exception", "Job 0: ", "will be refused"):
        assert text not in output
    assert not workplace.results.exists()


def test_what_a_cluster_is_asked_for(tmp_path: Path) -> None:
    workplace = new_workplace(tmp_path / "study", Counts(train=2, validation=1, test=1))
    workplace.replace("    mode: full\n", "    mode: full\n    gpus: 2\n    nodes: 2\n")
    workplace.replace("  micro_batch_size: 4", "  micro_batch_size: 1")
    for experiment, expected in (
        ("lora", "--gpus 1 --processes 1 --nodes 1 --parallel ddp"),
        ("full", "--gpus 4 --processes 2 --nodes 2 --parallel fsdp"),
    ):
        target = f"results/checkpoints/{experiment}/manifest.json"
        assert expected in workplace.run("-n", "--printshellcmds", "--executor", "slurm", "--jobs", "2", target)

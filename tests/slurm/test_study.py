"""A complete study on the cluster: the same results as on one machine, few jobs, and no GPU that two jobs share."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from tests.slurm.conftest import WITH_THREADS_OF_THE_CLUSTER, on_cluster
from tests.support.benchmarks import benchmark_module
from tests.support.slurm_cluster import Cluster
from tests.support.workplace import EXPERIMENTS, TRAINED, Workplace, kill_group, new_workplace
from usertune.cluster.job_names import JOURNAL
from usertune.demo.dataset import Counts

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(600)]
USERS = tuple(range(1, 5))


@pytest.fixture(scope="module")
def both(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> tuple[Workplace, Workplace]:
    """A study of four test users, two in each prediction job, run on the cluster and by the local profile."""
    folder = tmp_path_factory.mktemp("cluster-study")
    workplace = new_workplace(folder / "study", Counts(train=5, validation=4, test=5), USERS)
    workplace.replace("  test: 1-2", "  test: 1-4")
    local = Workplace(folder / "local", options=WITH_THREADS_OF_THE_CLUSTER)
    local.folder.mkdir()
    local.study.write_text(workplace.study.read_text().replace("root: data", f"root: {workplace.data}"))
    workplace = on_cluster(workplace, cluster)
    run = local.start()
    try:
        workplace.run(timeout=500)
        assert run.wait(500) == 0, local.output
    finally:
        kill_group(run)
    return workplace, local


@pytest.fixture(scope="module")
def finished(both: tuple[Workplace, Workplace]) -> Workplace:
    """The study that was run on the cluster."""
    return both[0]


def _jobs(workplace: Workplace) -> list[dict[str, Any]]:
    """Return the jobs of the journal: submission and end in one."""
    found: dict[str, dict[str, Any]] = {}
    for entry in map(json.loads, (workplace.results / JOURNAL).read_text().splitlines()):
        found.setdefault(entry["job"], {}).update(entry)
    return list(found.values())


def test_results_are_those_of_one_machine(both: tuple[Workplace, Workplace]) -> None:
    finished, local = both
    for name in TRAINED:
        path = f"checkpoints/{name}/manifest.json"
        assert finished.json(path)["weights_files"] == local.json(path)["weights_files"], name
    for name in EXPERIMENTS:
        for users in ("1-2", "3-4"):
            path = f"predictions/{name}/users_{users}.json"
            assert finished.json(path)["predictions"] == local.json(path)["predictions"], path
    for name in ("summary", "samples", "users", "differences"):
        path = f"tables/{name}.csv"
        assert _without_provenance(finished.results / path) == _without_provenance(local.results / path)


def _without_provenance(table: Path) -> list[str]:
    return [line.rpartition(",")[0] for line in table.read_text().splitlines()]


def test_only_gpu_work_is_submitted_one_job_for_each_experiment_and_batch(finished: Workplace) -> None:
    jobs = _jobs(finished)
    assert all(job["event"] == "ended" and job["state"] == "COMPLETED" for job in jobs)
    asked = sorted((job["rule"], tuple(sorted(job["wildcards"].values()))) for job in jobs)
    batches = [("predict", (batch, name)) for name in EXPERIMENTS for batch in ("1-2", "3-4")]
    assert asked == sorted([*batches, *(("train", (name,)) for name in TRAINED)])


def test_its_cost_is_reported(finished: Workplace) -> None:
    code, output = finished.usertune("status", "--times", "--json", "--study", str(finished.study))
    assert code == 0, output
    spent = json.loads(output)
    assert spent["allocations"] == {"train": 2, "predict": 6}
    assert spent["local_jobs"] == {}
    assert spent["model_loads"] == 8, "one for each job"
    assert sum(spent["shares"].values()) == pytest.approx(spent["seconds"])


def test_a_second_run_submits_nothing(finished: Workplace) -> None:
    before = len(_jobs(finished))
    assert "Nothing to be done" in finished.run()
    assert len(_jobs(finished)) == before
    code, output = finished.usertune("audit", "--study", str(finished.study))
    assert code == 0, output


def test_jobs_at_once_hold_different_gpus(finished: Workplace) -> None:
    given = {}
    for job in _jobs(finished):
        name = job["wildcards"]["experiment"]
        batch = job["wildcards"].get("batch")
        path = f"predictions/{name}/users_{batch}.json" if batch else f"checkpoints/{name}/manifest.json"
        (gpu,) = finished.json(path)["gpus"]
        assert gpu.startswith(f"{job['nodes']}:"), "it is a GPU of the job's node"
        given[job["job"]] = (gpu, job["started_at"], job["ended_at"])
    at_once = [
        (one, other) for one, other in combinations(given.values(), 2) if one[1] < other[2] and other[1] < one[2]
    ]
    assert at_once, "jobs ran at the same time"
    for one, other in at_once:
        assert one[0] != other[0]


def test_the_benchmark_reads_both_runs(both: tuple[Workplace, Workplace]) -> None:
    finished, local = both
    benchmark = benchmark_module("slurm_study")
    assert benchmark.predictions(finished.folder) == benchmark.predictions(local.folder) != {}
    found = benchmark.demo.look_at(finished.study)
    assert found["times"]["allocations"] == {"train": 2, "predict": 6}
    assert sum(found["times"]["fractions"].values()) == pytest.approx(1, abs=0.01)
    assert set(found["accuracy"]) == set(EXPERIMENTS)


def test_the_benchmark_of_many_jobs_loses_none(cluster: Cluster, tmp_path: Path) -> None:
    found = benchmark_module("slurm_many_jobs").submit_all(tmp_path, 3, cluster.environment)
    assert {key: found[key] for key in ("jobs", "lost", "run_twice", "ended")} == {
        "jobs": 3, "lost": 0, "run_twice": 0, "ended": 3,
    }  # fmt: skip

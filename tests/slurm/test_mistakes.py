"""Settings that the cluster does not accept are reported before anything runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.conftest import on_cluster
from tests.support.slurm_cluster import Cluster, free_ports
from tests.support.workplace import Workplace, new_workplace

pytestmark = pytest.mark.slurm
DEFAULTS = ("--default-resources", "slurm_extra=''")


@pytest.fixture
def without_default_partition(cluster: Cluster, tmp_path: Path) -> Iterator[Cluster]:
    """A cluster on which a job must say where to run. (``cluster`` skips where there is no SLURM.)"""
    other = Cluster(tmp_path / "cluster", nodes=1, port=free_ports(30), default=False)
    other.start()
    yield other
    other.stop()


def _refused(workplace: Workplace, *arguments: str) -> str:
    code, output = workplace.snakemake("vanilla", *arguments)
    assert code != 0
    assert "Traceback" not in output
    assert "Checking the samples" not in output, "nothing ran"
    assert not list(workplace.results.rglob("*.manifest.json"))
    return output


def test_no_partition_where_one_is_needed(without_default_partition: Cluster, tmp_path: Path) -> None:
    workplace = on_cluster(new_workplace(tmp_path / "study"), without_default_partition)
    output = _refused(workplace)
    assert "SLURM would not take the jobs of rule predict" in output
    assert "Set slurm_partition in profiles/slurm/config.yaml, under default-resources" in output
    workplace.run("vanilla", *DEFAULTS, "slurm_partition='gpu'")


@pytest.mark.parametrize(
    ("setting", "advice"),
    [
        (("--default-resources", "slurm_partition='nowhere'"), "Set slurm_partition in profiles/slurm/config.yaml"),
        (("--set-resources", "predict:gpu_model='h100'"), "No node has what is asked for"),
        (("--set-resources", "predict:mem_mb=10**7"), "No node has what is asked for"),
    ],
)
def test_what_the_cluster_does_not_have(workplace: Workplace, setting: tuple[str, ...], advice: str) -> None:
    output = _refused(workplace, *setting)
    assert "SLURM would not take the jobs of rule predict" in output
    assert advice in output


def test_a_cluster_that_does_not_answer(cluster: Cluster, workplace: Workplace) -> None:
    cluster.stop_controller()
    try:
        output = _refused(workplace)
    finally:
        cluster.start_controller()
        cluster.wait_until_idle()
    assert "SLURM does not answer" in output

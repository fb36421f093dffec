"""A real SLURM cluster on this machine, and studies that run on it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.slurm_cluster import PROGRAMS, SYSTEM_PATH, Cluster, free_ports
from tests.support.workplace import LOCAL_PROFILE, REPOSITORY, Workplace, new_workplace
from usertune.demo.dataset import Counts

FULL = "results/checkpoints/full/manifest.json"
VANILLA = "results/predictions/vanilla/users_1-2.json"
# The local profile. On this machine, jobs of a small model would have one thread, and other last digits.
WITH_THREADS_OF_THE_CLUSTER = (*LOCAL_PROFILE, "--set-threads", "train=8", "predict=8")
SLURM_PROFILE = (
    "--profile", str(REPOSITORY / "profiles/slurm"),
    # So that tests do not wait for polls of the queue, nor for files of a file system that is not shared.
    "--slurm-guarded-init-seconds-before-status-checks", "1",
    "--slurm-guarded-longest-seconds-between-status-checks", "2",
    "--slurm-guarded-patience-seconds", "4",
    "--latency-wait", "5",
)  # fmt: skip


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster of three nodes with two made-up GPUs each."""
    missing = [program for program in PROGRAMS if shutil.which(program, path=SYSTEM_PATH) is None]
    if missing and "USERTUNE_REQUIRE_SLURM" not in os.environ:
        pytest.skip(f"SLURM is not installed ({', '.join(missing)} not found)")
    cluster = Cluster(tmp_path_factory.mktemp("cluster"), port=free_ports(30))
    cluster.start()
    yield cluster
    cluster.stop()


@pytest.fixture
def workplace(cluster: Cluster, tmp_path: Path) -> Iterator[Workplace]:
    """A study without results, to be run on the cluster; its jobs are cancelled at the end."""
    workplace = on_cluster(new_workplace(tmp_path / "study"), cluster)
    yield workplace
    cluster.command("scancel", "--me")


class ClusterWorkplace(Workplace):
    """A study that is run on the cluster."""

    def command(self, *arguments: str, cores: int = 2) -> list[str]:
        """Return the command line of Snakemake; ``cores`` is left out: it would limit the jobs on the cluster."""
        command = super().command(*arguments, cores=cores)
        where = command.index("--cores")
        return command[:where] + command[where + 2 :]


def on_cluster(workplace: Workplace, cluster: Cluster) -> ClusterWorkplace:
    """Return a study that runs on the cluster."""
    workplace = ClusterWorkplace(workplace.folder)
    # The GPUs are SLURM's to choose.
    workplace.environment = dict(cluster.environment)
    workplace.options = SLURM_PROFILE
    return workplace


def long_study(folder: Path) -> Workplace:
    """Make a study that trains and predicts long enough to be disturbed, with the same results in any attempt."""
    workplace = new_workplace(folder, Counts(train=5, validation=2, test=12))
    workplace.replace("  epochs: 1", "  epochs: 13")
    workplace.replace("  batch_size: 4", "  batch_size: 2")
    workplace.replace("  save_every_steps: 2", "  save_every_steps: 10")
    # After a kill an attempt uses smaller micro-batches; their sums differ in the last digits.
    workplace.replace("  micro_batch_size: 4", "  micro_batch_size: 1")
    workplace.replace("  batch_size: 10", "  batch_size: 2")
    return workplace


@dataclass(frozen=True)
class Undisturbed:
    """The results of `long_study` on this machine, undisturbed."""

    training: dict[str, Any]
    predictions: list[dict[str, Any]]

    def same_training(self, workplace: Workplace) -> dict[str, Any]:
        """Check that training gave the same; return its manifest."""
        manifest = workplace.json("checkpoints/full/manifest.json")
        for key in ("fingerprint", "weights_fingerprint", "weights_files", "losses_sha256", "steps"):
            assert manifest[key] == self.training[key], key
        return manifest

    def same_predictions(self, workplace: Workplace) -> dict[str, Any]:
        """Check that prediction gave the same, and nothing twice; return what it wrote."""
        written = workplace.predictions("vanilla")
        assert written["predictions"] == self.predictions
        lines = [line for line in workplace.stored_lines() if line.endswith("}")]
        assert len(lines) == len(self.predictions), "nothing was generated twice"
        return written


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """The results of `long_study` with the local profile."""
    workplace = long_study(tmp_path_factory.mktemp("undisturbed") / "study")
    workplace.options = WITH_THREADS_OF_THE_CLUSTER
    workplace.run(FULL, VANILLA, timeout=400)
    return Undisturbed(
        workplace.json("checkpoints/full/manifest.json"), list(workplace.predictions("vanilla")["predictions"])
    )


@pytest.fixture
def long_workplace(cluster: Cluster, tmp_path: Path) -> Iterator[Workplace]:
    """`long_study`, to be run on the cluster; its jobs are cancelled in the end."""
    yield on_cluster(long_study(tmp_path / "study"), cluster)
    cluster.command("scancel", "--me")

"""One training on two nodes of the cluster at once."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from tests.slurm.conftest import on_cluster
from tests.support.slurm_cluster import Cluster
from tests.support.workplace import LOCAL_PROFILE, Workplace, new_workplace, wait_until

pytestmark = pytest.mark.slurm
LORA = "results/checkpoints/lora/manifest.json"


def _study(folder: Path, epochs: int = 2) -> Workplace:
    """Make a study without dropout in lora: dropout depends on the number of processes."""
    workplace = new_workplace(folder)
    workplace.replace("    rank: 2\n", "    rank: 2\n    dropout: 0\n")
    workplace.replace("  epochs: 1", f"  epochs: {epochs}")
    workplace.replace("  micro_batch_size: 4", "  micro_batch_size: 1")
    return workplace


def _on_two_nodes(workplace: Workplace, cluster: Cluster, gpus: int) -> Workplace:
    workplace.replace("    mode: lora\n", f"    mode: lora\n    gpus: {gpus}\n    nodes: 2\n")
    workplace = on_cluster(workplace, cluster)
    # The made-up nodes have fewer cores than two GPUs would have work for.
    workplace.options = (*workplace.options, "--set-threads", "train=4")
    return workplace


def _losses(workplace: Workplace) -> list[tuple[str, str, float]]:
    with (workplace.results / "checkpoints/lora/training_log.csv").open(newline="") as table:
        return [(row["step"], row["split"], float(row["loss"])) for row in csv.DictReader(table)]


def test_two_nodes_train_what_one_process_trains(cluster: Cluster, tmp_path: Path) -> None:
    alone = _study(tmp_path / "alone")
    alone.options = LOCAL_PROFILE
    alone.environment["OMP_NUM_THREADS"] = "1"
    alone.run(LORA)
    workplace = _on_two_nodes(_study(tmp_path / "study"), cluster, gpus=2)
    output = workplace.run(LORA, timeout=300)
    assert "starting 4 processes on 2 nodes (ddp)" in (workplace.results / "logs/train/lora.log").read_text(), output
    expected, found = alone.json("checkpoints/lora/manifest.json"), workplace.json("checkpoints/lora/manifest.json")
    assert (expected["processes"], found["processes"]) == (1, 4)
    assert found["fingerprint"] == expected["fingerprint"]
    assert found["weights_files"].keys() == expected["weights_files"].keys()
    assert [row[:2] for row in _losses(workplace)] == [row[:2] for row in _losses(alone)]
    assert [row[2] for row in _losses(workplace)] == pytest.approx([row[2] for row in _losses(alone)], rel=1e-4)


def test_a_signal_to_all_nodes_leaves_a_checkpoint_from_which_the_next_attempt_resumes(
    cluster: Cluster, tmp_path: Path
) -> None:
    workplace = _on_two_nodes(_study(tmp_path / "study", epochs=10), cluster, gpus=1)
    started = workplace.start(LORA)
    log = workplace.results / "logs/train/lora.log"
    wait_until(lambda: workplace.newest_checkpoint("lora") > 0, started, timeout=100)
    # What SLURM does some minutes before the time limit (--signal of the profile).
    cluster.command("scancel", "--signal=TERM", "--me")
    wait_until(lambda: "interrupted; finished work is kept" in log.read_text(), started, timeout=100)
    assert started.wait(300) == 0, workplace.output
    assert workplace.json("checkpoints/lora/manifest.json")["resumed_from_step"] > 0

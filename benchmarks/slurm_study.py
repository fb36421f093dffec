"""The demo study by SLURM and by the local profile: the same answers? How many allocations, and where did the time go?

On a cluster of virtual nodes with made-up GPUs on this machine (SLURM must be installed); training and prediction are
real. About ten minutes on two cores:

    python benchmarks/slurm_study.py
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import common

import demo

sys.path.insert(0, str(common.REPOSITORY))

from tests.support.slurm_cluster import Cluster, free_ports


def main(arguments: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        study = demo.demo_study(arguments, folder)
        studies = {profile: folder / profile / "study.yaml" for profile in ("slurm", "local")}
        for file in studies.values():
            file.parent.mkdir()
            file.write_text(study)
        # As many cores as there are, so that jobs do not take each other's time.
        cluster = Cluster(folder / "cluster", nodes=1, cpus=8, port=free_ports(30))
        cluster.start()
        try:
            measured = {"slurm": demo.run_study(studies["slurm"], "slurm", **cluster.environment)}
        finally:
            cluster.stop()
        measured["local"] = demo.run_study(studies["local"], "local")
        if predictions(studies["slurm"].parent) != predictions(studies["local"].parent):
            sys.exit("the predictions of both runs differ")
    return {
        **measured,
        "same_predictions": True,
        "slurm_over_local": round(measured["slurm"]["seconds"] / measured["local"]["seconds"], 2),
    }


def predictions(folder: Path) -> dict[str, Any]:
    """Return the predictions of a study that lies in ``folder``, by file."""
    files = sorted((folder / "results/predictions").glob("*/*.json"))
    return {str(path.relative_to(folder)): json.loads(path.read_text())["predictions"] for path in files}


def tell(measured: dict[str, Any]) -> list[str]:
    times = measured["slurm"]["times"]
    return [
        f"by SLURM {measured['slurm']['seconds']} s, by the local profile {measured['local']['seconds']} s, "
        f"ratio {measured['slurm_over_local']}; the predictions are the same",
        f"allocations: {times['allocations']}; loads of a base model: {times['model_loads']}",
        *(f"{name}: {times['shares'][name]} s, {part:.0%}" for name, part in times["fractions"].items()),
    ]


if __name__ == "__main__":
    common.run(main, tell, demo.OPTIONS)

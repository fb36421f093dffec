"""The demo study by SLURM and by the local profile: the same answers? How many allocations, and where did the time go?

On a cluster of virtual nodes with made-up GPUs on this machine (SLURM must be installed); training and prediction are
real. The time of the run on SLURM is cut up by `usertune status --times`. About ten minutes on two cores:

    make demo-data && python benchmarks/slurm_study.py
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from tests.support.slurm_cluster import Cluster, free_ports  # noqa: E402


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # As many cores as there are, so that jobs do not take each other's time.
        cluster = Cluster(folder / "cluster", nodes=1, cpus=8, port=free_ports(30))
        cluster.start()
        try:
            by_slurm = _run(folder / "slurm", "slurm", cluster.environment)
        finally:
            cluster.stop()
        here = _run(folder / "local", "local", {"CUDA_VISIBLE_DEVICES": ""})
        print(f"by SLURM {by_slurm:.0f} s, by the local profile {here:.0f} s, ratio {by_slurm / here:.2f}")
        same = _predictions(folder / "slurm") == _predictions(folder / "local")
        print(f"predictions of both runs: {'the same' if same else 'they differ'}")
        study = folder / "slurm/study.yaml"
        subprocess.run(
            [sys.executable, "-P", "-m", "usertune", "status", "--times", "--study", str(study)],
            cwd=REPOSITORY,
            check=True,
        )
        if not same:
            sys.exit(1)


def _run(folder: Path, profile: str, environment: dict[str, str]) -> float:
    folder.mkdir()
    study = folder / "study.yaml"
    study.write_text((REPOSITORY / "config.yaml").read_text().replace("results: results", f"results: {folder}/results"))
    command = [sys.executable, "-m", "snakemake", "--profile", f"profiles/{profile}", "--configfile", str(study)]
    started = time.monotonic()
    done = subprocess.run(command, cwd=REPOSITORY, env={**os.environ, **environment}, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stdout[-3000:] + done.stderr[-3000:])
    return time.monotonic() - started


def _predictions(folder: Path) -> dict[str, object]:
    files = sorted((folder / "results/predictions").glob("*/*.json"))
    return {str(path.relative_to(folder)): json.loads(path.read_text())["predictions"] for path in files}


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    main()

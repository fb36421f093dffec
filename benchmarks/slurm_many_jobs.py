"""Two hundred SLURM jobs at once through the profile: is any lost, or run twice, and what does a job cost?

On a cluster of virtual nodes on this machine (SLURM must be installed). All jobs are submitted at once; as many run
together as the nodes have cores, which need not be there in truth. Each job notes that it ran; in the end every one
must have done so exactly once, and the journal must say the same. Minutes:

    python benchmarks/slurm_many_jobs.py
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from slurm_guard.journal import Journal  # noqa: E402
from tests.support.slurm_cluster import Cluster, free_ports  # noqa: E402

WORKFLOW = """
rule all:
    input: expand("done/{{number}}", number=range({jobs}))
    localrule: True
rule toy:
    output: "done/{{number}}"
    resources: mem_mb=500, runtime=10
    shell: "echo {{wildcards.number}} >> ran/{{wildcards.number}}; touch {{output}}"
"""


def main(jobs: int, cores: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "ran").mkdir()
        (folder / "Snakefile").write_text(WORKFLOW.format(jobs=jobs))
        cluster = Cluster(folder / "cluster", nodes=3, cpus=cores // 3, port=free_ports(30))
        cluster.start()
        try:
            seconds = _run(folder, cluster, jobs)
        finally:
            cluster.stop()
        runs = Counter(line for path in (folder / "ran").iterdir() for line in path.read_text().split())
        events = Counter(entry["event"] for entry in Journal(folder / "jobs.jsonl").read())
    lost = [number for number in range(jobs) if runs[str(number)] == 0]
    doubled = [number for number, count in runs.items() if count > 1]
    print(f"{jobs} jobs, {cores} at a time on {os.cpu_count()} cores: {seconds:.0f} s, {seconds / jobs:.2f} s a job")
    print(f"lost: {len(lost)}, run twice: {len(doubled)}, submitted: {events['submitted']}, ended: {events['ended']}")
    if lost or doubled or events["submitted"] != jobs or events["ended"] != jobs:
        sys.exit("a job was lost or doubled")


def _run(folder: Path, cluster: Cluster, jobs: int) -> float:
    environment = {
        **os.environ,
        **cluster.environment,
        "SNAKEMAKE_SLURM_GUARDED_JOB_NAME": "usertune-toys",
        "SNAKEMAKE_SLURM_GUARDED_JOURNAL": str(folder / "jobs.jsonl"),
    }
    command = [sys.executable, "-m", "snakemake", "--profile", str(REPOSITORY / "profiles/slurm"), "--jobs", str(jobs)]
    started = time.monotonic()
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stdout[-3000:] + done.stderr[-3000:])
    return time.monotonic() - started


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=200, help="default: 200")
    parser.add_argument("--cores", type=int, default=12, help="cores of the cluster, three nodes together; default: 12")
    arguments = parser.parse_args()
    main(arguments.jobs, arguments.cores)

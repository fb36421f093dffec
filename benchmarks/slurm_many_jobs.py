"""Two hundred SLURM jobs at once through the profile: is any lost, or run twice, and what does a job cost?

On a cluster of virtual nodes on this machine (SLURM must be installed). All jobs are submitted at once; as many run
together as the nodes have cores, which need not be there in truth. Each job notes that it ran; in the end every one
must have done so exactly once, and the journal must say the same. Minutes:

    python benchmarks/slurm_many_jobs.py
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import common

sys.path.insert(0, str(common.REPOSITORY))

from slurm_guard.journal import Journal
from snakemake_executor_plugin_slurm_guarded import JOB_NAME, JOURNAL
from tests.support.slurm_cluster import Cluster, free_ports

WORKFLOW = """
rule all:
    input: expand("done/{{number}}", number=range({jobs}))
    localrule: True
rule toy:
    output: "done/{{number}}"
    resources: mem_mb=500, runtime=10
    shell: "echo {{wildcards.number}} >> ran/{{wildcards.number}}; touch {{output}}"
"""


def main(arguments: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cluster = Cluster(folder / "cluster", nodes=3, cpus=arguments.cores // 3, port=free_ports(30))
        cluster.start()
        try:
            measured = submit_all(folder, arguments.jobs, cluster.environment)
        finally:
            cluster.stop()
    return {"at_a_time": arguments.cores, **measured}


def submit_all(folder: Path, jobs: int, environment: Mapping[str, str]) -> dict[str, Any]:
    """Run so many jobs by SLURM in ``folder``; leave with a message if one was lost or ran twice."""
    (folder / "ran").mkdir()
    (folder / "Snakefile").write_text(WORKFLOW.format(jobs=jobs))
    names = {JOB_NAME: "usertune-toys", JOURNAL: str(folder / "jobs.jsonl")}
    run = ["--profile", str(common.REPOSITORY / "profiles/slurm"), "--jobs", str(jobs)]
    seconds = common.seconds_of(lambda: common.snakemake(folder, *run, environment={**environment, **names}))
    runs = Counter(line for path in (folder / "ran").iterdir() for line in path.read_text().split())
    events = Counter(entry["event"] for entry in Journal(folder / "jobs.jsonl").read())
    measured = {
        "jobs": jobs,
        "seconds": round(seconds, 1),
        "seconds_per_job": round(seconds / jobs, 2),
        "lost": sum(runs[str(number)] == 0 for number in range(jobs)),
        "run_twice": sum(count > 1 for count in runs.values()),
        "submitted": events["submitted"],
        "ended": events["ended"],
    }
    if measured["lost"] or measured["run_twice"] or {measured["submitted"], measured["ended"]} != {jobs}:
        sys.exit(f"a job was lost or doubled: {measured}")
    return measured


def tell(measured: dict[str, Any]) -> list[str]:
    return [
        f"{measured['jobs']} jobs, {measured['at_a_time']} at a time: {measured['seconds']} s, "
        f"{measured['seconds_per_job']} s a job; none was lost, none ran twice"
    ]


if __name__ == "__main__":
    common.run(
        main,
        tell,
        {"jobs": (200, 3, "jobs at once"), "cores": (12, 3, "cores of the cluster, three nodes together")},
    )

"""Runs of Snakemake in processes forked from one that has imported it and the workflow's modules: a third of the cost.

For runs that end while jobs are planned. As a program it takes JSON, a list of command lines, and writes the exit code
and the output of each.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

# The slowest imports of every run.
MODULES = ("snakemake.cli", "snakemake.report", "smart_open", "usertune.pipeline.targets", "usertune.checks.explain")


def run_each(
    runs: Sequence[Sequence[str]], folder: Path, environment: Mapping[str, str], timeout: float = 300
) -> list[tuple[int, str]]:
    """Run Snakemake with each list of arguments, one after the other; return exit codes and what was said."""
    done = subprocess.run(
        [sys.executable, __file__],
        input=json.dumps([list(run) for run in runs]),
        cwd=folder,
        stdout=subprocess.PIPE,
        text=True,
        timeout=timeout,
        check=True,
        env=dict(environment),
    )
    return [(code, said) for code, said in json.loads(done.stdout)]


def main() -> None:
    """Write exit code and output of each run."""
    for module in MODULES:
        importlib.import_module(module)
    results = []
    for arguments in json.load(sys.stdin):
        with tempfile.TemporaryFile() as output:
            pid = os.fork()
            if not pid:
                os.dup2(output.fileno(), 1)
                os.dup2(output.fileno(), 2)
                # The workflow reads its own command line.
                sys.argv[:] = ["snakemake", *arguments]
                # Leaves by SystemExit, which ends this process.
                sys.modules["snakemake.cli"].main(arguments)
            _, status = os.waitpid(pid, 0)
            output.seek(0)
            results.append((os.waitstatus_to_exitcode(status), output.read().decode(errors="replace")))
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main()

"""Shows the status of a study once, or repeatedly until it is complete."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live

from slurm_guard.queue import ListedJob, NoAnswerError, list_jobs
from usertune.checks.freshness import Freshness
from usertune.cluster.job_names import JOURNAL, job_name
from usertune.monitoring.console import console_of
from usertune.monitoring.jobs import Jobs, read_jobs
from usertune.monitoring.status import Status, status_of
from usertune.monitoring.status_view import render
from usertune.monitoring.wall_time import wall_time_of
from usertune.monitoring.wall_time_view import render_times
from usertune.pipeline.plug_ins import current_code
from usertune.pipeline.recipes import Recipes
from usertune.runtime.provenance import installed_versions
from usertune.study.schema.study import Study

SHORTEST_INTERVAL_SECONDS = 0.5
# All users of the cluster share SLURM's controller.
ASK_SLURM_EVERY_SECONDS = 30.0


class StudyWatch:
    """A study with a status that is read repeatedly.

    Args:
        study: the study.
    """

    def __init__(self, study: Study) -> None:
        self.study = study
        self.folder = Path(study.results)
        self._recipes = Recipes(study, current_code(study), installed_versions())
        self._queue: Mapping[str, ListedJob] | None = None
        self._asked = float("-inf")

    def inspect(self) -> Status:
        """Return the progress of the study now."""
        return self.inspect_with_jobs()[0]

    def inspect_with_jobs(self) -> tuple[Status, Jobs]:
        """Return the progress of the study now, and its known jobs."""
        # Jobs are read before results, so that a job that ends in between counts as done.
        jobs = read_jobs(self.folder, self._slurm_queue())
        return status_of(Freshness(self.study, self._recipes), jobs), jobs

    def _slurm_queue(self) -> Mapping[str, ListedJob] | None:
        """Return the SLURM jobs of the study; None if there never were any, or SLURM does not answer."""
        if not (self.folder / JOURNAL).exists() or shutil.which("squeue") is None:
            return None
        if time.monotonic() - self._asked >= ASK_SLURM_EVERY_SECONDS:
            try:
                self._queue = list_jobs(job_name(self.study))
            except NoAnswerError:
                self._queue = None
            self._asked = time.monotonic()
        return self._queue


def show(study: StudyWatch, as_json: bool, times: bool) -> bool:
    """Print the status of a study, or where the time of its newest run went.

    Args:
        study: the study.
        as_json: print JSON instead of a table.
        times: print where the time went.

    Returns:
        Whether nothing failed, or the run is active.
    """
    status, jobs = study.inspect_with_jobs()
    if times:
        spent = wall_time_of(status, jobs)
        value, text = spent.as_dict() if spent else None, render_times(spent)
    else:
        value = {**dataclasses.asdict(status), "complete": status.complete, "active": status.active}
        text = render(status)
    if as_json:
        print(json.dumps(value, indent=2, default=_plain))
    else:
        console_of(sys.stdout).print(text, crop=False)
    return not status.failed or status.active


def watch(study: StudyWatch, seconds: float) -> None:
    """Show the status of a study repeatedly until it is complete or the user presses Ctrl-C.

    If the output is not a terminal, the complete table is printed after each change.

    Args:
        study: the study.
        seconds: time between two updates.
    """
    console = console_of(sys.stdout)
    seconds = max(seconds, SHORTEST_INTERVAL_SECONDS)
    try:
        status = study.inspect()
        if not console.is_terminal:
            _print_changes(study, status, seconds, console)
            return
        with Live(render(status), console=console, auto_refresh=False) as live:
            while not status.complete:
                time.sleep(seconds)
                status = study.inspect()
                live.update(render(status), refresh=True)
    except KeyboardInterrupt:
        return


def _print_changes(study: StudyWatch, status: Status, seconds: float, console: Console) -> None:
    console.print(render(status), crop=False)
    while not status.complete:
        time.sleep(seconds)
        before, status = status, study.inspect()
        if status.rows != before.rows:
            console.print()
            console.print(render(status), crop=False)


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} is not JSON")

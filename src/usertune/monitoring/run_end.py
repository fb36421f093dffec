"""What a run says at its end: the results, where the time went, and the report; or what failed, and what to do."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from usertune.checks.freshness import Freshness
from usertune.core.errors import UserError
from usertune.core.formatting import printable
from usertune.core.manifest import read_manifest
from usertune.evaluation import table_names
from usertune.evaluation.recipe import CompareRecipe
from usertune.monitoring.jobs import read_jobs
from usertune.monitoring.run_jobs import Job, RunJobs
from usertune.monitoring.status import Status, status_of
from usertune.monitoring.wall_time import wall_time_of
from usertune.monitoring.wall_time_view import clock, shares_table
from usertune.pipeline import steps
from usertune.pipeline.layout import comparison_path
from usertune.pipeline.step import Step
from usertune.runtime.job_log import read_log

SHOWN_FAILED = 8


def results_of_run(freshness: Freshness, ran: bool) -> Iterator[RenderableType]:
    """Yield the results of the study as far as they are up to date, the path of the report, and where the time went.

    Args:
        freshness: the current state of the results.
        ran: whether the run had anything to do.
    """
    jobs = read_jobs(freshness.folder)
    status = status_of(freshness, jobs)
    if _is_done(status, steps.COMPARE):
        yield Text()
        yield from results_table((freshness.folder / comparison_path(freshness.study)).parent)
    if ran and (spent := wall_time_of(status, jobs)) and spent.seconds >= 1:
        yield Text()
        yield Text(f"The run took {clock(spent.seconds)}; usertune status --times shows every job.")
        yield shares_table(spent)
    yield Text()
    if _is_done(status, steps.REPORT):
        outcomes = Path(freshness.study.results, freshness.study.origin.outcomes)
        yield Text(f"Report: {outcomes / steps.REPORT.files[steps.REPORT.name]}", no_wrap=True, overflow="ignore")
    else:
        counts = status.counts()
        yield Text(f"{counts['done']} of {counts.total()} results of the study are there; usertune status shows them.")


def results_table(tables: Path) -> Iterator[RenderableType]:
    """Yield the primary metric of every experiment and its difference to the baseline, and what the brackets hold.

    Args:
        tables: folder of the tables.
    """
    try:
        primary = CompareRecipe.model_validate(read_manifest(tables / table_names.MANIFEST)["recipe"]).metrics[0]
        with (tables / table_names.SUMMARY).open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("experiment", overflow="fold")
        table.add_column(primary.heading, justify="right")
        table.add_column()
        has_intervals = False
        if has_gains := any(row["difference_to_vanilla"] for row in rows):
            table.add_column("difference to vanilla", justify="right")
            table.add_column()
        for row in rows:
            value, low, high, gain, gain_low, gain_high = (
                float(row[name]) if row[name] else None
                for name in (
                    primary.name, f"{primary.name}_low", f"{primary.name}_high",
                    "difference_to_vanilla", "difference_low", "difference_high",
                )
            )  # fmt: skip
            cells = [primary.text(value), primary.interval(low, high)]
            if has_gains and gain is not None:
                cells += [primary.difference(gain), primary.difference_interval(gain_low, gain_high)]
            table.add_row(printable(row["experiment"]), *cells)
            has_intervals |= any(cells[1::2])
        level = float(rows[0]["confidence"])
    except (UserError, OSError, LookupError, ValueError) as error:
        yield Text(f"{tables}: the results cannot be shown: {printable(str(error))}", style="yellow")
        return
    yield table
    if has_intervals:
        yield Text(f"In brackets: {100 * level:g} % intervals. The report says how to read them.", style="dim")


def failures_of_run(jobs: RunJobs) -> Iterator[RenderableType]:
    """Yield which jobs failed, why, and what to do."""
    failed = list(jobs.failed.values())
    yield Text()
    yield Text(f"{len(failed)} of {jobs.total} jobs failed, {jobs.done.total()} are done:", style="bold red")
    for job in failed[:SHOWN_FAILED]:
        yield Text(f"  {printable(job.label)}: {printable(_reason(job))}")
        if job.logs:
            yield Text(f"    {printable(str(job.logs[0]))}", no_wrap=True, overflow="ignore")
    if len(failed) > SHOWN_FAILED:
        yield Text(f"  and {len(failed) - SHOWN_FAILED} more; usertune status shows them")
    yield Text("Finished work is kept. After the cause is fixed, the same command continues from there.")


def _reason(job: Job) -> str:
    problems = [entry for log in job.logs[:1] for entry in read_log(log) if entry.level in ("ERROR", "CRITICAL")]
    if not problems:
        return "no error in its log; it may have been killed, for example for lack of memory"
    return problems[-1].text.partition("\n")[0]


def _is_done(status: Status, step: Step) -> bool:
    return all(row.state == "done" for row in status.rows if row.step == step.name)

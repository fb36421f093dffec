"""Lines on the jobs of an active run: finished jobs, failures with the end of their logs, and warnings."""

from __future__ import annotations

from collections.abc import Iterator

from rich.text import Text

from usertune.core.formatting import duration, printable
from usertune.monitoring.run_jobs import Job, RunJobs, last_messages
from usertune.monitoring.run_view import counted_steps
from usertune.pipeline.steps import STEPS
from usertune.runtime.job_log import Entry

SHOWN_LOG_LINES = 20
# Bad data can give a warning for each sample.
SHOWN_WARNINGS = 5


def planned_line(jobs: RunJobs) -> Text:
    """Return what the run will do."""
    steps = {step: count for step, count in jobs.planned.items() if step in STEPS and STEPS[step].gpu}
    expensive = f", with {counted_steps(steps)}" if steps else ""
    return Text(f"{jobs.total} job{'s' * (jobs.total != 1)} to run{expensive}")


def finished_line(jobs: RunJobs, job: Job, seconds: float) -> Text:
    """Return the line of a finished job, such as ``12 of 130  Training lora  2 min 10 s``."""
    parts = [f"{jobs.done.total()} of {jobs.total}", printable(job.label)]
    parts += [duration(seconds)] if job.has_command else []
    return Text("  ".join(parts))


def failed_lines(job: Job, seconds: float, ending: str, show_logs: bool, reason: str = "") -> Iterator[Text]:
    """Yield what is known of a failed job: its log with the last lines.

    Args:
        job: the job.
        seconds: how long it took.
        ending: how its program ended, such as ``exit status 2``; empty if unknown.
        show_logs: whether the last lines of its log are shown, or only the path.
        reason: why it failed, as the executor says it: ``SLURM job 4 ended as CANCELLED``; empty if unknown.
    """
    attempt = f", attempt {job.attempt}" if job.attempt > 1 else ""
    words = f"failed: {printable(job.label)}{attempt}, after {duration(seconds)}"
    yield Text(f"{words}{f', {ending}' if ending else ''}", style="bold red")
    if reason:
        yield Text(f"  {printable(reason)}")
    shown = {}
    if show_logs:
        # SLURM's log repeats the job's own one.
        shown = {path: (lines, before) for path, lines, before in list(last_messages(job.logs, SHOWN_LOG_LINES))[:1]}
    for path in job.logs:
        lines, before = shown.get(path, ([], 0))
        yield Text(f"  {printable(str(path))}{':' if lines else ''}", no_wrap=True, overflow="ignore")
        if before:
            yield Text(f"    ({before} lines before)", style="dim")
        yield from (Text(f"    {printable(line)}") for line in lines)


def warning_lines(job: Job, entries: list[Entry], shown: int) -> Iterator[Text]:
    """Yield the warnings of a job.

    Args:
        job: the job.
        entries: its new warnings.
        shown: how many were shown before; of more than `SHOWN_WARNINGS`, a line names the log.
    """
    for number, entry in enumerate(entries, shown + 1):
        if number > SHOWN_WARNINGS:
            yield Text(f"warning: {printable(job.label)}: more warnings in {job.logs[0]}", style="yellow")
            return
        first, *others = entry.text.removeprefix("warning: ").splitlines() or [""]
        yield Text(f"warning: {printable(job.label)}: {printable(first)}", style="yellow")
        yield from (Text(printable(line)) for line in others)

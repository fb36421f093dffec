"""Where the wall time of a run went, as tables for the terminal."""

from __future__ import annotations

from collections import Counter

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from usertune.monitoring.wall_time import JobTime, WallTime
from usertune.pipeline.steps import STEPS

SHARES_IN_WORDS = {
    "work": "a GPU job at work",
    "startup": "none at work, but one starting up",
    "teardown": "neither, but one shutting down",
    "detection_lag": "none, but the end of one not detected yet",
    "queue": "none, but one in the queue",
    "cpu": "CPU steps alone",
    "other": "planning, and between jobs",
}


def render_times(spent: WallTime | None) -> RenderableType:
    """Return where the time of a run went, for a `rich.console.Console` of any width."""
    if spent is None:
        return Text("There was no run yet.")
    until = "until now" if spent.active else f"until {spent.until:%H:%M:%S}"
    head = Text(f"{spent.study}: run of {spent.since:%Y-%m-%d %H:%M:%S} {until}: {clock(spent.seconds)}", style="bold")
    parts: list[RenderableType] = [head, Text(_counts(spent)), Text(), _jobs(spent), Text(), shares_table(spent)]
    if without := [job.label for job in spent.jobs if job.loaded_nothing]:
        parts += [Text(), Text(f"Loaded no model of their own: {'; '.join(without)}")]
    return Group(*parts)


def clock(seconds: float) -> str:
    """Return a duration as hours, minutes and seconds, which are easy to add up: ``0:00:07``."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def _counts(spent: WallTime) -> str:
    loads = f"{spent.model_loads} load{'s' * (spent.model_loads != 1)} of a base model"
    return "; ".join(
        filter(None, (_counted(spent.allocations, "allocation"), _counted(spent.local_jobs, "GPU job"), loads))
    )


def _counted(counts: Counter[str], noun: str) -> str:
    if not counts:
        return ""
    steps = ", ".join(f"{count} {STEPS[step].counted[count != 1]}" for step, count in counts.items())
    return f"{counts.total()} {noun}{'s' * (counts.total() != 1)} ({steps})"


def _jobs(spent: WallTime) -> Table:
    """Return one row per job; if no job had an allocation, only its work is shown."""
    parts = {"work": "work"}
    if spent.allocations:
        parts = {
            "queue": "queue", "startup": "startup", "work": "work", "teardown": "teardown",
            "detection_lag": "detection\nlag", "seconds": "total",
        }  # fmt: skip
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("GPU job", overflow="fold")
    for name in (*parts.values(), "loads"):
        table.add_column(name, justify="right", no_wrap=True)
    for job in spent.jobs:
        table.add_row(_label(job), *(clock(getattr(job, part)) for part in parts), str(job.model_loads))
    sums = (clock(sum(getattr(job, part) for job in spent.jobs)) for part in parts)
    table.add_row("sum", *sums, str(spent.model_loads), style="bold")
    return table


def _label(job: JobTime) -> str:
    notes = [f"attempt {job.attempt}"] if job.attempt > 1 else []
    notes += [job.outcome] if job.outcome != "ended" else []
    return job.label + (f" ({', '.join(notes)})" if notes else "")


def shares_table(spent: WallTime) -> Table:
    """Return how the wall time of a run divides."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("wall time with")
    table.add_column("", justify="right")
    table.add_column("", justify="right")
    for name, seconds in spent.shares.items():
        if seconds >= 0.5:
            table.add_row(SHARES_IN_WORDS[name], clock(seconds), f"{100 * seconds / spent.seconds:.0f} %")
    table.add_row("total", clock(spent.seconds), "", style="bold")
    return table

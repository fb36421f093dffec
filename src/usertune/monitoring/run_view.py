"""The view of an active run on a terminal: what is done of what, what runs, how far it is, and how long yet."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from usertune.core.formatting import duration, printable
from usertune.monitoring.run_jobs import Job, Left, Progress, RunJobs
from usertune.pipeline.steps import STEPS

# A terminal has 24 lines.
SHOWN_JOBS = 10
TOTAL_BAR, JOB_BAR = 20, 10
SHORTEST_LABEL = 12


class RunView:
    """What is shown of a run while it is active.

    Args:
        jobs: the jobs of the run.
        with_jobs: whether single jobs are shown, or only the total.
    """

    # Records are read from disks that may be shared and slow.
    EVERY_SECONDS = 2.0

    def __init__(self, jobs: RunJobs, with_jobs: bool = True) -> None:
        self.jobs = jobs
        self.with_jobs = with_jobs
        self._progress: dict[int, Progress] = {}
        self._read = float("-inf")

    def render(self, now: float | None = None) -> RenderableType:
        """Return the view for a `rich.console.Console` of any width.

        Args:
            now: seconds since the epoch; default: the current time.
        """
        now = time.time() if now is None else now
        running = list(self.jobs.running.values())
        if now - self._read >= self.EVERY_SECONDS:
            self._progress, self._read = {}, now
        for job in running:
            if job.number not in self._progress:
                self._progress[job.number] = job.progress(datetime.fromtimestamp(now).astimezone())
        parts = [_total(self.jobs, self.jobs.left(self._progress, now), now), _steps(self.jobs)]
        if self.with_jobs:
            parts += _running(running, self._progress, now)
        return Group(*parts)


def _total(jobs: RunJobs, left: Left | None, now: float) -> RenderableType:
    done = jobs.done.total()
    words = [f"{done} of {jobs.total} jobs", whole_seconds(now - (jobs.began or now))]
    if left is not None:
        words.append(f"{'at least' if left.at_least else 'about'} {whole_seconds(left.seconds)} left")
    line = Table.grid(padding=(0, 1))
    line.add_row(ProgressBar(total=max(jobs.total, 1), completed=done, width=TOTAL_BAR), Text(", ".join(words)))
    return line


def _steps(jobs: RunJobs) -> Text:
    """Return the finished and the planned jobs of each step; those without any open job are dim."""
    text = Text()
    for step, planned in jobs.planned.items():
        if step in STEPS:
            style = "dim" if jobs.done[step] >= planned else ""
            words = f"{STEPS[step].results} {jobs.done[step]}/{planned}"
            text.append(", " if text else "").append(words, style=style)
    return text


def _running(jobs: list[Job], progress: Mapping[int, Progress], now: float) -> Iterator[RenderableType]:
    waiting = [job for job in jobs if job.remote and not progress[job.number].started]
    at_work = [job for job in jobs if job not in waiting]
    if at_work:
        yield _Rows([(job.label, progress[job.number].share, _pace(job, progress[job.number], now)) for job in at_work])
    if len(at_work) > SHOWN_JOBS:
        yield Text(f"  and {len(at_work) - SHOWN_JOBS} more", style="dim")
    if waiting:
        counts = Counter(job.step for job in waiting)
        yield Text(f"  waiting in the queue: {counted_steps(counts)}", style="dim")


class _Rows:
    """The rows of jobs: label, share and pace. The label gets the width that the others leave."""

    def __init__(self, rows: Sequence[tuple[str, float | None, str]]) -> None:
        self.rows = rows[:SHOWN_JOBS]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        left = options.max_width - JOB_BAR - 2 - max(len(pace) for *_, pace in self.rows)
        table = Table.grid(padding=(0, 1))
        table.add_column(no_wrap=True, overflow="ellipsis", max_width=max(left, SHORTEST_LABEL))
        table.add_column(width=JOB_BAR)
        table.add_column(no_wrap=True, overflow="ellipsis")
        for label, share, pace in self.rows:
            bar = Text() if share is None else ProgressBar(total=1.0, completed=share, width=JOB_BAR)
            table.add_row(f"  {printable(label)}", bar, pace)
        yield table


def counted_steps(counts: Mapping[str, int]) -> str:
    """Return numbers of jobs by step, such as ``3 prediction jobs, 1 training job``."""
    words = []
    for name, jobs in counts.items():
        singular, plural = STEPS[name].counted if name in STEPS else (name, name)
        words.append(f"{jobs} {singular if jobs == 1 else plural}")
    return ", ".join(words)


def whole_seconds(seconds: float) -> str:
    """Return a duration without fractions of a second, which would flicker: ``12 s``, ``3 min 5 s``."""
    return f"{seconds:.0f} s" if seconds < 59.5 else duration(seconds)


def _pace(job: Job, progress: Progress, now: float) -> str:
    words = [f"attempt {job.attempt}"] if job.attempt > 1 else []
    if progress.words:
        words.append(progress.words)
    if progress.seconds_left is not None:
        words.append(f"{whole_seconds(progress.seconds_left)} left")
    else:
        words.append(whole_seconds(now - job.started))
    return ", ".join(words)

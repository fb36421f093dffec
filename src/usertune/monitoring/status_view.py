"""The status of a study for people: a table for terminals of any width and for pipes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.style import Style
from rich.table import Table
from rich.text import Text

from usertune.core.formatting import duration, printable
from usertune.monitoring.status import Row, State, Status
from usertune.pipeline import steps

# One character per test user, so that 83 of them fit into three lines; the colour has the same meaning.
MARKS: dict[str, tuple[str, str]] = {
    "scored": ("#", "green"),
    "predicted": ("+", "cyan"),
    "running": (">", "yellow"),
    "queued": ("q", "blue"),
    "waiting": (".", "dim"),
    "failed": ("X", "bold red"),
    "stopped": ("s", "magenta"),
}
STYLES: dict[State, str] = {
    "done": "green",
    "running": "yellow",
    "queued": "blue",
    "waiting": "dim",
    "failed": "bold red",
    "stopped": "magenta",
}
USERS_TOGETHER = 10
SHOWN_RUNNING, SHOWN_FAILED = 16, 8
_OF_EXPERIMENTS = [step for step in steps.STEPS.values() if "experiment" in step.wildcards]
_AFTER_EXPERIMENTS = [step for step in steps.STEPS.values() if step.of_comparison]


def render(status: Status) -> RenderableType:
    """Return the status of a study for a `rich.console.Console` of any width; print it uncropped to keep paths."""
    parts: list[RenderableType] = [
        _head(status),
        Text(),
        _experiments(status),
        _legend(status),
        Text(),
        _around(status),
    ]
    if running := [row for row in status.rows if row.state == "running"]:
        parts += [Text(), Text("Running", style="bold"), *_running(running)]
    if status.failed:
        parts += [Text(), Text("Failed", style="bold red"), *_failed(status.failed)]
    if waiting := _waiting(status):
        parts += [Text(), waiting]
    return Group(*parts)


def file_link(path: str) -> Text:
    """Return a path as a link, to be printed alone on a line; it is never wrapped."""
    link = Style(link=Path(path).absolute().as_uri())
    return Text("    ", no_wrap=True, overflow="ignore").append(printable(path), style=link)


def _head(status: Status) -> Text:
    counts = status.counts()
    words = [f"{counts['done']} of {counts.total()} results are there"]
    if status.complete:
        words = [f"complete, all {counts.total()} results are there"]
    elif status.run is None:
        words.append("no run so far")
    else:
        run = status.run
        since = f"{run.since:%Y-%m-%d %H:%M} (process {run.process} on {printable(run.host)})"
        words.append(
            {True: "a run is active since", False: "the last run, of", None: "the newest run began"}[run.alive]
        )
        words[-1] += f" {since}" + ("" if run.alive is not False else ", is over")
    if status.seconds_left is not None:
        words.append(f"GPU jobs need about {duration(status.seconds_left)} more")
    return Text(f"{status.study}: ", style="bold").append("; ".join(words), style="not bold")


def _experiments(status: Status) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("experiment", overflow="fold", max_width=24)
    table.add_column("training", no_wrap=True)
    table.add_column("scored", justify="right", no_wrap=True)
    table.add_column("samples/s", justify="right", no_wrap=True)
    table.add_column("users")
    names = dict.fromkeys(row.experiment for row in status.rows if row.experiment)
    for name in names:
        rows = [row for row in status.rows if row.experiment == name]
        scores = [row for row in rows if row.step == steps.SCORE.name]
        scored = f"{sum(row.state == 'done' for row in scores)}/{len(scores)}"
        table.add_row(name, _training(rows), scored, _speed(rows), _strip(rows))
    return table


def _training(rows: Sequence[Row]) -> Text:
    if of_folds := [row for row in rows if row.step == steps.TRAIN_FOLDS.name]:
        return _training_on_folds(of_folds)
    row = next((row for row in rows if row.step == steps.TRAIN.name), None)
    if row is None:
        return Text("none", style="dim")
    share = f" {_percent(row)}" if row.state == "running" and row.total else ""
    return Text(row.state + share, style=STYLES[row.state])


def _training_on_folds(rows: Sequence[Row]) -> Text:
    """Return the progress of trainings on folds: one row for each user, or for all users together."""
    states = Counter(row.state for row in rows)
    state = _worst(states)
    if len(rows) == 1:
        share = f" {_percent(rows[0])}" if state == "running" and rows[0].total else ""
        return Text(state + share, style=STYLES[state])
    share = "" if state == "done" else f" {states['done']}/{len(rows)}"
    return Text(state + share, style=STYLES[state])


def _speed(rows: Sequence[Row]) -> str:
    """Return the speed of the running jobs; if none runs, the mean speed of the finished predictions."""
    speeds = [row.samples_per_second for row in rows if row.state == "running" and row.samples_per_second]
    if speeds:
        return f"{sum(speeds):.1f}"
    speeds = [row.samples_per_second for row in rows if row.step == steps.PREDICT.name and row.samples_per_second]
    return f"{sum(speeds) / len(speeds):.1f}" if speeds else ""


def marks_of_users(rows: Sequence[Row]) -> dict[str, str]:
    """Return the progress of every test user of an experiment: a key of `MARKS`.

    Args:
        rows: the experiment's rows.
    """
    predictions = {user: row.state for row in rows if row.step == steps.PREDICT.name for user in row.users}
    marks = {}
    for row in rows:
        if row.step != steps.SCORE.name:
            continue
        (user,) = row.users
        if row.state == "done":
            marks[user] = "scored"
        elif row.state == "waiting":
            marks[user] = "predicted" if predictions[user] == "done" else str(predictions[user])
        else:
            marks[user] = row.state
    return marks


def _strip(rows: Sequence[Row]) -> Text:
    strip = Text()
    for index, mark in enumerate(marks_of_users(rows).values()):
        if index and index % USERS_TOGETHER == 0:
            strip.append(" ")
        character, style = MARKS[mark]
        strip.append(character, style=style)
    return strip


def _legend(status: Status) -> Text:
    rows_of: dict[str, list[Row]] = {}
    for row in status.rows:
        rows_of.setdefault(row.experiment or "", []).append(row)
    seen = {mark for name, rows in rows_of.items() if name for mark in marks_of_users(rows).values()}
    legend = Text()
    for mark, (character, style) in MARKS.items():
        if mark in seen:
            legend.append("  " if legend else "").append(character, style=style).append(f" {mark}", style="dim")
    return legend


def _around(status: Status) -> Text:
    """Return the states of the steps before and after the experiments."""
    checked = status.counts(steps.PREPARE.name)
    words = [f"{steps.PREPARE.results} {checked['done']}/{checked.total()}"]
    for step in (steps.BASE_MODEL, *_AFTER_EXPERIMENTS):
        words.append(f"{step.results} {_worst(status.counts(step.name))}")
    return Text(", ".join(words))


def _worst(counts: Counter[State]) -> State:
    order: tuple[State, ...] = ("failed", "running", "stopped", "queued", "waiting")
    return next((state for state in order if counts[state]), "done")


def _running(rows: Sequence[Row]) -> Iterator[RenderableType]:
    for row in rows[:SHOWN_RUNNING]:
        line = Table.grid(padding=(0, 1))
        line.add_column(no_wrap=True, overflow="ellipsis", max_width=30)
        cells: list[RenderableType] = [f"  {row.label}"]
        if row.total:
            cells += [ProgressBar(total=row.total, completed=row.done or 0, width=12), _percent(row)]
            cells.append(f"{row.done}/{row.total} {row.unit}")
        cells.append(_pace(row))
        line.add_row(*cells)
        yield line
        yield from _where(row)
    yield from _more(rows, SHOWN_RUNNING)


def _pace(row: Row) -> str:
    speed = f"{row.samples_per_second:.1f}/s" if row.samples_per_second else ""
    left = f"{duration(row.seconds_left)} left" if row.seconds_left is not None else ""
    return " ".join(filter(None, (speed, left)))


def _where(row: Row) -> Iterator[Text]:
    """Yield the host of a job, and its log."""
    words = [printable(row.host)] if row.host else []
    words += [f"GPU {','.join(row.gpus)}"] if row.gpus else []
    words += [f"SLURM job {row.slurm_job}"] if row.slurm_job else []
    words += [f"attempt {row.attempt}"] if row.attempt and row.attempt > 1 else []
    if words:
        yield Text(f"    {', '.join(words)}", style="dim")
    if row.log:
        yield file_link(row.log)


def _failed(rows: Sequence[Row]) -> Iterator[RenderableType]:
    for row in rows[:SHOWN_FAILED]:
        yield Text(f"  {row.label}: {printable(row.error or 'the reason is unknown')}")
        yield from _where(row)
    yield from _more(rows, SHOWN_FAILED)


def _more(rows: Sequence[Row], shown: int) -> Iterator[Text]:
    if len(rows) > shown:
        yield Text(f"  and {len(rows) - shown} more (--json has all)", style="dim")


def _waiting(status: Status) -> Text | None:
    """Return the numbers of jobs that wait, are queued or were stopped, by step."""
    lines = []
    states: tuple[State, ...] = ("queued", "waiting", "stopped")
    for state in states:
        counted = [(step, status.counts(step.name)[state]) for step in _OF_EXPERIMENTS]
        words = [f"{count} {step.counted[count != 1]}" for step, count in counted if count]
        if words:
            lines.append(f"{state.capitalize()}: {', '.join(words)}")
    return Text("\n".join(lines)) if lines else None


def _percent(row: Row) -> str:
    return f"{100 * (row.done or 0) / row.total:.0f} %" if row.total else ""

"""The figure of the loss and the learning rate in training."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from usertune.core.errors import UserError
from usertune.reporting.figures.axes import handles_of, legend_above, legend_height, said
from usertune.reporting.figures.sheet import INK, Subject, new_figure
from usertune.reporting.style import Style

TITLE = "Loss and learning rate in training"
ALTERNATIVE = (
    "Line plots over optimizer steps for each trained experiment: training and validation loss, and below the learning "
    "rate."
)
CAPTION = (
    "Top: training loss (mean per answer token), each optimizer step (pale) and its running mean (line), and the loss "
    "on the validation users (marks). Bottom: learning rate. Test users have no part in it, except in trainings on "
    "folds of their own samples, for which it is the mean over users and folds."
)
READS = ("training_logs",)
NEEDS = ("trainings",)

COLUMNS = ["step", "split", "loss", "learning_rate"]


def draw(subject: Subject) -> Figure:
    """Draw the training loss (pale: every step, strong: running mean), the validation loss and the learning rate.

    Raises:
        UserError: a training log is missing, malformed or of no experiment of the study.
    """
    logs: dict[str, list[Path]] = {}
    for training, path in subject.sources.training_logs.items():
        # The name of a training on folds also has its users.
        logs.setdefault(training.partition(" ")[0], []).append(path)
    if foreign := sorted(set(logs) - set(subject.names)):
        raise UserError(f"training logs: {', '.join(foreign)} is no experiment of this study; leave its log out")
    shown = {label: [path for name in own for path in logs.get(name, ())] for label, own in subject.members.items()}
    known = {label: paths for label, paths in shown.items() if paths}
    if not known:
        return said("no trained experiment in this study", subject)
    handles = _legend(subject, known)
    figure = new_figure((2.7 if subject.narrow else 3.3) + legend_height(handles, subject.columns), subject.columns)
    losses, rates = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    for label, paths in known.items():
        log = _mean_over_trainings([_read_log(path) for path in paths])
        train, validation = (log[log["split"] == split] for split in ("train", "validation"))
        style, rate = subject.styles[label], train.dropna(subset="learning_rate")
        _draw_losses(losses, style, train, validation)
        rates.plot(rate["step"], rate["learning_rate"], color=style.colour, linestyle=style.dashes, linewidth=1.1)
    losses.set_ylabel("loss")
    rates.set_ylabel("learning rate")
    rates.set_xlabel("optimizer step")
    rates.set_xlim(left=0)
    rates.set_ylim(bottom=0)
    rates.xaxis.set_major_locator(MaxNLocator(5 if subject.narrow else 9, integer=True))
    rates.yaxis.set_major_locator(MaxNLocator(3))
    rates.ticklabel_format(axis="y", style="sci", scilimits=(0, 0), useMathText=True)
    rates.yaxis.get_offset_text().set_fontsize(6.5)
    figure.align_ylabels([losses, rates])
    legend_above(figure, handles, subject.columns)
    return figure


def _legend(subject: Subject, known: Collection[str]) -> list[Line2D]:
    handles = zip(subject.design.names, handles_of(subject), strict=True)
    return [
        *(handle for name, handle in handles if name in known),
        Line2D([], [], label="training", color=INK, linewidth=1.3),
        Line2D([], [], label="validation", color=INK, linewidth=0.6, marker="o", markersize=4),
    ]


def _mean_over_trainings(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Return the numbers of each step, averaged over the trainings (of users, folds or seeds) that have the step."""
    joined: pd.DataFrame = pd.concat(tables).groupby(["split", "step"], as_index=False).mean()
    return joined


def _draw_losses(axes: Axes, style: Style, train: pd.DataFrame, validation: pd.DataFrame) -> None:
    window = max(1, len(train) // 50)
    smooth = train["loss"].rolling(window, min_periods=1, center=True).mean()
    if window > 1:
        axes.plot(train["step"], train["loss"], color=style.colour, alpha=0.2, linewidth=0.5, zorder=1)
    axes.plot(train["step"], smooth, color=style.colour, linewidth=1.3, linestyle=style.dashes, zorder=2)
    axes.plot(
        validation["step"], validation["loss"], color=style.colour, marker=style.marker, markersize=4.5 * style.scale,
        markeredgecolor="white", markeredgewidth=0.5, linewidth=0.6, zorder=3,
    )  # fmt: skip


def _read_log(path: Path) -> pd.DataFrame:
    numbers = dict.fromkeys(("step", "loss", "learning_rate"), float)
    try:
        return pd.read_csv(path, dtype={"split": str, **numbers})[COLUMNS]
    except FileNotFoundError:
        raise UserError(f"{path}: this training log does not exist; run snakemake again so that it is made") from None
    except (KeyError, ValueError) as error:
        raise UserError(
            f"{path}: not a training log with the columns {', '.join(COLUMNS)} ({error}); "
            "delete the experiment's manifest and run snakemake again"
        ) from None

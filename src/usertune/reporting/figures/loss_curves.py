"""The figure of the loss in training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from usertune.core.errors import UserError
from usertune.reporting.figures.sheet import Subject, legend_above, new_figure, say
from usertune.reporting.style import Style

TITLE = "Loss in training"
ALTERNATIVE = "Line plot of training and validation loss over optimizer steps for each trained experiment."
CAPTION = (
    "Training loss of each optimizer step (pale) and its running mean, and the loss on the validation users (marks). "
    "Test users have no part in it, except in trainings on folds of their own samples, for which it is the mean over "
    "users and folds."
)
READS = ("training_logs",)


def draw(subject: Subject) -> Figure:
    """Draw the training loss (pale: every step, strong: running mean) and the validation loss (markers).

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
    figure = new_figure(height=4.3)
    axes = figure.subplots()
    if not known:
        say(axes, "no trained experiment in this study")
        return figure
    for label, paths in known.items():
        _draw_losses(axes, label, subject.styles[label], _mean_over_trainings([_read_log(path) for path in paths]))
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("loss (mean per answer token)")
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend_above(axes, len(axes.get_legend_handles_labels()[0]))
    return figure


def _mean_over_trainings(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Return the losses of each step, averaged over the trainings (of users and folds, or seeds) that have the step."""
    joined: pd.DataFrame = pd.concat(tables).groupby(["split", "step"], as_index=False).agg({"loss": "mean"})
    return joined


def _draw_losses(axes: Axes, name: str, style: Style, log: pd.DataFrame) -> None:
    train, validation = (log[log["split"] == split] for split in ("train", "validation"))
    window = max(1, len(train) // 50)
    train = train.assign(smooth=train["loss"].rolling(window, min_periods=1, center=True).mean())
    line: dict[str, Any] = {"x": "step", "estimator": None, "color": style.colour, "ax": axes}
    if window > 1:
        sns.lineplot(train, y="loss", alpha=0.22, linewidth=0.7, **line)
    sns.lineplot(train, y="smooth", linewidth=1.6, linestyle=style.dashes, label=f"{name}, training", **line)
    if len(validation):
        sns.lineplot(
            validation, y="loss", marker=style.marker, markersize=5.5, linewidth=0.9, markeredgewidth=0.6,
            label=f"{name}, validation", **line,
        )  # fmt: skip


def _read_log(path: Path) -> pd.DataFrame:
    try:
        log = pd.read_csv(path, dtype={"split": str, "step": float, "loss": float})
        return log[["step", "split", "loss"]]
    except FileNotFoundError:
        raise UserError(f"{path}: this training log does not exist; run snakemake again so that it is made") from None
    except (KeyError, ValueError) as error:
        raise UserError(
            f"{path}: not a training log with the columns step, split and loss ({error}); "
            "delete the experiment's manifest and run snakemake again"
        ) from None

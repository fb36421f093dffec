"""The summary of a study as one run of its own at each tracker."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from accelerate import Accelerator

from usertune.core.files import read_json, write_json
from usertune.evaluation import table_names
from usertune.evaluation.tables import TEXT_COLUMNS, read_table, records
from usertune.training.tracking import OF_SUMMARIES, Tracking, environment_of, environment_set

logger = logging.getLogger(__name__)

# File in the folder of trackers: tables -> the trackers that have them.
REPORTED = "summaries.json"
# Tracker -> its argument for the name of a run.
_NAME_OF_RUN = {
    "mlflow": "run_name",
    "wandb": "name",
    "trackio": "name",
    "clearml": "task_name",
    "swanlab": "experiment_name",
}


def report_summary(tracking: Tracking, tables: Path, tables_digest: str, settings: Mapping[str, Any]) -> list[str]:
    """Report the tables of a study to its trackers, each as a run of its own; what was reported before is left out.

    Args:
        tracking: the run; `OF_SUMMARIES` says which trackers can hold it.
        tables: folder of the tables.
        tables_digest: digest of their content, by which they are known to have been reported.
        settings: what the run is of: name -> text or number.

    Returns:
        The trackers that were reported to.
    """
    file = tracking.folder / REPORTED
    reported: dict[str, list[str]] = read_json(file) if file.exists() else {}
    known = reported.get(tables_digest, [])
    left = [name for name in tracking.trackers if name in OF_SUMMARIES and name not in known]
    if not left:
        return []
    values = dict(metrics_of(tables))
    with environment_set(environment_of(tracking)):
        for name in left:
            _report(name, tracking, settings, values)
            known = [*known, name]
            write_json(file, {**reported, tables_digest: known})
    logger.info("the summary is a run of its own, %s, at: %s", tracking.run, ", ".join(left))
    return left


def metrics_of(tables: Path) -> Iterator[tuple[str, float]]:
    """Yield ``EXPERIMENT/COLUMN`` and the value for every number of the summary, and likewise of the hypothesis."""
    for row in records(read_table(tables / table_names.SUMMARY)):
        yield from _numbers(str(row["experiment"]), row)
    if (tables / table_names.HYPOTHESIS).exists():
        for row in records(read_table(tables / table_names.HYPOTHESIS)):
            yield from _numbers(f"{row['experiment']} - {row['baseline']}", row)


def _numbers(name: str, row: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for column, value in row.items():
        if column not in TEXT_COLUMNS and not pd.isna(value):
            yield f"{name}/{column}", float(value)


def _report(name: str, tracking: Tracking, settings: Mapping[str, Any], values: Mapping[str, float]) -> None:
    accelerator = Accelerator(cpu=True, log_with=name, project_dir=str(tracking.folder))
    # TensorBoard has no projects: its runs are folders.
    project = f"tensorboard/{tracking.run}" if name == "tensorboard" else tracking.project
    options = {_NAME_OF_RUN[name]: tracking.run} if name in _NAME_OF_RUN else {}
    accelerator.init_trackers(project, config=dict(settings), init_kwargs={name: options})
    accelerator.log(dict(values), step=0)
    accelerator.end_training()

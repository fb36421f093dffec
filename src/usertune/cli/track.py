"""Report the summary of a study as a run of its own to the trackers of its section tracking.

The workflow does this after a complete run. Tables that were reported before are not reported again. Examples:

    usertune track
    usertune track --study configs/mine.yaml

Exit code: 0 if the summary is reported, 2 if there are no tables yet or a tracker cannot be used.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from usertune.cli.study_arguments import add_study, study_of
from usertune.core.errors import UserError
from usertune.core.manifest import read_manifest
from usertune.evaluation import table_names
from usertune.study.copy import read_resolved
from usertune.study.schema.study import Study
from usertune.training.tracking import TRACKERS, Tracking


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``usertune track``."""
    add_study(parser)
    parser.add_argument("--resolved-study", type=Path, metavar="JSON", help="used by the workflow, instead of --study")


def run(arguments: argparse.Namespace) -> None:
    """Report the summary."""
    resolved = arguments.resolved_study
    study = study_of(arguments) if resolved is None else read_resolved(resolved)
    if not study.tracking.trackers:
        raise UserError("the study names no trackers; add for example tracking: {trackers: [tensorboard]}")
    outcomes = Path(study.results, study.origin.outcomes)
    tables = outcomes / "tables"
    digest = str(read_manifest(tables / table_names.MANIFEST)["output"])
    # Imported here, because it imports torch.
    from usertune.training.summary_run import report_summary

    tracking = Tracking(
        trackers=study.tracking.trackers,
        project=study.tracking.project or study.name,
        run=f"summary of {study.name}",
        folder=Path(study.results, TRACKERS),
    )
    done = report_summary(tracking, tables, digest, _settings(study))
    print(f"reported to {', '.join(done)}" if done else "these tables were reported before; nothing to do")


def _settings(study: Study) -> dict[str, str | int]:
    """Return what the summary is of."""
    return {
        "study": study.name,
        "model": study.origin.base_model or study.base_model.path,
        "task": study.dataset.task,
        "test_users": len(study.users.test),
        **{f"mode of {name}": experiment.mode for name, experiment in study.experiments.items()},
    }

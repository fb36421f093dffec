"""Show how far a study is: what is done, running, queued, waiting or failed, how fast, and until when.

It can run in another shell, and on another machine that sees the results folder; it writes nothing and takes no lock.
It does not check whether raw data changed since they were prepared: usertune explain does. Examples:

    usertune status --watch
    usertune status --study configs/mine.yaml --times

Exit code: 1 if a job failed and no run is active, else 0.
"""

from __future__ import annotations

import argparse
import sys

from usertune.cli.study_arguments import add_study, study_of
from usertune.core.errors import UserError
from usertune.monitoring.status_watch import StudyWatch, show, watch
from usertune.pipeline.results_folder import check_owner
from usertune.runtime import step_main


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``usertune status``."""
    add_study(parser)
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--watch",
        nargs="?",
        type=float,
        const=5.0,
        metavar="SECONDS",
        help="show it again every so many seconds (default: 5), until the study is complete or Ctrl-C",
    )
    how.add_argument("--times", action="store_true", help="where the wall time of the newest run went, job by job")
    parser.add_argument("--json", action="store_true", help="for machines")


def run(arguments: argparse.Namespace) -> None:
    """Show a study's status once, or until it is complete."""
    if arguments.json and arguments.watch is not None:
        raise UserError("--json shows one moment; leave out --watch")
    described = study_of(arguments)
    check_owner(described)
    study = StudyWatch(described)
    if arguments.watch is not None:
        watch(study, arguments.watch)
    elif not show(study, as_json=arguments.json, times=arguments.times):
        sys.exit(step_main.EXIT_FAILURE)

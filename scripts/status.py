"""Say how far a study is: what is done, running, queued, waiting or failed, how fast, and until when.

Works from another shell, and from another machine that sees the folder of results; nothing is written or locked.
Whether raw data changed since they were checked is not looked at: scripts/explain.py does that. Examples:

    python scripts/status.py --watch
    python scripts/status.py --study configs/mine.yaml --times

Ends with exit code 1 if something failed and the run is not going on, else with 0.
"""

from __future__ import annotations

import argparse
import sys

import environment  # noqa: F401

from usertune.core.errors import UserError
from usertune.monitoring.status_watch import StudyWatch, show, watch
from usertune.pipeline.results_folder import check_owner
from usertune.runtime import step_main
from usertune.study.load import load_study


def main(arguments: argparse.Namespace) -> None:
    if arguments.json and arguments.watch is not None:
        raise UserError("--json shows one moment; leave out --watch")
    described = load_study(arguments.study, arguments.config)
    check_owner(described)
    study = StudyWatch(described)
    if arguments.watch is not None:
        watch(study, arguments.watch)
    elif not show(study, as_json=arguments.json, times=arguments.times):
        sys.exit(step_main.EXIT_FAILURE)


if __name__ == "__main__":
    parser = step_main.argument_parser(__doc__)
    step_main.add_study(parser)
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--watch",
        nargs="?",
        type=float,
        const=5.0,
        metavar="SECONDS",
        help="look again every so many seconds (default: 5), until the study is complete or Ctrl-C",
    )
    how.add_argument("--times", action="store_true", help="where the newest run's wall time went, job by job")
    parser.add_argument("--json", action="store_true", help="for machines")
    step_main.run(parser, main)

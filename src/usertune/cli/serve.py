"""Print, or run, the command that starts vLLM with the adapters of a study.

vLLM is not part of usertune and has a Python environment of its own, which --environment names. The command names
every adapter of the experiments that a server answers (engine: {kind: openai, adapters: true}), or of those given by
--experiment; their keys are checked, since a server ignores a wrong one without a word. Arguments after -- go to vLLM.
Examples:

    usertune serve
    usertune serve --start --environment ~/vllm -- --gpu-memory-utilization 0.8

Exit code: 0 if the command was printed, else 2; with --start, that of the server.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from usertune.cli.study_arguments import add_study, study_of
from usertune.exchange.serve import server_command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``usertune serve``."""
    add_study(parser)
    parser.add_argument(
        "--experiment", action="append", default=[], metavar="NAME", help="serve its adapters; can be repeated"
    )
    parser.add_argument("--environment", type=Path, metavar="FOLDER", help="Python environment with vLLM")
    parser.add_argument("--start", action="store_true", help="run the command instead of printing it")
    parser.add_argument("more", nargs="*", metavar="-- ARGUMENT", help="further arguments for vLLM")


def run(arguments: argparse.Namespace) -> None:
    """Print the command, or become the server."""
    command = server_command(study_of(arguments), arguments.experiment, arguments.environment, arguments.more)
    if arguments.start:
        command.start()
    print(command.text())

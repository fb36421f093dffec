"""Checks of the command line (targets, profile), and a short message after Ctrl-C."""

import logging
import os
import signal
import sys
from functools import wraps
from pathlib import Path

from snakemake.cli import get_argument_parser

from usertune.core.errors import UserError
from usertune.core.step_names import CHECK
from usertune.pipeline import targets


def refuse(problem):
    """Exit with a message. Snakemake would add lines of this file to a WorkflowError."""
    logger.error(str(problem))
    sys.exit(1)


def refusing(function):
    """Make a UserError of a function end the run with its message; Snakemake would add a traceback to it."""

    @wraps(function)
    def call(*arguments, **named):
        try:
            return function(*arguments, **named)
        except UserError as error:
            refuse(error)

    return call


def command_line():
    """The parsed command line of Snakemake; None in a job, or if another program started it."""
    if not workflow.is_main_process or Path(sys.argv[0]).name not in ("snakemake", "__main__.py"):
        return None
    return get_argument_parser().parse_known_args(sys.argv[1:])[0]


def check_command_line():
    """Exit for unknown targets, listing valid ones, and for a run without a profile."""
    asked = command_line()
    if asked is None:
        return
    if said := targets.problem(STUDY, FRESHNESS.results, asked.targets or []):
        refuse(said)
    settings = ["profile", "executor", "cores", "jobs"]
    runs_nothing = ["dryrun", "lint", "list_rules", "list_target_rules", "unlock"]
    runs_nothing += ["report", "summary", "detailed_summary", "dag", "rulegraph", "filegraph"]
    if "SNAKEMAKE_PROFILE" not in os.environ and not any(
        getattr(asked, name, None) for name in settings + runs_nothing
    ):
        refuse(
            "How should this run? Add --profile local (this machine) or --profile slurm (a cluster); with -n "
            "nothing runs."
        )


def end_quietly_on_ctrl_c():
    """After Ctrl-C, say what to do and hide the errors of the jobs, which receive the signal too."""
    before = signal.getsignal(signal.SIGINT)
    if not workflow.is_main_process or before in (signal.SIG_IGN, None):
        return
    asked = []

    def note(number, frame):
        if not asked:
            message = "Interrupted. Finished work is kept; the same command continues from there."
            # The logger `usertune` then shows what the running jobs say.
            logger.warning(message, extra={"interrupted": True})
        asked.append(number)
        before(number, frame)

    signal.signal(signal.SIGINT, note)
    logger.addFilter(lambda record: not asked or record.levelno < logging.ERROR)


# `snakemake check --profile local` needs no base model. Snakemake has not parsed its targets yet.
DATA_ALONE = getattr(command_line(), "targets", None) == [CHECK]
end_quietly_on_ctrl_c()


def list_targets(only_targets):
    """Show what can be asked for by `snakemake --list`: rules that make many files are no targets by name."""
    for batch in DATA_BATCHES:
        del workflow._rules[rule_of_batch(steps.PREPARE, batch)]
    type(workflow).list_rules(workflow, True)


workflow.list_rules = list_targets

"""Check before a run: the raw data of all users, and what memory, steps, time and disk the study needs.

Also the smallest gain over test users that the study can detect. Nothing is written and no model is loaded. The lengths
of samples that are not prepared yet are those of a few raw samples, with the headers of their images. What cannot fit
is reported with the smallest change that fits. Examples:

    usertune check
    usertune check memory --study configs/mine.yaml
    usertune check data --users 1-3,alice

The workflow checks the data of users that it has not reached when one fails. To check data and keep the prepared
samples: snakemake check --profile local.

Exit code: 0 if all data can be used and everything fits, else 2.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from usertune.cli.study_arguments import add_study, study_of
from usertune.core.errors import UserError
from usertune.core.users import parse_users
from usertune.study.copy import read_resolved
from usertune.study.schema.study import Study


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``usertune check``."""
    parser.add_argument(
        "what", nargs="?", choices=["data", "memory"], help="only the data, or only memory, steps, time and disk"
    )
    add_study(parser)
    parser.add_argument("--users", metavar="USERS", help="such as 1-3,7,alice (default: all users of the study)")
    parser.add_argument(
        "--processes",
        type=int,
        default=len(os.sched_getaffinity(0)),
        metavar="N",
        help="users that are checked at once (default: the number of cores)",
    )
    parser.add_argument("--gpu-memory", type=float, metavar="GIB", help="memory of a GPU, instead of gpu_memory_gb")
    parser.add_argument("--users-file", type=Path, metavar="FILE", help="the same, one user a line")
    parser.add_argument("--resolved-study", type=Path, metavar="JSON", help="used by the workflow, instead of --study")


def run(arguments: argparse.Namespace) -> None:
    """Print the problems of all users and the estimate; end with an error if something cannot work."""
    resolved = arguments.resolved_study
    study = study_of(arguments) if resolved is None else read_resolved(resolved)
    if arguments.what != "memory":
        _check_data(study, arguments)
    if arguments.what is None:
        from usertune.checks.detectable import detectable_note

        print(detectable_note(study))
    if arguments.what != "data":
        _check_memory(study, arguments.gpu_memory)


def _check_data(study: Study, arguments: argparse.Namespace) -> None:
    from usertune.data.check import bad_users, in_words
    from usertune.data.recipe import PrepareRecipe
    from usertune.pipeline.recipes import Recipes

    users = list(study.all_users) if arguments.users is None else parse_users(arguments.users)
    if arguments.users_file is not None:
        users = arguments.users_file.read_text(encoding="utf-8").splitlines()
    if others := [user for user in users if user not in study.all_users]:
        raise UserError(f"--users: {others[0]} is not a user of this study")
    folds = dict.fromkeys(study.users_with_folds, study.folds.settings) if study.folds else {}
    recipe = PrepareRecipe.parse(Recipes(study).prepare())
    bad = bad_users(recipe, Path(study.dataset.root), users, arguments.processes, folds)
    if bad:
        raise UserError(in_words(bad, len(users)))
    print(in_words(bad, len(users)))


def _check_memory(study: Study, gpu_memory: float | None) -> None:
    from rich.console import Console

    from usertune.checks.estimates.machine import Machine, machine_of
    from usertune.checks.estimates.raw_samples import look_at_raw_samples
    from usertune.checks.estimates.study import estimate
    from usertune.checks.estimates.view import render
    from usertune.checks.preflight import check_sources

    check_sources(study)
    machine = machine_of(study.gpu_memory_gb, on_a_cluster=False)
    if gpu_memory is not None:
        machine = Machine("gpu", round(gpu_memory * 2**30), "--gpu-memory")
    estimated = estimate(study, machine, look_at_raw=look_at_raw_samples)
    if hasattr(sys.stdout, "reconfigure"):
        # A character that the terminal cannot show must not end the program.
        sys.stdout.reconfigure(errors="backslashreplace")
    console = Console(highlight=False, markup=False, emoji=False)
    console.print(render(estimated, console.width), crop=False)
    if problems := estimated.problems():
        raise UserError("\n".join(problems))

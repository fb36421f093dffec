"""Write the picture of one test sample: its screenshot with the target, the answers, and the region that counts.

The answers are those of the results that are there, so it works while a study runs. Marks and outcomes are those of the
report's browser of samples, whose addresses have user and sample. Examples:

    usertune show --user 7 --sample 7-0003
    usertune show --user 7 --sample 7-0003 --experiments lora full --out figure.png

Exit code: 0 if the picture was written, else 2.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from usertune.cli.study_arguments import add_study, study_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``usertune show``."""
    add_study(parser)
    parser.add_argument("--user", required=True, metavar="USER", help="one of the test users")
    parser.add_argument("--sample", required=True, metavar="ID", help="id of one of the user's samples")
    parser.add_argument(
        "--experiments",
        nargs="+",
        default=[],
        metavar="NAME",
        help="whose answers (default: all that there are)",
    )
    parser.add_argument("--out", type=Path, metavar="PNG", help="default: USER_ID.png in the working directory")


def run(arguments: argparse.Namespace) -> None:
    """Write the picture and say what it shows."""
    # Not at the top: --help must not wait for pandas.
    from usertune.exchange.show_sample import Wanted, show_sample

    wanted = Wanted(arguments.user, arguments.sample, tuple(arguments.experiments), arguments.out)
    print(show_sample(study_of(arguments), wanted))

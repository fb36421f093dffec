"""Compare two studies on the test samples that both have, and list what differs between them.

Samples are the same if user, id, question and expected answer are. Experiments of the same name are compared, or those
of --pair. The difference is that of the second study to the first: the mean over users, with Student's t interval, and
the p value of sign flips, corrected for the number of pairs (docs/statistics.md); and the mean over samples. Examples:

    usertune compare results /old/results
    usertune compare results /old/results --pair lora=lora_rank64 --csv comparison.csv

Exit code: 0, or 2 if the two cannot be compared.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from usertune.core.files import write_text

if TYPE_CHECKING:
    import pandas as pd

    from usertune.exchange.compare_studies import Results


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``usertune compare``."""
    parser.add_argument("first", type=Path, metavar="RESULTS", help="results folder of the first study")
    parser.add_argument("second", type=Path, metavar="RESULTS", help="results folder of the second study")
    parser.add_argument(
        "--pair", action="append", default=[], metavar="ONE=OTHER", help="experiments to compare; can be repeated"
    )
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the table with all digits")


def run(arguments: argparse.Namespace) -> None:
    """Print the comparison."""
    # Imported here, because it imports pandas.
    from usertune.exchange.compare_studies import Results, comparison, differences, overlap_of, pairs_of

    first, second = Results(arguments.first), Results(arguments.second)
    pairs, shared = pairs_of(first, second, arguments.pair), overlap_of(first, second)
    found = comparison(first, second, pairs, shared)
    if arguments.csv:
        write_text(arguments.csv, found.to_csv(index=False, lineterminator="\n"))
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"first:  {first.folder}\nsecond: {second.folder}", markup=False)
    left_out = f"; {shared.changed} with another question or expected answer are left out" if shared.changed else ""
    console.print(
        f"{len(shared.keys):,} samples of {shared.users} users are in both{left_out}; {shared.only_first:,} are in the "
        f"first alone, {shared.only_second:,} in the second alone",
        markup=False,
    )
    console.print(_table(first, found))
    said = list(differences(first, second))
    console.print(
        "What differs:" if said else "Experiments, settings, base model, users, data, code and packages are the same."
    )
    for kind, text in said:
        console.print(f"  {kind:<11}  {text}", markup=False)


def _table(first: Results, found: pd.DataFrame) -> Table:
    from usertune.exchange.compare_studies import shown_rows

    metric = first.primary
    level = f"{100 * first.recipe.confidence:g} % interval"
    table = Table(title=f"{metric.heading}, mean over users on these samples", box=None, title_justify="left")
    for heading in ("experiment", "first", "second", "difference", level, "p, corrected", "over samples", "parsed"):
        table.add_column(heading, justify="left" if heading == "experiment" else "right", no_wrap=True)
    for row in shown_rows(metric, found):
        table.add_row(*row.values())
    return table

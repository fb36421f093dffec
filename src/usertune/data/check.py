"""Check the raw data of many users at once, without writing anything."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache, partial
from pathlib import Path

from usertune.core.errors import UserError
from usertune.data.folds import FoldSettings
from usertune.data.prepare import ADVICE, check_user
from usertune.data.reader import Reader
from usertune.data.readers.catalogue import get_reader
from usertune.data.recipe import PrepareRecipe

LINES_OF_A_USER = 6


def bad_users(
    recipe: PrepareRecipe,
    root: Path,
    users: Sequence[str],
    processes: int,
    folds: Mapping[str, FoldSettings] | None = None,
) -> dict[str, str]:
    """Check users' raw data, as `usertune.data.prepare.prepare_user` does.

    Args:
        recipe: how the samples are read and checked.
        root: folder of the raw data.
        users: ids of the users to check.
        processes: number of users to check at once.
        folds: user -> how later steps will cut the user's samples into folds, for those whose samples they will cut.

    Returns:
        User -> problems, for users with unusable data, in the order of ``users``.
    """
    problem = partial(_problem, recipe, root)
    executor = ProcessPoolExecutor(min(processes, len(users)) or 1, initializer=_die_of_signals)
    try:
        found = dict(zip(users, executor.map(problem, users, map((folds or {}).get, users)), strict=True))
    finally:
        executor.shutdown(wait=False, cancel_futures=True)
    return {user: text for user, text in found.items() if text}


def in_words(bad: Mapping[str, str], checked: int) -> str:
    """Return the result of `bad_users` as text for people.

    Args:
        bad: user -> problems.
        checked: number of users that were checked.
    """
    if not bad:
        return f"the data of all {checked} users passed the checks"
    lines = [f"the data of {len(bad)} of {checked} users did not pass the checks:"]
    advice = False
    for user, text in bad.items():
        problems = [line for line in text.splitlines() if line != ADVICE]
        advice |= ADVICE in text
        rest = len(problems) - LINES_OF_A_USER
        if rest > 0:
            problems[LINES_OF_A_USER:] = [f"... and {rest} more lines for this user"]
        lines += [f"user {user}:", *(f"  {problem}" for problem in problems)]
    return "\n".join([*lines, *([ADVICE] if advice else [])])


def _problem(recipe: PrepareRecipe, root: Path, user: str, folds: FoldSettings | None) -> str:
    try:
        check_user(recipe, root, user, _reader(recipe.text(), root), folds=folds)
    except UserError as error:
        return str(error)
    return ""


@lru_cache(maxsize=1)
def _reader(recipe: str, root: Path) -> Reader:
    """Return the reader that a process uses for all its users."""
    settings = PrepareRecipe.parse(recipe)
    return get_reader(settings.format, root, settings.options)


def _die_of_signals() -> None:
    # The parent process reports the signal; otherwise each process would print a traceback too.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)

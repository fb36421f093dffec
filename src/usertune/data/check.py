"""Checking the raw data of many users at once, without writing anything: what is wrong with whose."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from usertune.core.errors import UserError
from usertune.data.prepare import ADVICE, check_user
from usertune.data.recipe import PrepareRecipe

LINES_OF_A_USER = 6


def bad_users(recipe: PrepareRecipe, root: Path, users: Sequence[str], processes: int) -> dict[str, str]:
    """Check users' raw data, as `usertune.data.prepare.prepare_user` would.

    Args:
        recipe: how the samples are read and checked.
        root: folder of the raw data.
        users: whose data.
        processes: how many users are checked at once.

    Returns:
        For each user whose data cannot be used, in the order of ``users``, what is wrong with them.
    """
    problem = partial(_problem, recipe, root)
    executor = ProcessPoolExecutor(min(processes, len(users)) or 1, initializer=_die_of_signals)
    try:
        found = dict(zip(users, executor.map(problem, users), strict=True))
    finally:
        executor.shutdown(wait=False, cancel_futures=True)
    return {user: text for user, text in found.items() if text}


def in_words(bad: Mapping[str, str], checked: int) -> str:
    """Return what `bad_users` found as text for people."""
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


def _problem(recipe: PrepareRecipe, root: Path, user: str) -> str:
    try:
        check_user(recipe, root, user)
    except UserError as error:
        return str(error)
    return ""


def _die_of_signals() -> None:
    # The process that started this one reports the signal; here it would be a traceback for every process.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)

"""The warning about answers that could not be read, given before more GPU time is spent on the same mistake."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from usertune.core.formatting import printable
from usertune.evaluation.answers import Answer

logger = logging.getLogger(__name__)

ANSWERS_SHOWN = 3
LONGEST_ANSWER = 160


def warn_of_unread(
    metrics: Mapping[str, Any], rows_file: Path, answers: Mapping[str, Answer], expected_parse_rate: float
) -> None:
    """Warn that too few of a user's answers could be read, and show some that could not.

    Args:
        metrics: the result of `usertune.evaluation.score.score_user`.
        rows_file: the rows of the score, with ``id`` and ``parsed`` (0 or 1).
        answers: this user's answers, by sample id.
        expected_parse_rate: the share of answers, 0 to 1, that should be readable.
    """
    with rows_file.open(encoding="utf-8", newline="") as lines:
        unread = [row["id"] for row in csv.DictReader(lines) if row["parsed"] == "0"]
    shown = "\n".join(f"  {identity}: {quoted(answers[identity].text)}" for identity in unread[:ANSWERS_SHOWN])
    logger.warning(
        "warning: %s, user %s: only %d of %d answers could be read (evaluation.expected_parse_rate: %g). Does the "
        "prompt (dataset.prompt) ask for the form that docs/data.md describes, and is max_new_tokens enough? Some of "
        "the others:\n%s",
        metrics["experiment"],
        metrics["user"],
        metrics["parsed"],
        metrics["samples"],
        expected_parse_rate,
        shown,
    )


def quoted(text: str) -> str:
    """Return a text in quotes, on one line, shortened, and without control characters for terminals."""
    cut = text if len(text) <= LONGEST_ANSWER else f"{text[:LONGEST_ANSWER]}..."
    return printable(json.dumps(cut, ensure_ascii=False))

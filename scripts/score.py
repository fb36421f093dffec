r"""Score one experiment's predictions for one user: a CSV with a row per sample, and a JSON with the metrics.

Distances are measured in the relative 0-1000 space of the answers. An answer that cannot be read counts as a
miss and has no distance. Example:

    python scripts/score.py --recipe '{"step": "score", "task": "grounding", "thresholds": [140]}' \
        --experiment lora --user 7 --samples results/data/user_7.jsonl \
        --predictions results/predictions/lora/users_6-10.json \
        --rows results/scores/lora/user_7.csv --metrics results/scores/lora/user_7.json --store results/store/scores
"""

from __future__ import annotations

import argparse
from pathlib import Path

import environment  # noqa: F401

from usertune.core.manifest import read_result
from usertune.evaluation.score import answers_of_user, score_user
from usertune.evaluation.thresholds import metrics_of
from usertune.evaluation.unread import warn_of_unread
from usertune.runtime import step_main


def main(arguments: argparse.Namespace) -> None:
    score = score_user(
        arguments.recipe,
        arguments.experiment,
        arguments.user,
        arguments.samples,
        arguments.predictions,
        arguments.rows,
        arguments.metrics,
        arguments.store,
    )
    primary = metrics_of(arguments.recipe)[0]
    step_main.logger.info(
        "%s, user %s: %d of %d answers parsed, %s %s",
        arguments.experiment,
        arguments.user,
        score["parsed"],
        score["samples"],
        primary.title,
        f"{primary.text(primary.of(score))} {primary.unit}".rstrip(),
    )
    if score["parse_rate"] < arguments.expected_parse_rate:
        predictions = read_result(arguments.predictions)
        answers = answers_of_user(predictions, arguments.predictions, arguments.experiment, arguments.user)
        warn_of_unread(score, arguments.rows, answers, arguments.expected_parse_rate)


if __name__ == "__main__":
    parser = step_main.argument_parser(__doc__)
    step_main.add_recipe(
        parser, 'keys: "step", "task", "thresholds" (the first is the primary one), "code", "upstream"'
    )
    parser.add_argument("--experiment", required=True, metavar="NAME", help="the experiment to score")
    parser.add_argument("--user", required=True, metavar="ID", help="the user to score")
    parser.add_argument("--samples", required=True, type=Path, metavar="JSONL", help="the user's canonical samples")
    parser.add_argument(
        "--predictions", required=True, type=Path, metavar="JSON", help="predictions of the user's batch"
    )
    parser.add_argument("--rows", required=True, type=Path, metavar="CSV", help="output: one row per sample")
    parser.add_argument("--metrics", required=True, type=Path, metavar="JSON", help="output: the user's metrics")
    parser.add_argument("--store", required=True, type=Path, metavar="FOLDER", help="every score, by its fingerprint")
    parser.add_argument(
        "--expected-parse-rate",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="warn, with three of the answers, where fewer of them could be read (0 to 1; default: 0, never)",
    )
    step_main.run(parser, main)

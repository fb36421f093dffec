r"""Score one experiment's predictions: write a CSV with a row per sample and a JSON with the metrics for each user.

Distances are in the relative 0-1000 coordinates of the answers. An answer that cannot be parsed counts as a miss and
has no distance. Example:

    python scripts/score.py --recipe '{"step": "score", "task": "grounding", "thresholds": [140]}' \
        --experiment lora --users 6-10 --samples 'results/data/user_{user}.jsonl' \
        --predictions results/predictions/lora/users_6-10.json --rows 'results/scores/lora/user_{user}.csv' \
        --metrics 'results/scores/lora/user_{user}.json' --store results/store/scores
"""

from __future__ import annotations

import argparse
from pathlib import Path

import environment  # noqa: F401

from usertune.core.manifest import read_result
from usertune.evaluation.answers import answers_of_user
from usertune.evaluation.recipe import ScoreRecipe
from usertune.evaluation.score import ScoreFiles, score_user
from usertune.evaluation.unread import warn_of_unread
from usertune.runtime import step_main
from usertune.runtime.step_main import of_user


def main(arguments: argparse.Namespace) -> None:
    step_main.for_each_user(arguments.users, arguments.user_log, lambda user: score_one(arguments, user))


def score_one(arguments: argparse.Namespace, user: str) -> None:
    rows_file = of_user(arguments.rows, user)
    files = ScoreFiles(
        samples=of_user(arguments.samples, user),
        predictions=arguments.predictions,
        rows=rows_file,
        metrics=of_user(arguments.metrics, user),
        store=arguments.store,
    )
    score = score_user(arguments.recipe, arguments.experiment, user, files)
    primary = arguments.recipe.metrics[0]
    step_main.logger.info(
        "%s, user %s: %d of %d answers parsed, %s %s",
        arguments.experiment,
        user,
        score["parsed"],
        score["samples"],
        primary.title,
        f"{primary.text(primary.of(score))} {primary.unit}".rstrip(),
    )
    if score["parse_rate"] < arguments.expected_parse_rate:
        predictions = read_result(arguments.predictions)
        answers = answers_of_user(predictions, arguments.predictions, arguments.experiment, user)
        warn_of_unread(score, rows_file, answers, arguments.expected_parse_rate)


if __name__ == "__main__":
    parser = step_main.argument_parser(__doc__)
    step_main.add_recipe(parser, ScoreRecipe)
    parser.add_argument("--experiment", required=True, metavar="NAME", help="the experiment to score")
    step_main.add_users(parser)
    parser.add_argument("--samples", required=True, metavar="JSONL", help="canonical samples of each user")
    parser.add_argument(
        "--predictions", required=True, type=Path, metavar="JSON", help="predictions of the users' batch"
    )
    parser.add_argument("--rows", required=True, metavar="CSV", help="output for each user: one row per sample")
    parser.add_argument("--metrics", required=True, metavar="JSON", help="output for each user: the metrics")
    parser.add_argument(
        "--store", required=True, type=Path, metavar="FOLDER", help="store of all scores, by fingerprint"
    )
    parser.add_argument(
        "--expected-parse-rate",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="warn, with three examples, if a smaller share of answers could be parsed (0 to 1; default: 0, never)",
    )
    step_main.run(parser, main, record=False)

"""Collect one experiment's predictions for a batch of users; generate only those that the store does not have.

Every generated batch is stored at once: after a kill, a rerun repeats at most one batch.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import environment  # noqa: F401

from usertune.inference.generate import Means
from usertune.inference.other_jobs import Others, SharedBase
from usertune.inference.predict import predict_users
from usertune.inference.predict_job import PredictFiles
from usertune.inference.recipe import PredictRecipe
from usertune.runtime import step_main


def main(arguments: argparse.Namespace) -> None:
    files = PredictFiles(
        base_model=arguments.base_model,
        weights=arguments.weights,
        start=arguments.start,
        users=arguments.users,
        dataset_root=arguments.root,
        store=arguments.store,
        predictions=arguments.predictions,
        context=arguments.context,
    )
    means = Means(arguments.batch_size, arguments.gpus, arguments.engine)
    others = Others.of(arguments.shared_base, files.predictions, arguments.minutes_for_others)
    predict_users(arguments.recipe, arguments.experiment, files, means, others)


if __name__ == "__main__":
    parser = step_main.argument_parser(__doc__)
    step_main.add_recipe(parser, PredictRecipe)
    parser.add_argument("--experiment", required=True, metavar="NAME", help="name of the experiment")
    parser.add_argument("--base-model", type=Path, required=True, metavar="JSON", help="manifest of the base model")
    step_main.add_list(parser, "--weights", "the manifests of trained weights (none for vanilla)", required=False)
    parser.add_argument("--start", type=Path, metavar="JSON", help="manifest of the weights that training started from")
    step_main.add_list(parser, "--users", "the manifests of the users' data")
    step_main.add_list(parser, "--context", "the manifests of other users' data for prompts", required=False)
    parser.add_argument("--root", type=Path, required=True, metavar="FOLDER", help="folder of the raw data")
    parser.add_argument("--store", type=Path, required=True, metavar="FOLDER", help="folder of the prediction store")
    parser.add_argument("--batch-size", type=int, default=8, help="samples at once (default: 8); 0 generates none")
    parser.add_argument("--gpus", type=int, default=0, help="GPUs to hold; 0 (default) generates on the CPU")
    parser.add_argument(
        "--engine", type=json.loads, default={}, metavar="JSON", help="settings of the engine that change no answer"
    )
    step_main.add_settings(parser, "--shared-base", SharedBase, required=False)
    parser.add_argument(
        "--minutes-for-others",
        type=int,
        default=0,
        metavar="MINUTES",
        help="time after which it turns to no other job of --shared-base; 0 (default): to none",
    )
    parser.add_argument("--predictions", type=Path, required=True, metavar="JSON", help="predictions to write")
    step_main.run(parser, main)

"""Fine-tune on folds of test users' own samples, one training for each user and fold, or for each fold of all users.

Trainings that are complete are kept, and an interrupted one continues from its last working checkpoint when the same
command runs again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import environment  # noqa: F401

from usertune.runtime import job_record, step_main
from usertune.runtime.step_main import of_user
from usertune.training.recipe import Execution, TrainFoldsRecipe
from usertune.training.train_folds import FoldFiles, FoldJob


def main(arguments: argparse.Namespace) -> None:
    files = FoldFiles(
        base_model=arguments.base_model,
        start=arguments.start,
        dataset_root=arguments.root,
        manifest=arguments.manifest,
        losses=arguments.losses,
    )
    recipe = arguments.recipe
    with FoldJob(recipe, arguments.execution, arguments.experiment, files, arguments.gpus, arguments.attempt) as job:
        data = {user: of_user(arguments.data, user) for user in arguments.users}
        if recipe.scope == "pooled":
            with job_record.kept(arguments.log):
                job.train(list(data.values()))
        else:
            step_main.for_each_user(arguments.users, arguments.user_log, lambda user: job.train([data[user]]))


if __name__ == "__main__":
    parser = step_main.argument_parser(__doc__)
    step_main.add_recipe(parser, TrainFoldsRecipe)
    step_main.add_settings(parser, "--execution", Execution)
    parser.add_argument(
        "--attempt", type=int, default=1, help="1, 2, ...; after an out-of-memory attempt, the next takes fewer samples"
    )
    parser.add_argument("--experiment", required=True, metavar="NAME", help="name of the experiment")
    parser.add_argument("--base-model", type=Path, required=True, metavar="JSON", help="manifest of the base model")
    parser.add_argument(
        "--start", type=Path, metavar="JSON", help="manifest of the training to start from; default: the base model"
    )
    step_main.add_users(parser)
    parser.add_argument("--data", required=True, metavar="JSON", help="manifest of each user's data; {user} is the id")
    parser.add_argument("--root", type=Path, required=True, metavar="FOLDER", help="folder of the raw data")
    parser.add_argument("--gpus", type=int, default=0, help="GPUs to hold; 0 (default) trains on the CPU")
    parser.add_argument(
        "--manifest", required=True, metavar="JSON", help="manifest to write; {user} is the user, or the label of all"
    )
    parser.add_argument("--losses", required=True, metavar="CSV", help="table of losses to write, as --manifest")
    # Each training keeps its own record.
    step_main.run(parser, main, record=False)

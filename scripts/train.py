"""Fine-tune one experiment, unless exactly this training is already complete.

An interrupted training continues from its last working checkpoint when the same command runs again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import environment  # noqa: F401

from usertune.runtime import step_main
from usertune.training.processes import Processes
from usertune.training.recipe import Execution, TrainRecipe
from usertune.training.train import Allotment, TrainFiles, train_experiment


def main(arguments: argparse.Namespace) -> None:
    files = TrainFiles(
        base_model=arguments.base_model,
        train=arguments.train,
        validation=arguments.validation,
        dataset_root=arguments.root,
        manifest=arguments.manifest,
        losses=arguments.losses,
    )
    processes = Processes(arguments.processes, arguments.nodes, arguments.parallel, arguments.threads)
    allotment = Allotment(arguments.gpus, processes, arguments.attempt)
    train_experiment(arguments.recipe, arguments.execution, arguments.experiment, files, allotment)


if __name__ == "__main__":
    parser = step_main.argument_parser(__doc__)
    step_main.add_recipe(parser, TrainRecipe)
    step_main.add_settings(parser, "--execution", Execution)
    parser.add_argument(
        "--attempt", type=int, default=1, help="1, 2, ...; after an out-of-memory attempt, the next takes fewer samples"
    )
    parser.add_argument("--experiment", required=True, metavar="NAME", help="name of the experiment")
    parser.add_argument("--base-model", type=Path, required=True, metavar="JSON", help="manifest of the base model")
    step_main.add_list(parser, "--train", "the manifests of the users to train on")
    step_main.add_list(parser, "--validation", "the manifests of the validation users", required=False)
    parser.add_argument("--root", type=Path, required=True, metavar="FOLDER", help="folder of the raw data")
    parser.add_argument("--gpus", type=int, default=0, help="GPUs to hold; 0 (default) trains on the CPU")
    parser.add_argument("--processes", type=int, default=1, help="processes per node, one for each of its GPUs")
    parser.add_argument("--nodes", type=int, default=1, help="number of nodes of this SLURM job to train on")
    parser.add_argument(
        "--parallel",
        choices=["ddp", "fsdp"],
        default="ddp",
        help="each process holds the full model (ddp), or a shard of it (fsdp)",
    )
    parser.add_argument("--threads", type=int, default=1, help="processor cores per node")
    parser.add_argument("--manifest", type=Path, required=True, metavar="JSON", help="manifest to write")
    parser.add_argument("--losses", type=Path, required=True, metavar="CSV", help="table of losses to write")
    step_main.run(parser, main)

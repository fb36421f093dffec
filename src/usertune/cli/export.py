"""Export prepared samples for other trainers, answers as logs of Inspect, or a trained experiment for a model hub.

Samples are written as ms-swift (swift), LLaMA-Factory (llama-factory) or TRL (trl) read them: one file a split, so
that the same split can be trained elsewhere. Images are named by their paths, or copied by --copy-images.

The answers and scores of all experiments are written as logs of Inspect (inspect), one a log, for its viewer; with
--copy-images smaller copies of the screenshots are in the logs.

An experiment becomes a folder with its adapter or weights, its processor, a model card with the numbers and intervals
of the report, and the study. --merge adds the adapter to the base model. The folder names no path of this machine; the
study in it names the users. Examples:

    usertune export --format swift --to exported/swift --copy-images
    usertune export --format inspect --to exported/inspect --copy-images
    usertune export --experiment lora --to exported/lora --license apache-2.0

Exit code: 0 if the folder was written, else 2.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from usertune.cli.study_arguments import add_study, study_of
from usertune.core.errors import UserError
from usertune.data.writers.catalogue import WRITERS

# The format of answers, in logs that are read and not trained on.
LOGS = "inspect"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``usertune export``."""
    add_study(parser)
    what = parser.add_mutually_exclusive_group(required=True)
    formats = sorted([*WRITERS, LOGS])
    what.add_argument("--format", choices=formats, help="samples as this trainer reads them, or logs of answers")
    what.add_argument("--experiment", metavar="NAME", help="write this trained experiment as a folder for a hub")
    parser.add_argument("--to", required=True, type=Path, metavar="FOLDER", help="folder to write")
    parser.add_argument("--force", action="store_true", help="replace an earlier export")
    samples = parser.add_argument_group("samples")
    samples.add_argument("--copy-images", action="store_true", help="copy the images into FOLDER")

    model = parser.add_argument_group("experiment")
    model.add_argument("--merge", action="store_true", help="add the adapter to the base model and write the sum")
    model.add_argument("--base-model", metavar="OWNER/NAME", help="name of the base model, if the study has a folder")
    model.add_argument("--license", metavar="ID", help="license of the weights, as the hub names it (default: unknown)")


def run(arguments: argparse.Namespace) -> None:
    """Write the folder and say what is in it."""
    of_samples = {"--copy-images": arguments.copy_images}
    of_models = {"--merge": arguments.merge, "--base-model": arguments.base_model, "--license": arguments.license}
    kind, foreign = ("--experiment", of_samples) if arguments.experiment else ("--format", of_models)
    if unused := [option for option, value in foreign.items() if value]:
        raise UserError(f"{unused[0]} has no meaning with {kind}; leave it out")
    study = study_of(arguments)
    if arguments.format == LOGS:
        from usertune.exchange.export_inspect import export_inspect

        print(export_inspect(study, arguments.to, arguments.copy_images, arguments.force))
        return
    if arguments.format:
        from usertune.exchange.export_samples import export_samples

        print(export_samples(study, arguments.format, arguments.to, arguments.copy_images, arguments.force))
        return
    from usertune.exchange.export_model import HubFolder, export_model

    wanted = HubFolder(
        experiment=arguments.experiment,
        folder=arguments.to,
        merge=arguments.merge,
        base_name=arguments.base_model,
        license=arguments.license,
        force=arguments.force,
    )
    print(export_model(study, wanted))

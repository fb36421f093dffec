"""Export prepared samples for other trainers, or a trained experiment as a folder for a model hub.

Samples are written as ms-swift (swift), LLaMA-Factory (llama-factory) or TRL (trl) read them: one file a split, so
that the same split can be trained elsewhere. Images are named by their paths, or copied by --copy-images.

An experiment becomes a folder with its adapter or weights, its processor, a model card with the numbers and intervals
of the report, and the study. --merge adds the adapter to the base model. The folder names no path of this machine; the
study in it names the users. Examples:

    usertune export --format swift --to exported/swift --copy-images
    usertune export --experiment lora --to exported/lora --license apache-2.0

Exit code: 0 if the folder was written, else 2.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from usertune.cli.study_arguments import add_study, study_of
from usertune.data.writers.catalogue import WRITERS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``usertune export``."""
    add_study(parser)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--format", choices=sorted(WRITERS), help="write the samples of all splits as this trainer reads")
    parser.add_argument("--to", required=True, type=Path, metavar="FOLDER", help="folder to write")
    parser.add_argument("--force", action="store_true", help="replace an earlier export")
    samples = parser.add_argument_group("samples")
    samples.add_argument("--copy-images", action="store_true", help="copy the images into FOLDER")


def run(arguments: argparse.Namespace) -> None:
    """Write the folder and say what is in it."""
    from usertune.exchange.export_samples import export_samples

    study = study_of(arguments)
    print(export_samples(study, arguments.format, arguments.to, arguments.copy_images, arguments.force))

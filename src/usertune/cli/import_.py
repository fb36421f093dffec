"""Look at raw data, say what they are, and write a study that runs.

SOURCE is a file or a folder. The command finds the format, counts users, samples and images, opens some samples to see
which coordinate frame their numbers look like, and writes a commented study; nothing is asked, and what the data do
not decide is said in the study. Examples:

    usertune import data/screenspot_desktop_v2.json
    usertune import data/train.json --to mine.yaml --base-model models/Qwen3-VL-2B-Instruct

Exit code: 0 if the study was written, else 2.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``usertune import``."""
    parser.add_argument("source", type=Path, metavar="SOURCE", help="file or folder with the raw data")
    parser.add_argument("--to", type=Path, metavar="YAML", help="study to write (default: named after SOURCE)")
    parser.add_argument("--format", metavar="NAME", help="format of the data (default: the first that fits)")
    parser.add_argument("--base-model", metavar="PATH", help="folder or hub name (default: Qwen/Qwen3-VL-2B-Instruct)")


def run(arguments: argparse.Namespace) -> None:
    """Write the study and say what was found."""
    from usertune.exchange.import_study import BASE_MODEL, import_study

    print(import_study(arguments.source, arguments.to, arguments.format, arguments.base_model or BASE_MODEL))

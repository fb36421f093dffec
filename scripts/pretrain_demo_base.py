"""Make the demo's base model: a tiny real Qwen3-VL that finds coloured icons on generic phone screens.

Writes model, processor, pretraining.json and README.md to OUT. Takes 10-15 minutes on one CPU core;
--threads sets how many are used. The same seed, threads and package versions give the same model.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import environment  # noqa: F401

from usertune.runtime import step_main


def main(arguments: argparse.Namespace) -> None:
    """Pretrain the model as the arguments say."""
    import torch

    from usertune.demo.pretraining import pretrain

    torch.set_num_threads(arguments.threads)
    record = pretrain(arguments.out, arguments.seed, arguments.steps_scale)
    step_main.logger.info("held-out accuracy: %.3f", record["held_out"]["accuracy"])


if __name__ == "__main__":
    parser = step_main.argument_parser(__doc__)
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for the model")
    parser.add_argument("--seed", type=int, default=0, help="decides weights and screens (default: 0)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    parser.add_argument("--steps-scale", type=float, default=1.0, help="multiplies all step counts")
    step_main.run(parser, main)

"""Train with TRL's SFTTrainer, as it is documented for models that see: prompts and completions, its own collator.

PYTHON_WITH_TRL trl_training.py JOB.json OUT.json
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import trl
from datasets import Dataset, Image, List
from packaging.version import Version
from side import Timed, accepted, in_order, model_to_train, run_job, trainer_arguments
from transformers import AutoProcessor
from trl import SFTConfig, SFTTrainer


def measure(job: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    timed = Timed()
    if job["side"] != "trl_as_installed":
        score_labels_only()
    rows = [row(sample, Path(job["root"])) for sample in job["samples"]]
    # Its loss nll computes logits in tiles; chunked_nll was its name before.
    loss = "nll" if Version(trl.__version__) >= Version("1.16") else "chunked_nll"
    arguments = {**trainer_arguments(job, settings), "max_length": None, "loss_type": loss}
    trainer = in_order(SFTTrainer)(
        model=model_to_train(job),
        args=SFTConfig(**accepted(SFTConfig, arguments)),
        train_dataset=Dataset.from_list(rows).cast_column("images", List(Image())),
        processing_class=AutoProcessor.from_pretrained(job["base"], local_files_only=True),
        callbacks=[timed],
    )
    timed.start()
    trainer.train()
    return timed.measured(trainer.state.log_history, len(rows))


def score_labels_only() -> None:
    """Make it compute logits only where labels are, as on a GPU; on a CPU it does so everywhere, which is slower."""
    from trl.trainer import utils

    if hasattr(utils, "_use_triton"):
        utils._use_triton = lambda *_: True


def row(sample: dict[str, Any], root: Path) -> dict[str, Any]:
    asked, answer = sample["messages"]
    (text,) = [part["text"] for part in asked["content"] if part["type"] == "text"]
    return {
        # TRL puts the images before the text.
        "prompt": [{"role": "user", "content": text}],
        "completion": [{"role": "assistant", "content": answer["content"][0]["text"]}],
        "images": [str(root / image["path"]) for image in sample["images"]],
    }


if __name__ == "__main__":
    run_job(measure, ["trl", "torch", "transformers", "peft", "accelerate", "datasets"])

"""Train as the reference experiment does: transformers' Trainer, and the model's own loss with logits of all tokens.

PYTHON reference_training.py JOB.json OUT.json
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from side import IGNORED, Timed, accepted, in_order, model_to_train, run_job, trainer_arguments
from transformers import AutoProcessor, Trainer, TrainingArguments


def measure(job: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    timed = Timed()
    model = model_to_train(job)
    if job["adapter"] and settings["gradient_checkpointing"]:
        model.enable_input_require_grads()
    arguments = accepted(TrainingArguments, trainer_arguments(job, settings))
    trainer = in_order(Trainer)(
        model=model,
        args=TrainingArguments(**arguments),
        train_dataset=job["samples"],
        data_collator=Collator(AutoProcessor.from_pretrained(job["base"], local_files_only=True), Path(job["root"])),
        callbacks=[timed],
    )
    timed.start()
    trainer.train()
    return timed.measured(trainer.state.log_history, len(job["samples"]))


class Collator:
    """Makes batches of conversations, whose labels are the answer, the end of the turn and the newline after it."""

    def __init__(self, processor: Any, root: Path) -> None:
        self.processor, self.root = processor, root

    def __call__(self, samples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Return a batch of samples."""
        template = self.processor.apply_chat_template
        whole = [template(sample["messages"], tokenize=False) for sample in samples]
        asked = [template(sample["messages"][:-1], tokenize=False, add_generation_prompt=True) for sample in samples]
        images = [[Image.open(self.root / one["path"]) for one in sample["images"]] for sample in samples]
        batch = self.processor(text=whole, images=images, padding=True, padding_side="right", return_tensors="pt")
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, IGNORED)
        for number, prompt in enumerate(asked):
            tokens = self.processor(text=[prompt], images=images[number], return_tensors="pt")["input_ids"].shape[1]
            labels[number, :tokens] = IGNORED
        return {**batch, "labels": labels}


if __name__ == "__main__":
    run_job(measure, ["torch", "transformers", "peft", "accelerate"])

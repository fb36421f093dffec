"""Train with ms-swift's SFT, which computes logits only where labels are if it is told to.

PYTHON_WITH_SWIFT swift_training.py JOB.json OUT.json
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from side import Timed, accepted, run_job, trainer_arguments


def measure(job: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    limits = json.loads((Path(job["base"]) / "processor_config.json").read_text())["image_processor"]["size"]
    os.environ["IMAGE_MAX_TOKEN_NUM"] = str(limits["longest_edge"] // 32**2)
    from swift import SftArguments
    from swift.pipelines.train.sft import SwiftSft

    timed = Timed()

    class Watched(SwiftSft):  # type: ignore[misc]
        def _prepare_template(self) -> None:
            super()._prepare_template()
            # It has the id of the real tokenizer, also where the model has another one.
            self.template.image_token_id = self.model.config.image_token_id

        def train(self, trainer: Any) -> Any:
            trainer.add_callback(timed)
            timed.start()
            return super().train(trainer)

    data = Path(job["work"]).with_suffix(".swift.jsonl")
    data.write_text("".join(json.dumps(row(sample, Path(job["root"]))) + "\n" for sample in job["samples"]))
    arguments = {
        **trainer_arguments(job, settings),
        "model": job["base"],
        "model_type": "qwen3_vl",
        "template": "qwen3_vl",
        "torch_dtype": job["dtype"] if job["adapter"] else "float32",
        "attn_impl": "sdpa",
        "tuner_type": "lora" if job["adapter"] else "full",
        "adapters": [job["adapter"]] if job["adapter"] else [],
        "freeze_vit": True,
        "freeze_aligner": True,
        "dataset": [str(data)],
        "split_dataset_ratio": 0.0,
        "dataset_shuffle": False,
        "train_dataloader_shuffle": False,
        "lazy_tokenize": True,
        "load_from_cache_file": False,
        "use_logits_to_keep": True,
        "add_version": False,
    }
    trained = Watched(SftArguments(**accepted(SftArguments, arguments))).main()
    return timed.measured(trained["log_history"], len(job["samples"]))


def row(sample: dict[str, Any], root: Path) -> dict[str, Any]:
    asked, answer = sample["messages"]
    text = "".join("<image>" if part["type"] == "image" else part["text"] for part in asked["content"])
    return {
        "messages": [
            {"role": "user", "content": text},
            {"role": "assistant", "content": answer["content"][0]["text"]},
        ],
        "images": [str(root / image["path"]) for image in sample["images"]],
    }


if __name__ == "__main__":
    run_job(measure, ["ms-swift", "torch", "transformers", "peft", "accelerate"])

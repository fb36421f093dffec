"""Train as a study does, with `usertune.training.finetune.fine_tune`.

python own_training.py JOB.json OUT.json
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any
from unittest.mock import patch

from usertune.runtime.cpu_threads import limit_spinning
from usertune.runtime.large_imports import large_imports

# As the jobs of a study do, before torch is imported.
limit_spinning()
with large_imports():
    from side import Timed, run_job

    from usertune.training import finetune


def measure(job: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    from peft import load_peft_weights, set_peft_model_state_dict

    from usertune.models.loading import prepare_for_training

    timed = Timed()
    train = finetune._run
    history: list[dict[str, Any]] = []

    def prepared(*arguments: Any) -> Any:
        model = prepare_for_training(*arguments)
        if job["adapter"]:
            set_peft_model_state_dict(model, load_peft_weights(job["adapter"], device="cpu"))
        # All that is prepared once the model is loaded counts, such as tokens.
        timed.start()
        return model

    def watched(trainer: Any, *rest: Any) -> None:
        # The first one: what others do after a step, such as a look at the weights after the last, is no part of it.
        trainer.callback_handler.callbacks.insert(0, timed)
        train(trainer, *rest)
        history.extend(trainer.state.log_history)

    work = Path(job["work"])
    shutil.rmtree(work, ignore_errors=True)
    with patch.object(finetune, "prepare_for_training", prepared), patch.object(finetune, "_run", watched):
        finetune.fine_tune(run_of(job, settings), work / "work", work / "weights", work / "losses.csv")
    return timed.measured(history, job["epochs"] * len(job["samples"]))


def run_of(job: dict[str, Any], settings: dict[str, Any]) -> Any:
    from usertune.training.inputs import FineTuning
    from usertune.training.recipe import Execution, TrainRecipe

    weights = (
        {"lora": {"rank": job["rank"], "alpha": job["alpha"], "dropout": job["dropout"]}}
        if job["adapter"]
        else {"freeze": {"vision": True, "merger": True}}
    )
    recipe = {
        "step": "train",
        "mode": "lora" if job["adapter"] else "full",
        "dtype": job["dtype"],
        "training": {
            "epochs": job["epochs"], "learning_rate": job["learning_rate"], "schedule": "linear", "warmup_steps": 0,
            "weight_decay": 0.01, "max_grad_norm": 1.0, "batch_size": job["batch_size"], "seed": 0, **weights,
        },
    }  # fmt: skip
    execution = Execution.model_validate({"save_every_steps": 100, "image_memory": "auto", **settings})
    return FineTuning(
        TrainRecipe.model_validate(recipe), execution, Path(job["base"]), Path(job["root"]), job["samples"], []
    )


if __name__ == "__main__":
    run_job(measure, ["torch", "transformers", "peft", "accelerate"])

"""Stand-ins for the models, which would need torch, and for the drawing of figures, which would take long."""

from __future__ import annotations

import json
import math
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from usertune.core.files import write_text
from usertune.data.samples import Sample
from usertune.inference.engine import EngineSettings
from usertune.inference.prediction_store import Prediction
from usertune.inference.questions import Question
from usertune.reporting.figure_files import figure_files
from usertune.study.schema.experiment import LEARNING_RATES
from usertune.training.kept_files import kept_folder

# Chance of a hit in each mode.
SKILL = {"vanilla": 0.2, "lora": 0.5, "full": 0.8}
# What an answer takes.
SECONDS = 0.25
MEASURED = {
    "wall_seconds": 8123.4,
    "steps": 30,
    "samples_per_second": 0.1,
    "tokens_per_second": 100.5,
    "peak_memory_bytes": None,
    "trainable_parameters": 8_190_735_360,
    "final_validation_loss": 0.5,
    "weights_moved": 0.0123,
}


class StandInEngine:
    """Answers with the mode's `SKILL`; every tenth vanilla answer cannot be parsed."""

    generated = 0

    def __init__(self, settings: EngineSettings, hostile: str = "") -> None:
        self.mode, self.hostile, self.draw = settings.mode, hostile, settings.mode
        # Weights from elsewhere have other files.
        own = settings.weights_folder / "weights.safetensors" if settings.weights_folder is not None else None
        if own is not None and own.exists():
            _, training, *_ = json.loads(own.read_text())
            self.draw += f" seed {training['seed']}" * (training["seed"] > 0)

    def identity(self) -> str:
        return "cpu"

    def gpus(self) -> list[str]:
        return []

    def answer(self, questions: Sequence[Question], batch_size: int) -> Iterator[list[tuple[Question, Prediction]]]:
        for start in range(0, len(questions), batch_size):
            batch = questions[start : start + batch_size]
            StandInEngine.generated += len(batch)
            yield [(question, self._prediction(question.sample)) for question in batch]

    def effects(self, questions: Sequence[Question]) -> Mapping[str, Mapping[str, Any]]:
        models = dict.fromkeys(question.model for question in questions) if self.mode == "lora" else {}
        return {model: {"probes": len(questions[:4]), "largest_change": 2.5} for model in models}

    def _prediction(self, sample: Sample) -> Prediction:
        x, y = sample["target"]["point"]
        off = 30 if random.Random(f"{self.draw} {sample['id']}").random() < SKILL[self.mode] else 400
        text = f"```referring\nicon4\n```\n```grounding\n[{x}, {y + off + 0.5}]\n```"
        if self.mode == "vanilla" and sample["step"] % 10 == 0:
            text = f"I cannot see it. {self.hostile}"
        stopped, at = sample["step"] > 0, f"2026-03-04T10:{sample['step'] // 60:02}:{sample['step'] % 60:02}+00:00"
        return Prediction(text, new_tokens=20, stopped=stopped, seconds=SECONDS, at=at)


class StandInTrainer:
    """Writes weights and losses, the same for the same settings."""

    trained = 0

    @staticmethod
    def fine_tune(run: Any, work: Path, weights_folder: Path, log_file: Path, stop: object) -> dict[str, Any]:
        StandInTrainer.trained += 1
        weights_folder.mkdir(exist_ok=True)
        settings = json.dumps([run.recipe.mode, run.recipe.training.as_json(), run.train_samples], sort_keys=True)
        (weights_folder / "weights.safetensors").write_text(settings)
        (weights_folder / "README.md").write_text("weights")
        for step in run.recipe.keep_checkpoints:
            kept_folder(work, step).mkdir(exist_ok=True)
            (kept_folder(work, step) / "weights.safetensors").write_text(json.dumps([*json.loads(settings), step]))
        train = [f"{step},{step / 30},train,{2 / step},1e-6\n" for step in range(1, 31)]
        write_text(log_file, "step,epoch,split,loss,learning_rate\n" + "".join(train) + "30,1,validation,0.5,\n")
        loss = 0.5 + 0.1 * abs(math.log10(run.recipe.training.learning_rate / LEARNING_RATES[run.recipe.mode]))
        measured = {**MEASURED, "final_validation_loss": loss + 0.001 * run.recipe.training.seed}
        asked = run.execution.micro_batch_size
        return {**measured, "micro_batch_size": 1 if asked == "auto" else asked, "device": "cpu"}


@contextmanager
def without_a_model(hostile: str = "") -> Iterator[None]:
    """Give training and prediction the stand-ins while the block runs, so that they import no torch."""
    stand_ins: dict[str, dict[str, Any]] = {
        "usertune.training.finetune": {"fine_tune": StandInTrainer.fine_tune},
        "usertune.inference.engines.transformers": {"TransformersEngine": partial(StandInEngine, hostile=hostile)},
        "usertune.models.loading": {"device_name": lambda: "cpu", "load_start": lambda *_: None},
        "usertune.models.reused": {"ReusedModel": lambda load: None},
    }
    before = {name: sys.modules.get(name) for name in stand_ins}
    for name, contents in stand_ins.items():
        sys.modules[name] = ModuleType(name)
        vars(sys.modules[name]).update(contents)
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def write_stand_in(_draw: object, subject: Any, name: str, folder: Path) -> list[Path]:
    """Write the files of a figure, which name it and its colours."""
    colours = " ".join(style.colour for style in subject.styles.values())
    written = [folder / file for file in figure_files(name).values()]
    for path in written:
        write_text(path, f"<svg xmlns='http://www.w3.org/2000/svg'><desc>{path.name} {colours}</desc></svg>\n")
    return written

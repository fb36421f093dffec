"""Rows of the report's section on training and answers: their outcome; what they cost is in the table of costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from usertune.core import formatting
from usertune.evaluation.groups import validation_loss
from usertune.models.movement import did_not_move
from usertune.reporting.cost import answer_lengths

# The value in the manifest of a training that was not stopped early.
ALL_STEPS = "after all steps"


def training_row(name: str, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return the row of a trained experiment, from the manifest of its training, or of its trainings as one.

    The loss belongs to the weights that are used; if these are not the last ones, ``last_loss`` and ``kept`` are set.
    """
    steps, last = (manifest.get(key) for key in ("steps", "final_validation_loss"))
    kept, loss = manifest.get("kept_step", steps), validation_loss(manifest)
    ended = manifest.get("ended", ALL_STEPS)
    return {
        "experiment": name,
        "trainings": manifest.get("trainings", 1),
        "samples": _number(manifest.get("train_samples")),
        "steps": _number(steps),
        "kept": "" if kept == steps else f"weights of step {kept:,}",
        "attempts": manifest.get("attempts", 1),
        "tokens_per_second": _number(manifest.get("tokens_per_second")),
        "loss": _loss(loss),
        "last_loss": "" if kept == steps else f"last {_loss(last)}",
        "moved": _moved(manifest),
        "not_moved": did_not_move(manifest),
        "ended_early": "" if ended == ALL_STEPS else ended,
    }


def _loss(loss: float | None) -> str:
    return formatting.NOT_AVAILABLE if loss is None else f"{loss:.4f}"


def _moved(manifest: Mapping[str, Any]) -> str:
    moved = manifest.get("weights_moved")
    if did_not_move(manifest):
        return f"did not move ({moved:.0e})"
    return formatting.NOT_AVAILABLE if moved is None else f"{100 * moved:.3g} %"


def answer_row(name: str, predictions: Sequence[Mapping[str, Any]], samples: pd.DataFrame) -> dict[str, str]:
    """Return the row of an experiment's answers, from all predictions and the table of scored samples."""
    batches = [batch for batch in predictions if batch["experiment"] == name]
    answers = [answer for batch in batches for answer in batch["predictions"]]
    lengths = answer_lengths(batches)
    own = samples[samples["experiment"] == name]
    return {
        "experiment": name,
        "answers": _number(len(own)),
        "unparsed": _number(int((own["parsed"] == 0).sum())),
        "cut_off": _number(sum(answer.get("stopped") is False for answer in answers)),
        "tokens": _number(sum(lengths) / len(lengths), 1) if lengths else formatting.NOT_AVAILABLE,
        "effect": _effect_text(effect_of(batches)),
    }


def effect_of(batches: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Return how much the trained weights changed the base model's answers; None if unknown.

    Of several adapters (``adapters`` is set), it is the one that changes them least.
    """
    effects: list[Mapping[str, Any]] = [
        batch["adapter_effect"] for batch in reversed(batches) if batch.get("adapter_effect")
    ]
    if several := [effect for effect in effects if "adapters" in effect]:
        return min(several, key=lambda effect: effect["largest_change"])
    return next(iter(effects), None)


def cautions(
    trainings: Mapping[str, Mapping[str, Any]], predictions: Sequence[Mapping[str, Any]]
) -> list[tuple[str, str]]:
    """Return (experiment, reason) for trained experiments that give the same answers as the base model."""
    found = []
    for name in dict.fromkeys([*trainings, *(batch["experiment"] for batch in predictions)]):
        effect = effect_of([batch for batch in predictions if batch["experiment"] == name])
        if name in trainings and did_not_move(trainings[name]):
            found.append((name, "training did not move its weights; train longer, or with a higher learning rate"))
        elif effect and effect["largest_change"] == 0:
            whose = "one of its adapters changes" if "adapters" in effect else "its weights change"
            more = "; train longer, or with a higher learning rate" if name in trainings else ""
            found.append((name, f"{whose} no answer{more}"))
    return found


def _effect_text(effect: Mapping[str, Any] | None) -> str:
    return "\N{EN DASH}" if effect is None else f"{effect['largest_change']:.2g}"


def _number(value: float | None, digits: int = 0) -> str:
    return formatting.NOT_AVAILABLE if value is None else f"{value:,.{digits}f}"

"""Rows of the report's section on the study: base model, data, splits, settings and dates.

All values come from the manifests of the results, which the audit has compared with the study, so the report says
what was done, not what was requested.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from usertune.core import formatting
from usertune.core.formatting import NOT_AVAILABLE
from usertune.core.hashing import NOT_IN_FINGERPRINT
from usertune.core.step_names import PREDICT, TRAIN
from usertune.core.users import parse_users

Manifest = Mapping[str, Any]
Row = dict[str, Any]

NONE = "\N{EN DASH}"
SPLIT_ORDER = ("train", "validation", "test")
# Keys of recipes that have another name in the study.
STUDY_KEYS = {"pixels.min": "min_pixels", "pixels.max": "max_pixels"}
# The order in the report, without the prefix "training."; other keys follow in alphabetical order.
ORDER = (
    "mode", "scope", "start", "folds.count", "folds.by", "folds.seed", "samples", "epochs", "learning_rate",
    "schedule", "warmup", "warmup_steps", "batch_size", "weight_decay", "max_grad_norm", "seed", "lora.rank",
    "lora.alpha", "lora.dropout", "freeze.vision", "freeze.merger", "keep", "early_stopping", "dtype", "min_pixels",
    "max_pixels", "max_new_tokens",
)  # fmt: skip
# Values that the recipe of a training leaves out because they are the default.
UNSAID = {"keep": "last", "early_stopping": None}
# Not settings, or shown elsewhere in the report.
HIDDEN = frozenset({"step", "mode", "users", "code", "task", "context_users", *NOT_IN_FINGERPRINT})


def base_model_rows(manifest: Manifest) -> list[tuple[str, str]]:
    """Return the base model as (label, value): what the study says, and what was found in its files."""
    recipe, about = manifest.get("recipe", {}), manifest.get("about", {})
    asked, commit = recipe.get("revision"), about.get("commit")
    return [
        ("base model", str(recipe.get("path", NOT_AVAILABLE))),
        ("revision asked for", NONE if asked is None else str(asked)),
        ("commit on the hub", NOT_AVAILABLE if commit is None else str(commit)),
        ("type", str(about.get("model_type", NOT_AVAILABLE))),
        ("parameters", formatting.count(about.get("parameters"))),
        ("fingerprint of its files", str(manifest.get("output", NOT_AVAILABLE))),
    ]


def data_rows(dataset: Mapping[str, Any], thresholds: Sequence[str], confidence: float | None) -> list[tuple[str, str]]:
    """Return how the data were read and the answers measured, as (key of the study, value)."""
    rows = [(f"dataset.{key}", value_text(value)) for key, value in _flat(dataset) if key not in HIDDEN]
    rows.append(("evaluation.thresholds", ", ".join(thresholds)))
    return [*rows, ("evaluation.confidence", value_text(confidence))]


def split_rows(splits: Mapping[str, str], trainings: Mapping[str, Manifest], test_samples: int) -> list[Row]:
    """Return one row for each split: its users and the number of samples used.

    Args:
        splits: the users of each split, in the short notation.
        trainings: the training manifests, with the number of samples of the other splits.
        test_samples: samples that every experiment answered.
    """
    trained: Manifest = next(iter(trainings.values()), {})
    samples = {"test": test_samples, **{split: trained.get(f"{split}_samples") for split in splits if split != "test"}}
    return [
        {
            "split": split,
            "users": users or NONE,
            "count": f"{len(parse_users(users)) if users else 0:,}",
            "samples": "not used" if users and samples[split] is None else f"{samples[split] or 0:,}",
        }
        for split, users in sorted(splits.items(), key=lambda item: SPLIT_ORDER.index(item[0]))
    ]


def setting_rows(
    modes: Mapping[str, str], trainings: Mapping[str, Manifest], predictions: Iterable[Manifest]
) -> list[Row]:
    """Return one row for each setting: its value in every experiment, and whether the values differ.

    Args:
        modes: the mode of each experiment, in the order of the report.
        trainings: the training manifests, by experiment.
        predictions: the predictions of every experiment; those of one experiment share a recipe.
    """
    found: dict[str, dict[str, Any]] = {name: {"mode": mode} for name, mode in modes.items()}
    sizes: dict[str, set[int | None]] = {name: set() for name in modes}
    for batch in predictions:
        found[batch["experiment"]] |= _of_recipe(batch["recipe"])
        sizes[batch["experiment"]] |= set(batch.get("batch_sizes", []))
    for name, used in sizes.items():
        if used:
            # Under bfloat16 the size changes the last digits and thus a few answers (docs/reproducibility.md).
            texts = ["n/a" if size is None else str(size) for size in sorted(used, key=_or_zero)]
            found[name]["answers at once"] = ", ".join(texts)
    for name, manifest in trainings.items():
        found[name] |= UNSAID | _of_recipe(manifest["recipe"]) | _execution(manifest)
    keys = {key for settings in found.values() for key in settings}
    rows = []
    for key in sorted(keys, key=_rank):
        cells = [value_text(settings[key]) if key in settings else NONE for settings in found.values()]
        own = {value_text(settings[key]) for settings in found.values() if key in settings}
        rows.append({"key": key, "cells": cells, "differs": len(own) > 1})
    return rows


def times_of(trainings: Mapping[str, Manifest], predictions: Sequence[Manifest]) -> dict[str, dict[str, list[str]]]:
    """Return for each experiment when its training ended (``train``) and its answers were generated (``predict``).

    A training has one time; trainings on folds and predictions have their first and last. Steps without known times are
    left out.
    """
    found: dict[str, dict[str, list[str]]] = {}
    for name, manifest in trainings.items():
        if times := manifest.get("finished"):
            found.setdefault(name, {})[TRAIN] = [times] if isinstance(times, str) else list(times)
    for batch in predictions:
        if batch.get("answered"):
            steps = found.setdefault(batch["experiment"], {})
            times = sorted([*steps.get(PREDICT, []), *batch["answered"]])
            steps[PREDICT] = [times[0], times[-1]]
    return found


def date_rows(
    names: Iterable[str], trained: Iterable[str], times: Mapping[str, Mapping[str, Sequence[str]]], lineage: Manifest
) -> list[Row]:
    """Return for each experiment when it was trained, predicted and scored, as its results recorded it.

    Args:
        names: the experiments, in the order of the report.
        trained: those of them that are trained.
        times: see `times_of`.
        lineage: what `usertune.evaluation.lineage.lineage_of` found.
    """
    with_training = set(trained)
    return [
        {
            "experiment": name,
            "trained": span_text(times.get(name, {}).get(TRAIN)) if name in with_training else NONE,
            "predicted": span_text(times.get(name, {}).get(PREDICT)),
            "scored": span_text(lineage["experiments"][name].get("scored")),
        }
        for name in names
    ]


def span_text(times: Sequence[str] | None) -> str:
    """Return the first and the last of some recorded times as ``2026-11-27 18:03 to 19:12 UTC``, or the only minute.

    Results of older releases have no times.
    """
    if not times:
        return NOT_AVAILABLE
    first, last = (datetime.fromisoformat(time) for time in (times[0], times[-1]))
    begin = f"{first:%Y-%m-%d %H:%M}"
    if f"{last:%Y-%m-%d %H:%M}" == begin:
        return f"{begin} UTC"
    end = f"{last:%H:%M}" if first.date() == last.date() else f"{last:%Y-%m-%d %H:%M}"
    return f"{begin} to {end} UTC"


def value_text(value: Any) -> str:
    """Return a setting's value in the notation of a study: ``1e-4``, ``true``, ``null``."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case float() if value and abs(value) < 1e-3:
            mantissa, exponent = f"{value:e}".split("e")
            return f"{float(mantissa):g}e{int(exponent)}"
        case float():
            return f"{value:.15g}"
        case list() | tuple():
            return ", ".join(value_text(item) for item in value) or NONE
    return str(value)


def _of_recipe(recipe: Manifest) -> dict[str, Any]:
    shown = ((key, value) for key, value in _flat(recipe) if key.split(".")[0] not in HIDDEN)
    return {
        STUDY_KEYS.get(key, key.removeprefix("training.")).replace("engine_settings.", "engine."): value
        for key, value in shown
    }


def _execution(manifest: Manifest) -> dict[str, Any]:
    """Return the settings of a training that are not in its recipe, with the values of the last attempt."""
    found = dict(manifest.get("execution", {}))
    if "micro_batch_size" in manifest:
        found["micro_batch_size"] = manifest["micro_batch_size"]
    if "processes" in manifest:
        found["processes (gpus x nodes)"] = manifest["processes"]
    if manifest.get("parallel"):
        found["parallel"] = manifest["parallel"]
    return found


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in values.items():
        found += (
            _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) and value else [(f"{prefix}{key}", value)]
        )
    return found


def _or_zero(size: int | None) -> int:
    return size or 0


def _rank(key: str) -> tuple[int, str]:
    return (ORDER.index(key), "") if key in ORDER else (len(ORDER), key)

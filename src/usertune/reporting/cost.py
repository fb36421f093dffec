"""What each experiment cost, from the manifests of its trainings and answers: hours, GPU hours, memory, tokens, money.

Sums over jobs that ran at once count each of them. Work that is repeated without another result changes these numbers,
so they are no part of the comparison, which figures and the audit are made from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from usertune.core.formatting import is_missing
from usertune.core.step_names import BASE_MODEL, PREDICT, TRAIN, TRAIN_FOLDS
from usertune.models.external_weights import SOURCE
from usertune.reporting.recipe import Price
from usertune.reporting.sections.trainings import trainings_by_experiment
from usertune.tasks.metrics import Metric

Manifest = Mapping[str, Any]
HOUR = 3600.0
# Of a kilowatt hour.
JOULES = 3.6e6
CPU = "cpu"
ENERGY = ("training_kwh", "prediction_kwh", "kwh")
# The engine with servers. Others run in the job, and record its device.
OF_SERVERS = "openai"


@dataclass(frozen=True)
class Spent:
    """Time in seconds, alone and multiplied by the GPUs held, and energy of GPUs; None where it is not known."""

    seconds: float | None
    gpu_seconds: float | None
    joules: float | None = None


def cost_table(
    names: Sequence[str],
    trainings: Sequence[Manifest],
    predictions: Sequence[Manifest],
    summary: pd.DataFrame,
    primary: Metric,
    price: Price | None = None,
) -> pd.DataFrame:
    """Return the cost of each experiment.

    Args:
        names: the experiments, in the order of the study.
        trainings: manifests of the steps train and train_folds.
        predictions: the answers to all test users' samples.
        summary: the table of experiments.
        primary: the primary metric.
        price: price of a GPU hour; None: no column of money.

    Returns:
        A row for each experiment, empty where a number is not known, which ``note`` explains. ``training_hours`` is
        wall time over all attempts; ``prediction_hours`` that of generating the answers, without loading the model.
        ``gpu_hours`` are these, times the GPUs held; ``cpu_hours`` the hours without a GPU.
        ``kwh`` is the energy of the GPUs, with its parts; these columns are there if one is known. ``builds_on`` names
        the experiments whose trained weights it uses, with the hours of their trainings, which are not part of its own.
        ``points_per_gpu_hour`` (``points_per_hour`` where there was no GPU) is the gain over the baseline by hours of
        training, its own and those that it builds on: percentage points, or the metric's unit.
    """
    joined = trainings_by_experiment(trainings)
    spent = {name: _of_trainings([own for own in trainings if own["experiment"] == name]) for name in joined}
    gains = summary.set_index("experiment")["difference_to_vanilla"].astype(float)
    better = (1 if primary.better == "higher" else -1) * (100 if primary.unit == "%" else 1)
    rows = []
    for name in names:
        batches = [batch for batch in predictions if batch["experiment"] == name]
        notes: list[str] = []
        answers = _of_answers(batches, notes)
        others, complete = _builds_on(name, trainings, predictions)
        before = [spent[other] for other in others]
        if not complete:
            others.append("weights from elsewhere")
            notes.append("what the training of its weights cost is not known")
            before.append(Spent(None, None))
        used = [*([spent[name]] if name in spent else []), *before]
        if name in spent and spent[name].gpu_seconds is None:
            notes.append("its attempts at training ran on different numbers of GPUs, or an older release recorded none")
        rows.append(
            {
                "experiment": name,
                **_times(spent.get(name), answers),
                **_speed_and_size(joined.get(name, {}), batches),
                "builds_on": ", ".join(others),
                **_before(before),
                **_points(better * gains.get(name, float("nan")), used),
                "note": "; ".join(notes),
            }
        )
    table = pd.DataFrame(rows).drop(columns=[name for name in ENERGY if all(row[name] is None for row in rows)])
    if price is None:
        return table
    return table.assign(money=table["gpu_hours"].astype(float) * price.amount, currency=price.currency)


def time_of_answers(batches: Sequence[Manifest]) -> tuple[float | None, int]:
    """Return seconds and number of the answers with a known time; none if an older release stored them all."""
    timed = sum(batch.get("timed_answers", 0) for batch in batches)
    return (sum(batch.get("answer_seconds", 0) for batch in batches) if timed else None), timed


def server_tokens(batches: Sequence[Manifest]) -> tuple[int, int] | None:
    """Return the tokens of all requests and answers as servers count them; None for models that ran here."""
    counts = [batch["tokens"] for batch in batches if "tokens" in batch]
    return (sum(one["prompt"] for one in counts), sum(one["completion"] for one in counts)) if counts else None


def answer_lengths(batches: Sequence[Manifest]) -> list[int]:
    """Return the known lengths of answers, in tokens."""
    answers = (answer for batch in batches for answer in batch["predictions"])
    return [answer["new_tokens"] for answer in answers if answer.get("new_tokens") is not None]


def _of_trainings(manifests: Sequence[Manifest]) -> Spent:
    parts = [part for own in manifests for part in (own["folds"].values() if "folds" in own else [own])]
    seconds = [part.get("wall_seconds") for part in parts]
    counts = [_gpus_of(part) for part in parts]
    products = (
        None if one is None or count is None else one * count for one, count in zip(seconds, counts, strict=True)
    )
    return Spent(_total(seconds), _total(products), _total(part.get("energy_joules") for part in parts))


def _gpus_of(training: Manifest) -> int | None:
    """Return how many GPUs a training held; None if its attempts differ, or an older release did not record it."""
    ways = training.get("computed_with") or []
    if len({(way.get("processes"), way.get("device") == CPU) for way in ways}) > 1 or "device" not in training:
        return None
    if training["device"] == CPU:
        return 0
    known = [len(training.get(key) or ()) for key in ("gpus", "gpus_used")]
    return max([*known, int(training.get("processes", 1))])


def _of_answers(batches: Sequence[Manifest], notes: list[str]) -> Spent | None:
    """Return what the answers took; None if no model was asked. What is not known is added to the notes."""
    lineage = batches[0]["lineage"] if batches else {}
    if lineage.get(BASE_MODEL) is None:
        notes.append(
            "answers from elsewhere: their cost is not known" if SOURCE in lineage else "a prior: it needs no model"
        )
        return None
    seconds, timed = time_of_answers(batches)
    count = sum(len(batch["predictions"]) for batch in batches)
    if timed < count:
        notes.append(f"{count - timed} of {count} answers have no recorded time, and are left out")
    if any("tokens" in batch or batch.get("recipe", {}).get("engine") == OF_SERVERS for batch in batches):
        notes.append("a server answered: its GPUs are not known")
        return Spent(seconds, None)
    devices = {record.get("device", CPU) == CPU for batch in batches for record in _records(batch)}
    if len(devices) != 1:
        notes.append("the device that generated its answers is not known, or some had no GPU")
        return Spent(seconds, None)
    # A job of predictions holds one GPU.
    energy = _total(batch.get("answer_joules") for batch in batches)
    return Spent(seconds, 0.0 if devices == {True} else seconds, energy)


def _records(batch: Manifest) -> list[Manifest]:
    provenance = batch.get("provenance", {})
    return list(provenance.get(PREDICT, ()) if isinstance(provenance, Mapping) else provenance)


def _builds_on(name: str, trainings: Sequence[Manifest], predictions: Sequence[Manifest]) -> tuple[list[str], bool]:
    """Return the experiments whose weights one uses, directly or not, and whether all its weights are of this study."""
    owners = {own["fingerprint"]: str(own["experiment"]) for own in trainings}
    owners |= {own["fingerprint"]: name for own in trainings if own["experiment"] == name}
    found: dict[str, None] = {}
    todo, complete = [name], True
    while todo:
        current = todo.pop()
        for manifest in (*trainings, *(predictions if current == name else ())):
            if manifest["experiment"] != current:
                continue
            used = _weights_of(manifest)
            complete = complete and used <= owners.keys()
            more = dict.fromkeys(owners[one] for one in sorted(used & owners.keys()))
            todo += [other for other in more if other not in found and other != name]
            found |= more
    found.pop(name, None)
    return list(found), complete


def _weights_of(manifest: Manifest) -> set[str]:
    """Return the fingerprints of the trainings whose weights a training or predictions began with."""
    lineage = manifest.get("lineage", {})
    if lineage.get(BASE_MODEL) is None:
        return set()
    if SOURCE in lineage and not lineage.get(TRAIN):
        return {SOURCE}
    folds = lineage.get(TRAIN_FOLDS)
    # In a training on folds it is the training itself.
    used = set(folds.values()) if isinstance(folds, Mapping) else set()
    return used | {one for one in [lineage.get(TRAIN)] if one}


def _times(training: Spent | None, answers: Spent | None) -> dict[str, Any]:
    parts = [part for part in (training, answers) if part is not None]
    without = [part.seconds for part in parts if part.gpu_seconds == 0]
    return {
        "training_hours": _hours(training.seconds) if training else None,
        "prediction_hours": _hours(answers.seconds) if answers else None,
        "hours": _hours(_total(part.seconds for part in parts)) if parts else None,
        "training_gpu_hours": _hours(training.gpu_seconds) if training else None,
        "prediction_gpu_hours": _hours(answers.gpu_seconds) if answers else None,
        "gpu_hours": _hours(_total(part.gpu_seconds for part in parts)) if parts else None,
        "cpu_hours": _hours(_total(without)) if parts else None,
        "training_kwh": _kwh(training.joules) if training else None,
        "prediction_kwh": _kwh(answers.joules) if answers else None,
        "kwh": _kwh(_total(part.joules for part in parts)) if parts else None,
    }


def _before(spent: Sequence[Spent]) -> dict[str, float | None]:
    """Return what the trainings took that an experiment builds on; nothing if there are none."""
    return {
        "builds_on_hours": _hours(_total(one.seconds for one in spent)) if spent else None,
        "builds_on_gpu_hours": _hours(_total(one.gpu_seconds for one in spent)) if spent else None,
    }


def _speed_and_size(training: Manifest, batches: Sequence[Manifest]) -> dict[str, Any]:
    seconds, timed = time_of_answers(batches)
    lengths, charged = answer_lengths(batches), server_tokens(batches)
    return {
        "training_samples_per_second": training.get("samples_per_second"),
        "answers_per_second": timed / seconds if seconds else None,
        "peak_memory_bytes": training.get("peak_memory_bytes"),
        "trainable_parameters": training.get("trainable_parameters"),
        "trained_tokens": training.get("computed_tokens"),
        "prompt_tokens": charged[0] if charged else None,
        "generated_tokens": charged[1] if charged else sum(lengths) if lengths else None,
    }


def _points(gain: float, used: Sequence[Spent]) -> dict[str, float | None]:
    seconds, gpu = (_total(getattr(one, key) for one in used) for key in ("seconds", "gpu_seconds"))
    known = bool(used) and not is_missing(gain)
    return {
        "points_per_gpu_hour": gain / (gpu / HOUR) if known and gpu else None,
        "points_per_hour": gain / (seconds / HOUR) if known and gpu == 0 and seconds else None,
    }


def _total(values: Iterable[float | None]) -> float | None:
    """Return the sum, or None if one is not known."""
    found = list(values)
    known = [value for value in found if value is not None]
    return sum(known) if len(known) == len(found) else None


def _kwh(joules: float | None) -> float | None:
    return None if joules is None else joules / JOULES


def _hours(seconds: float | None) -> float | None:
    return None if seconds is None else seconds / HOUR

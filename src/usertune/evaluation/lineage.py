"""Where the numbers of a study come from: the lineage of fingerprints behind every table, and what it was made with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from usertune.core.step_names import BASE_MODEL, COMPARE, PREDICT, PREPARE, SCORE, TRAIN
from usertune.runtime.provenance import current_provenance, describe_revision, distinct
from usertune.tasks.catalogue import TASKS

SHOWN_DIGITS = 16
# What the numbers most depend on, for notes that must be short.
NAMED_PACKAGES = ("usertune", "python", "torch", "transformers", "peft")


def lineage_of(recipe: Mapping[str, Any], fingerprint: str, metrics: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what the tables were made from.

    Args:
        recipe: the recipe of the comparison.
        fingerprint: the fingerprint of the tables.
        metrics: what the score step wrote, for every experiment and user.

    Returns:
        ``fingerprint``, ``study_sha256``, ``provenance`` (the comparison's own), and under ``experiments`` for each
        its ``lineage`` (fingerprints of base model, training, and for each user of prepare, predict and score),
        ``provenance`` (what training and prediction were made with) and ``scored`` (when its first and its last user
        were scored; None where that is not known).
    """
    experiments: dict[str, Any] = {}
    for item in metrics:
        lineage = item["lineage"]
        shared = {key: lineage[key] for key in (BASE_MODEL, TRAIN)}
        own = experiments.setdefault(item["experiment"], {"lineage": {**shared, "users": {}}, "provenance": {}})
        own["lineage"]["users"][item["user"]] = {key: lineage[key] for key in (PREPARE, PREDICT, SCORE)}
        for step, records in item["provenance"].items():
            own["provenance"][step] = distinct([*own["provenance"].get(step, []), *records])
    for name, own in experiments.items():
        times = [item["scored"] for item in metrics if item["experiment"] == name and item.get("scored")]
        own["scored"] = [min(times), max(times)] if times else None
    return {
        "step": COMPARE,
        "fingerprint": fingerprint,
        "study_sha256": recipe.get("study_sha256"),
        "experiments": experiments,
        "provenance": [current_provenance(COMPARE, plug_ins=(TASKS.module(recipe["task"]),))],
    }


def lineage_in_words(origin: Mapping[str, Any]) -> list[str]:
    """Return lines that say what `trace` found, short enough for a comment in a table."""
    comparison, study = origin["fingerprint"][:SHOWN_DIGITS], str(origin["study_sha256"])[:SHOWN_DIGITS]
    lines = [
        f"usertune comparison {comparison} of study {study}",
        *(f"compared with: {_maker_in_words(record)}" for record in origin["provenance"]),
    ]
    for name, experiment in origin["experiments"].items():
        lineage = experiment["lineage"]
        steps = {"base model": lineage[BASE_MODEL], "training": lineage[TRAIN]}
        links = [f"{step} {value[:SHOWN_DIGITS]}" for step, value in steps.items() if value]
        lines.append(f"{name}: {', '.join(links)}; {len(lineage['users'])} users, see tables/manifest.json for each")
        for step, records in experiment["provenance"].items():
            lines += [f"{name}: {step} with {_maker_in_words(record)}" for record in records]
    return lines


def makers(origin: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Yield (step, experiment, record) of everything that training and prediction were made with."""
    for name, experiment in origin["experiments"].items():
        for step, records in experiment["provenance"].items():
            for record in records:
                yield step, name, record


def _maker_in_words(record: Mapping[str, Any]) -> str:
    versions = record["versions"]
    packages = ", ".join(f"{name} {versions[name]}" for name in NAMED_PACKAGES if name in versions)
    machine = record["machine"].get("processor", "unknown machine")
    return (
        f"code {record['code']} ({describe_revision(record['revision'])}), {packages or 'unknown packages'}, "
        f"on {record['device']} ({machine})"
    )

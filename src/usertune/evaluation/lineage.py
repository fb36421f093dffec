"""Where the numbers of a study come from: the fingerprints and the provenance behind every table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from usertune.core.hashing import digest
from usertune.core.step_names import BASE_MODEL, COMPARE, PREDICT, PREPARE, SCORE, TRAIN, TRAIN_FOLDS
from usertune.evaluation.recipe import CompareRecipe
from usertune.runtime.provenance import current_provenance, describe_revision, distinct

SHOWN_DIGITS = 16
# Key of a lineage for what comes from elsewhere: ``name`` (for people), and ``sha256`` (file -> digest of the content).
SOURCE = "source"
# The packages that matter most for the numbers, for notes that must be short.
NAMED_PACKAGES = ("usertune", "python", "torch", "transformers", "peft")


def lineage_of(recipe: CompareRecipe, fingerprint: str, metrics: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the lineage of the tables: what they were made from.

    Args:
        recipe: the recipe of the comparison.
        fingerprint: the fingerprint of the tables.
        metrics: what the score step wrote, for every experiment and user.

    Returns:
        ``fingerprint``, ``study_sha256``, ``provenance`` (the comparison's own), and under ``experiments`` for each
        its ``lineage`` (fingerprints of base model, training and trainings on folds, and of prepare, predict and score
        for each user; the ``source`` of what was made elsewhere), ``provenance`` (code, packages and machine of
        training and prediction) and ``scored`` (when the first and the last user were scored; None if unknown).
    """
    experiments: dict[str, Any] = {}
    for item in metrics:
        lineage = item["lineage"]
        # Only what comes from elsewhere has a source.
        shared = {key: lineage[key] for key in (BASE_MODEL, TRAIN, SOURCE) if key != SOURCE or key in lineage}
        own = experiments.setdefault(item["experiment"], {"lineage": {**shared, "users": {}}, "provenance": {}})
        own["lineage"]["users"][item["user"]] = {key: lineage[key] for key in (PREPARE, PREDICT, SCORE)}
        if SOURCE in lineage:
            digests = own["lineage"][SOURCE]["sha256"] | lineage[SOURCE]["sha256"]
            own["lineage"][SOURCE] = {**lineage[SOURCE], "sha256": digests}
        if folds := lineage.get(TRAIN_FOLDS):
            own["lineage"].setdefault(TRAIN_FOLDS, {}).update(folds)
        for step, records in item["provenance"].items():
            own["provenance"][step] = distinct([*own["provenance"].get(step, []), *records])
    for name, own in experiments.items():
        times = [item["scored"] for item in metrics if item["experiment"] == name and item.get("scored")]
        own["scored"] = [min(times), max(times)] if times else None
    return {
        "fingerprint": fingerprint,
        "study_sha256": recipe.study_sha256,
        "experiments": experiments,
        "provenance": [current_provenance(COMPARE, plug_ins=recipe.task_modules)],
    }


def lineage_in_words(found: Mapping[str, Any]) -> list[str]:
    """Return what `lineage_of` found as lines that are short enough for a comment in a table."""
    comparison, study = found["fingerprint"][:SHOWN_DIGITS], str(found["study_sha256"])[:SHOWN_DIGITS]
    lines = [
        f"usertune comparison {comparison} of study {study}",
        *(f"compared with: {_provenance_in_words(record)}" for record in found["provenance"]),
    ]
    for name, experiment in found["experiments"].items():
        lineage = experiment["lineage"]
        steps = {"base model": lineage[BASE_MODEL], "training": lineage[TRAIN]}
        links = [f"{step} {value[:SHOWN_DIGITS]}" for step, value in steps.items() if value]
        links += [source_in_words(lineage[SOURCE])] if SOURCE in lineage else []
        folds = lineage.get(TRAIN_FOLDS, {})
        links += [f"trainings on folds {digest(folds)[:SHOWN_DIGITS]}"] if folds else []
        links = links or ["no model"]
        lines.append(f"{name}: {', '.join(links)}; {len(lineage['users'])} users, see tables/manifest.json for each")
        for step, records in experiment["provenance"].items():
            lines += [f"{name}: {step} with {_provenance_in_words(record)}" for record in records]
    return lines


def source_in_words(source: Mapping[str, Any]) -> str:
    """Return where an experiment's answers or weights come from, in a few words with the digest of their content."""
    digests = source["sha256"]
    content = next(iter(digests.values())) if len(digests) == 1 else digest(digests)
    return f"{source['name']} {content[:SHOWN_DIGITS]}"


def provenance_records(found: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Yield (step, experiment, record) for every provenance record of training and prediction."""
    for name, experiment in found["experiments"].items():
        for step, records in experiment["provenance"].items():
            for record in records:
                yield step, name, record


def _provenance_in_words(record: Mapping[str, Any]) -> str:
    versions = record["versions"]
    packages = ", ".join(f"{name} {versions[name]}" for name in NAMED_PACKAGES if name in versions)
    machine = record["machine"].get("processor", "unknown machine")
    return (
        f"code {record['code']} ({describe_revision(record['revision'])}), {packages or 'unknown packages'}, "
        f"on {record['device']} ({machine})"
    )

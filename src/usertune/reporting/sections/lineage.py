"""Rows of the report's section on provenance, from the lineage in the manifest of the tables."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from usertune.core.hashing import digest
from usertune.core.step_names import BASE_MODEL, COMPARE, TRAIN, TRAIN_FOLDS
from usertune.evaluation.lineage import SOURCE, provenance_records, source_in_words
from usertune.runtime.provenance import describe_revision


def fingerprint_rows(lineage: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the fingerprints of each experiment: base model, training (None if it has none), folds, source, users."""
    rows = []
    for name, experiment in lineage["experiments"].items():
        own = experiment["lineage"]
        users = [{"user": user, **fingerprints} for user, fingerprints in own["users"].items()]
        source = source_in_words(own[SOURCE]) if SOURCE in own else None
        rows.append(
            {
                "experiment": name,
                BASE_MODEL: own[BASE_MODEL],
                "training": own[TRAIN],
                "folds": own.get(TRAIN_FOLDS, {}),
                "source": source,
                "digests": own.get(SOURCE, {}).get("sha256", {}),
                "users": users,
            }
        )
    return rows


def provenance_rows(lineage: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return code, revision, GPU and machine of each step; experiments with the same provenance share a row."""
    found: dict[tuple[str, str], tuple[list[str], Mapping[str, Any]]] = {}
    for step, name, record in provenance_records(lineage):
        found.setdefault((step, digest(record)), ([], record))[0].append(name)
    rows = [_provenance_row(step, ", ".join(names), record) for (step, _), (names, record) in found.items()]
    return rows + [_provenance_row(COMPARE, "all", record) for record in lineage["provenance"]]


def version_rows(lineage: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the versions of each package and the steps that used them; usually there is one version."""
    found: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for step, name, record in provenance_records(lineage):
        for package, version in record["versions"].items():
            found[package][str(version)].add(f"{step} {name}")
    return [
        {
            "package": package,
            "differs": len(versions) > 1,
            "versions": [{"version": version, "steps": sorted(steps)} for version, steps in sorted(versions.items())],
        }
        for package, versions in sorted(found.items())
    ]


def _provenance_row(step: str, experiments: str, record: Mapping[str, Any]) -> dict[str, str]:
    machine = record["machine"]
    return {
        "step": step,
        "experiments": experiments,
        "code": record["code"],
        "revision": describe_revision(record["revision"]),
        "device": record["device"],
        "machine": ", ".join(
            str(part)
            for part in (
                machine.get("processor"),
                f"{machine['cores']} cores" if "cores" in machine else None,
                f"{machine['memory_gib']} GiB" if "memory_gib" in machine else None,
                machine.get("system"),
            )
            if part
        ),
    }

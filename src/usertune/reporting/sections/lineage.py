"""Rows of the report's section on provenance, from the lineage that the tables carry."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from usertune.core.hashing import digest
from usertune.core.step_names import BASE_MODEL, COMPARE, TRAIN
from usertune.evaluation.lineage import makers
from usertune.runtime.provenance import describe_revision


def fingerprint_rows(origin: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return for each experiment its fingerprints: base model, training (None if untrained), and each user's."""
    rows = []
    for name, experiment in origin["experiments"].items():
        lineage = experiment["lineage"]
        users = [{"user": user, **own} for user, own in lineage["users"].items()]
        rows.append({"experiment": name, BASE_MODEL: lineage[BASE_MODEL], "training": lineage[TRAIN], "users": users})
    return rows


def maker_rows(origin: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return, for each step, the code, its revision, the GPU and the machine, and for which experiments.

    Experiments whose step was made with the same share a row.
    """
    found: dict[tuple[str, str], tuple[list[str], Mapping[str, Any]]] = {}
    for step, name, record in makers(origin):
        found.setdefault((step, digest(record)), ([], record))[0].append(name)
    rows = [_maker_row(step, ", ".join(names), record) for (step, _), (names, record) in found.items()]
    return rows + [_maker_row(COMPARE, "all", record) for record in origin["provenance"]]


def version_rows(origin: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return, for each package, its versions and the steps that used each; one version is the rule."""
    found: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for step, name, record in makers(origin):
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


def _maker_row(step: str, experiments: str, record: Mapping[str, Any]) -> dict[str, str]:
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

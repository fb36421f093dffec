"""The trainings of each experiment as one, for the report: those on folds are many."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Manifest = Mapping[str, Any]


def trainings_by_experiment(manifests: Iterable[Manifest]) -> dict[str, Manifest]:
    """Return what the report shows of the trainings of each experiment.

    Args:
        manifests: manifests of the steps train and train_folds.

    Returns:
        experiment -> the manifest of its training. For trainings on folds, one with the same keys: sums of samples,
        steps and times, the largest memory, the smallest movement of weights; ``trainings`` is their number, and
        ``finished`` the times at which the first and the last ended.
    """
    of_folds: dict[str, list[Manifest]] = {}
    found: dict[str, Manifest] = {}
    for manifest in manifests:
        # Keeps the order of the experiments.
        found[manifest["experiment"]] = manifest
        if "folds" in manifest:
            of_folds.setdefault(manifest["experiment"], []).append(manifest)
    return found | {name: _joined(own) for name, own in of_folds.items()}


def _joined(manifests: list[Manifest]) -> Manifest:
    folds = [fold for manifest in manifests for fold in manifest["folds"].values()]
    first = folds[0]
    seconds = sum(fold["wall_seconds"] for fold in folds)
    ways = [way for fold in folds for way in fold.get("computed_with") or []]
    times = [fold["finished"] for fold in folds]
    memory = [fold["peak_memory_bytes"] for fold in folds if fold["peak_memory_bytes"]]

    def speed(key: str) -> float | None:
        return sum(fold[key] * fold["wall_seconds"] for fold in folds) / seconds if seconds else None

    return {
        **{key: manifests[0][key] for key in ("step", "experiment", "mode", "scope", "recipe")},
        **{key: first[key] for key in ("trainable_parameters", "execution", "processes", "parallel") if key in first},
        "micro_batch_size": min(fold["micro_batch_size"] for fold in folds),
        "trainings": len(folds),
        "train_samples": sum(fold["train_samples"] for fold in folds),
        "steps": sum(fold["steps"] for fold in folds),
        "attempts": max(fold.get("attempts", 1) for fold in folds),
        "computed_with": [way for number, way in enumerate(ways) if way not in ways[:number]],
        "wall_seconds": seconds,
        "samples_per_second": speed("samples_per_second"),
        "tokens_per_second": speed("tokens_per_second"),
        "peak_memory_bytes": max(memory, default=None),
        "weights_moved": min(fold["weights_moved"] for fold in folds),
        "finished": [min(times), max(times)],
    }

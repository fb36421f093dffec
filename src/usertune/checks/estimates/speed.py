"""How long a training takes, from the speeds that earlier trainings recorded in their manifests."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from usertune.core.errors import UserError
from usertune.core.manifest import read_manifest


@dataclass(frozen=True)
class Speed:
    """Tokens per second of an earlier training, validations and loading included; its experiment and device."""

    tokens_per_second: float
    experiment: str
    device: str


def known_speed(manifests: Iterable[Path], experiment: str, mode: str, processes: int) -> Speed | None:
    """Return the speed of the most similar earlier training: of the same experiment, else of the same mode.

    Args:
        manifests: manifests of trainings, which may be missing or damaged.
        experiment: name of the experiment.
        mode: lora or full.
        processes: number of processes; only trainings with the same number count.
    """
    found = [speed for path in manifests for speed in _speed(path, mode, processes)]
    return next((speed for speed in found if speed.experiment == experiment), found[0] if found else None)


def _speed(path: Path, mode: str, processes: int) -> list[Speed]:
    try:
        manifest: dict[str, Any] = read_manifest(path)
        measured = list(manifest.get("folds", {"": manifest}).values())
        same = manifest["mode"] == mode and measured[0]["processes"] == processes
        tokens = sum(one["tokens_per_second"] * one["wall_seconds"] for one in measured if "folds" in manifest)
        seconds = sum(one["wall_seconds"] for one in measured if "folds" in manifest)
        rate = tokens / seconds if seconds else float(manifest["tokens_per_second"])
        return [Speed(rate, manifest["experiment"], measured[0]["device"])] if same and rate > 0 else []
    except (UserError, OSError, LookupError, AttributeError, TypeError, ValueError):
        return []

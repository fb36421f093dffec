"""Notes of the report about results that were computed in more than one way, which can change them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

# In place of a setting that an attempt by an older release did not record.
OLDER = "of an older release"
MEASURED = "docs/reproducibility.md has the measured size"


def computation_notes(
    trainings: Mapping[str, Mapping[str, Any]], predictions: Sequence[Mapping[str, Any]]
) -> list[str]:
    """Return a sentence for every experiment with weights or answers that were computed in several ways.

    Args:
        trainings: manifests of the trainings, by experiment.
        predictions: the output of the predict step for all experiments and batches of users.
    """
    notes = []
    for name, manifest in trainings.items():
        ways = manifest.get("computed_with") or []
        if len(ways) > 1:
            every = dict.fromkeys(key for way in ways for key in way)
            keys = [key for key in every if len({str(way.get(key, OLDER)) for way in ways}) > 1]
            shown = "; ".join(", ".join(f"{key} {way.get(key, OLDER)}" for key in keys) for way in ways)
            notes.append(f"{name}: its attempts at training computed in several ways ({shown}); {_effect(manifest)}.")
    for name in dict.fromkeys(batch["experiment"] for batch in predictions):
        own = [batch for batch in predictions if batch["experiment"] == name]
        sizes = {size for batch in own for size in batch.get("batch_sizes") or []}
        if len(sizes) > 1 and own[0]["recipe"].get("dtype") == "bfloat16":
            known = ", ".join(str(size) for size in sorted(size for size in sizes if size is not None))
            older = " and of unknown size" if None in sizes else ""
            notes.append(
                f"{name}: its answers were generated in batches of up to {known}{older} samples under bfloat16, in "
                f"which a few answers depend on the batch; {MEASURED}."
            )
        notes += _of_servers(name, own)
    return notes


def _of_servers(name: str, batches: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return sentences on answers of a server: its versions, and how its adapters were checked."""
    notes = []
    versions = sorted({version for batch in batches for version in batch.get("system_fingerprints", ())})
    if len(versions) > 1:
        notes.append(f"{name}: its answers are of several versions of the server: {', '.join(versions)}.")
    effects = [effect for batch in batches if (effect := batch.get("adapter_effect")) and "disagreement" in effect]
    # Batches of users share what was measured of a model.
    effects = list({(effect["disagreement"], *effect["identical_answers"]): effect for effect in effects}.values())
    if effects:
        largest, bound = max(effect["disagreement"] for effect in effects), max(effect["bound"] for effect in effects)
        same, compared = (sum(effect["identical_answers"][part] for effect in effects) for part in (0, 1))
        notes.append(
            f"{name}: a server answered with its adapters. Log-probabilities of probe samples are at most "
            f"{largest:.2g} from those of the same models in transformers (bound {bound:g}), and {same} of {compared} "
            "answers are identical."
        )
    return notes


def _effect(manifest: Mapping[str, Any]) -> str:
    if manifest.get("recipe", {}).get("dtype") == "bfloat16":
        return f"under bfloat16 that changes the weights; {MEASURED}"
    return f"that changes the last digits; {MEASURED}"

"""The fingerprint of every step's result: one formula for the step that makes it and for the audit that doubts it.

Arguments called ``manifest`` are what `usertune.core.manifest.read_result` gives for an earlier step's result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from usertune.core.hashing import digest, step_fingerprint
from usertune.core.step_names import BASE_MODEL, TRAIN

Manifest = Mapping[str, Any]


def samples_digest(manifest: Manifest) -> str:
    """Return the SHA-256 of a user's canonical samples, from the manifest of the prepare step."""
    found: str = manifest["files"][f"user_{manifest['user']}.jsonl"]
    return found


def prepare_fingerprint(recipe: Manifest, samples_sha256: str) -> str:
    """Return the fingerprint of one user's prepared samples."""
    return step_fingerprint(recipe, {"samples": samples_sha256})


def base_model_fingerprint(model_files: Mapping[str, str]) -> str:
    """Return the fingerprint of a base model: of its files' content alone, so a copy is the same model."""
    return digest(dict(model_files))


def train_fingerprint(
    recipe: Manifest, base: Manifest, train: Sequence[Manifest], validation: Sequence[Manifest]
) -> str:
    """Return the fingerprint of a training, from the base model's manifest and those of the users."""
    inputs = {
        BASE_MODEL: base["fingerprint"],
        TRAIN: {manifest["user"]: samples_digest(manifest) for manifest in train},
        "validation": {manifest["user"]: samples_digest(manifest) for manifest in validation},
    }
    return step_fingerprint(recipe, inputs)


def model_of(base: Manifest, trained: Manifest | None) -> dict[str, str]:
    """Return which model answers: the fingerprints of the base model and of the weights on it."""
    weights = trained["weights_fingerprint"] if trained else base["fingerprint"]
    return {BASE_MODEL: base["fingerprint"], "weights": weights}


def predict_fingerprint(recipe: Manifest, model: Mapping[str, str], users: Sequence[Manifest]) -> str:
    """Return the fingerprint of the predictions of a batch of users, from `model_of` and the users' manifests."""
    samples = {manifest["user"]: samples_digest(manifest) for manifest in users}
    return step_fingerprint(recipe, {**model, "samples": samples})


def score_fingerprint(recipe: Manifest, samples_sha256: str, answers: Mapping[str, tuple[str, bool]]) -> str:
    """Return the fingerprint of a user's score; ``answers`` is ``{sample id: (text, whether it ended by itself)}``."""
    return step_fingerprint(recipe, {"samples": samples_sha256, "answers": digest(dict(answers))})


def compare_fingerprint(recipe: Manifest, scores: Sequence[Manifest]) -> str:
    """Return the fingerprint of the tables, from what the score step wrote for every experiment and user."""
    return step_fingerprint(recipe, {f"{item['experiment']} {item['user']}": item["fingerprint"] for item in scores})


def figure_fingerprint(recipe: Manifest, tables: Manifest, training_logs: Mapping[str, str]) -> str:
    """Return the fingerprint of a figure, from the tables' manifest and the digests of the training logs it shows."""
    return step_fingerprint(recipe, {"tables": tables["fingerprint"], "training_logs": dict(training_logs)})


def report_fingerprint(
    recipe: Manifest, tables: Manifest, figures: Sequence[Manifest], data: Sequence[Manifest]
) -> str:
    """Return the fingerprint of the report, from the manifests of the tables, the figures and all users' data."""
    drawn = {figure["name"]: figure["fingerprint"] for figure in figures}
    skipped = {user["user"]: digest([user["samples"], user["skipped_samples"]]) for user in data}
    return step_fingerprint(recipe, {"tables": tables["fingerprint"], "figures": drawn, "skipped": digest(skipped)})

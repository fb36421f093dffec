"""Weights that an experiment does not train itself: from elsewhere, or of a step that another training kept.

Planning checks them, and a step of its own writes the manifest that prediction reads, as a training does. Nothing is
copied. Needs no torch.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from usertune.core.errors import UserError
from usertune.core.hashing import digest, digest_file, file_states
from usertune.core.manifest import read_manifest, step_manifest, write_result
from usertune.core.step_names import BASE_MODEL, OTHER_WEIGHTS
from usertune.models.adapter_folder import ADAPTER_FILES, CONFIG, AdapterFolder
from usertune.models.base_folder import as_recorded, from_record
from usertune.models.families.catalogue import family_of, recorded_module
from usertune.models.family import Family
from usertune.models.model_folder import INDEX, ModelFolder, similar_folders, weight_files
from usertune.models.recipe import OtherWeightsRecipe
from usertune.models.tensor_files import Shapes, differences, is_computed, tensor_shapes
from usertune.runtime.provenance import current_provenance

logger = logging.getLogger(__name__)

# Role of the files themselves among the inputs of such a step.
OWN_FILES = "files"
# Key of manifests for what comes from elsewhere: ``name`` (for people), and ``sha256`` (file -> digest of the content).
SOURCE = "source"

MODEL_CONFIGS = ("config.json", "generation_config.json")


@dataclass(frozen=True)
class WeightFiles:
    """Files of one such step.

    Attributes:
        base_model: manifest of the base model.
        folder: the folder of weights from elsewhere; None for those of a training.
        training: manifest of the training that kept the weights; None for weights from elsewhere.
        manifest: JSON object to write.
    """

    base_model: Path
    folder: Path | None
    manifest: Path
    training: Path | None = None


def deciding_files(folder: Path, mode: str) -> list[str]:
    """Return the files of a folder of weights that loading it reads, in sorted order; those that are missing too.

    Optimizer states, logs and processors that trainers save beside them change no answer: the base model's processor
    is used.

    Args:
        folder: the folder.
        mode: "lora" or "full".
    """
    if mode == "lora":
        return list(ADAPTER_FILES)
    there = [name for name in (*MODEL_CONFIGS[1:], INDEX) if (folder / name).is_file()]
    return sorted({MODEL_CONFIGS[0], *there, *weight_files(folder)})


def check_weights(folder: Path, mode: str, base: Path | None, name: str) -> str | None:
    """Check that weights from elsewhere can be used, from small files and headers.

    Args:
        folder: their folder.
        mode: "lora" (an adapter) or "full" (a complete model).
        base: the base model's folder, if it is known; otherwise they are not compared.
        name: the key of the study, for messages.

    Returns:
        What the weights say about their base model, if that may be another one, for a warning; otherwise None.

    Raises:
        UserError: the folder is missing, or the weights cannot be used; the message lists all problems.
    """
    if not folder.is_dir():
        what = "a file; give the folder that holds it" if folder.is_file() else "not a folder"
        hint = "" if folder.is_file() else similar_folders(str(folder))
        raise UserError(f"{name}: {folder} is {what}{hint}; a model on the hub has to be downloaded first")
    shapes, family = _base(base)
    adapter = AdapterFolder(folder)
    problems = adapter.inspect(shapes, family) if mode == "lora" else _model_problems(folder, shapes, family, base)
    if len(problems) == 1:
        raise UserError(f"{name}: {folder}: {problems[0]}")
    if problems:
        listed = "\n".join(f"  {problem}" for problem in problems)
        raise UserError(f"{name}: {folder} cannot be used ({len(problems)} problems):\n{listed}")
    return adapter.trained_on() if mode == "lora" else None


def other_base(trained_on: str | None, base_path: str) -> str | None:
    """Say if an adapter was trained on a model of another name than the study's base model; None if not.

    Args:
        trained_on: from `check_weights`.
        base_path: ``base_model.path``, or the folder of the base model.
    """
    if trained_on is None:
        return None
    names = [_model_name(path) for path in (trained_on, base_path)]
    if names[0] == names[1]:
        return None
    return (
        f"{CONFIG} says that the adapter was trained on {trained_on}, and this study's base model is {base_path}; if "
        "these are different models, its answers mean nothing"
    )


def _model_name(path: str) -> str:
    """Return the name of a model: the last part of a path or hub name, or that of a folder in the hub's cache."""
    parts = [part for part in Path(path).parts if part not in ("/", ".")]
    cached = [part for part in parts if part.startswith("models--")]
    return (cached[-1].split("--")[-1] if cached else parts[-1] if parts else "").lower()


def _base(folder: Path | None) -> tuple[Shapes | None, Family | None]:
    """Return name -> shape of the base model's tensors, and its family; None if they cannot be read."""
    if folder is None:
        return None, None
    try:
        files = weight_files(folder)
        states = tuple((name, (folder / name).stat().st_mtime_ns) for name in files)
        return (_shapes(folder, states) if files else None), family_of(folder)
    except (UserError, OSError):
        # The check of the base model reports it.
        return None, None


@lru_cache(maxsize=4)
def _shapes(folder: Path, states: tuple[tuple[str, int], ...]) -> Shapes:
    shapes: Shapes = {}
    for name, _ in states:
        shapes |= tensor_shapes(folder / name)
    return shapes


def _model_problems(folder: Path, base: Shapes | None, family: Family | None, base_folder: Path | None) -> list[str]:
    if (folder / CONFIG).is_file():
        if not weight_files(folder):
            return ["the folder holds an adapter: write mode: lora"]
        return [f"{CONFIG} lies beside a complete model, and would be applied to it; move one of the two away"]
    model = ModelFolder(folder)
    problems = model.weight_problems()
    if not weight_files(folder) and (hint := _other_checkpoint(folder)):
        problems.append(hint)
    if problems or base is None or family is None:
        return problems
    own = model.family()
    if own is None or type(own) is not type(family):
        return [f"config.json: a model of the family {own and own.title}, but the base model is of {family.title}"]
    found, needed = (_plain(shapes, family) for shapes in (_shapes_of(folder), base))
    either = {f"{name}.weight" for name in (family.head, family.embedding)}
    wrong = [
        f"{name}: {list(found[name])} in the file, {list(needed[name])} in the base model"
        for name in found.keys() & needed.keys()
        if found[name] != needed[name]
    ]
    missing, extra = needed.keys() - found.keys() - either, found.keys() - needed.keys() - either
    if problem := differences(missing, extra, wrong):
        problems.append(f"not the weights of this study's base model {base_folder}: {problem}")
    return problems


def _shapes_of(folder: Path) -> Shapes:
    return _shapes(folder, tuple((name, (folder / name).stat().st_mtime_ns) for name in weight_files(folder)))


def _plain(shapes: Shapes, family: Family) -> Shapes:
    plain = {name.removeprefix("model."): shape for name, shape in shapes.items() if not is_computed(name)}
    return {name: shape for name, shape in plain.items() if not re.fullmatch(family.unused_tensors, name)}


def _other_checkpoint(folder: Path) -> str:
    """Say how to turn a sharded checkpoint of another trainer into a model; "" if it is none."""
    if any(folder.glob("global_step*")):
        return "DeepSpeed's shards are in it: python zero_to_fp32.py . OUTPUT --safe_serialization makes a model"
    if any(folder.glob("**/*.distcp")):
        return "FSDP's shards are in it: accelerate merge-weights makes a model"
    below = sorted(path.parent for name in ("config.json", CONFIG) for path in folder.glob(f"*/{name}"))
    return f"did you mean {below[0]}?" if below else ""


def describe_weights(recipe: OtherWeightsRecipe, experiment: str, files: WeightFiles) -> dict[str, Any]:
    """Write the manifest of an experiment's weights, which are not copied.

    Returns:
        The manifest. Its ``output`` depends only on the content of the weights, as that of a training.

    Raises:
        UserError: the weights cannot be used, or the training did not keep them.
    """
    base = read_manifest(files.base_model)
    if files.training is not None:
        role, found = "training", _kept(recipe, files.training, files.manifest)
    else:
        role, found = OWN_FILES, _from_elsewhere(recipe, experiment, files, base)
    content = found["weights_fingerprint"]
    manifest = {
        **step_manifest(recipe, {BASE_MODEL: base["output"], role: content}, content),
        "experiment": experiment,
        "mode": recipe.mode,
        **found,
        "provenance": [current_provenance(OTHER_WEIGHTS, plug_ins=recorded_module(base))],
        "files": {},
    }
    write_result(files.manifest, manifest)
    return manifest


def _from_elsewhere(
    recipe: OtherWeightsRecipe, experiment: str, files: WeightFiles, base: Mapping[str, Any]
) -> dict[str, Any]:
    assert files.folder is not None
    folder = files.folder.expanduser()
    trained_on = check_weights(
        folder, recipe.mode, from_record(base["folder"], files.base_model), f"experiments.{experiment}.weights"
    )
    if warning := other_base(trained_on, base["recipe"]["path"]):
        logger.warning("%s: %s", folder, warning)
    names = deciding_files(folder, recipe.mode)
    # Before reading, so that a change while reading is seen.
    state = file_states(folder, names)
    digests = {}
    for name in names:
        logger.info("reading %s", folder / name)
        digests[name] = digest_file(folder / name)
    return {
        "weights_folder": as_recorded(folder, files.manifest),
        "weights_files": digests,
        "weights_state": state,
        "weights_fingerprint": digest(digests),
        "trained_on": trained_on,
        SOURCE: {"name": f"weights from elsewhere ({recipe.path})", "sha256": digests},
    }


def _kept(recipe: OtherWeightsRecipe, training_file: Path, manifest_file: Path) -> dict[str, Any]:
    training = read_manifest(training_file)
    kept = training.get("kept", {})
    if str(recipe.kept_step) not in kept:
        there = f"it kept those of {', '.join(kept)}" if kept else "it kept none"
        raise UserError(
            f"{training_file}: the training has no weights of step {recipe.kept_step}: {there}, and took "
            f"{training['steps']} steps ({training.get('ended', 'all')}); choose another step, or train longer"
        )
    own = kept[str(recipe.kept_step)]
    return {
        "weights_folder": os.path.relpath(training_file.parent / own["folder"], manifest_file.parent),
        "weights_files": own["files"],
        "weights_state": own["state"],
        "weights_fingerprint": own["fingerprint"],
        "training": {"fingerprint": training["fingerprint"], "provenance": training["provenance"]},
        SOURCE: {
            "name": f"{training['experiment']} after step {recipe.kept_step}",
            "sha256": {"weights": own["fingerprint"]},
        },
    }


def training_of(manifest: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return ``fingerprint`` and ``provenance`` of the training of some weights, from their manifest.

    Fingerprint None and no provenance for weights that were trained elsewhere.
    """
    if manifest["step"] != OTHER_WEIGHTS:
        return manifest
    here: Mapping[str, Any] = manifest.get("training") or {"fingerprint": None, "provenance": []}
    return here


def lineage_of_others(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of a lineage for weights that their experiment did not train; empty for others."""
    if manifest["step"] != OTHER_WEIGHTS:
        return {}
    return {OTHER_WEIGHTS: manifest["fingerprint"], SOURCE: manifest[SOURCE]}


def check_unchanged(manifest: Mapping[str, Any], folder: Path) -> None:
    """Check, by size and time, that weights are those that a manifest describes; they are not copied.

    Raises:
        UserError: they are not.
    """
    for name, state in manifest["weights_state"].items():
        file = folder / name
        stat = file.stat() if file.is_file() else None
        if stat is None or [stat.st_size, stat.st_mtime_ns] != state:
            raise UserError(f"{file}: changed since it was read; run again, and keep weights as they are during a run")


def weights_state(path: str, mode: str) -> str:
    """Return a digest of sizes and times of the files of weights from elsewhere; missing files count too."""
    folder = Path(path).expanduser()
    states = {}
    for name in deciding_files(folder, mode):
        stat = (folder / name).stat() if (folder / name).is_file() else None
        states[name] = [stat.st_size, stat.st_mtime_ns] if stat else None
    return digest(states)

"""Export the weights of an experiment as a folder for a model hub: weights, processor, model card, study."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import usertune
from usertune.core.errors import UserError
from usertune.core.files import naming, read_json, write_json, write_text
from usertune.core.formatting import count
from usertune.core.hashing import digest_file
from usertune.core.manifest import read_manifest
from usertune.data.samples import read_user
from usertune.evaluation import table_names
from usertune.evaluation.recipe import CompareRecipe
from usertune.evaluation.tables import read_table, records
from usertune.exchange.current import freshness_of, require_current
from usertune.exchange.new_folder import new_folder, require_replaceable
from usertune.inference.engine import EngineSettings
from usertune.models.adapter_folder import adapter_tensor_names
from usertune.models.base_folder import from_record, is_local
from usertune.models.external_weights import MODEL_CONFIGS, SOURCE
from usertune.models.model_folder import INDEX, weight_files
from usertune.models.recipe import Pixels
from usertune.pipeline import steps
from usertune.pipeline.layout import comparison_path
from usertune.reporting.model_card import CardFacts, check_card, model_card
from usertune.reporting.sections.study import setting_rows
from usertune.study.copy import public_study_text
from usertune.study.files import SPLITS
from usertune.study.schema.study import Study

CARD, STUDY, CITATION = "README.md", "study.yaml", "CITATION.cff"
MAKE = "snakemake --profile local"
# Keys in which libraries keep the folder that a model was loaded from.
FOLDER_KEYS = ("_name_or_path", "name_or_path", "base_model_name_or_path")
# Files of words, in which a piece of a path says nothing.
VOCABULARIES = ("tokenizer.json", "vocab.json", "merges.txt", "added_tokens.json")
TEXTS = (".json", ".md", ".yaml", ".cff", ".csv")
CITATION_TEXT = """\
cff-version: 1.2.0
message: "This model was {made} with usertune; please cite it as below."
title: "usertune: fine-tuning a vision-language model across many users, and evaluating it on each of them"
type: software
version: {version}
license: Apache-2.0
authors:
  - name: "The usertune developers"
"""


@dataclass(frozen=True)
class HubFolder:
    """What is exported, and how.

    Attributes:
        experiment: name of the experiment.
        folder: the folder to write.
        merge: whether an adapter is added to the base model.
        base_name: name of the base model on the hub; None: as in the study, without the path of a folder.
        license: license of the weights; None if unknown.
        force: whether to replace an earlier export.
    """

    experiment: str
    folder: Path
    merge: bool = False
    base_name: str | None = None
    license: str | None = None
    force: bool = False


def export_model(study: Study, export: HubFolder) -> str:
    """Write the weights of an experiment as a folder for a model hub, and return what was written, for people.

    Raises:
        UserError: the experiment has no weights or is not current, a file of it was modified, the merged model
            differs, a file names a path of this machine, or the folder cannot be written.
    """
    _check_asked(study, export)
    require_replaceable(export.folder.absolute(), export.force)
    freshness = freshness_of(study)
    step = steps.TRAIN if study.experiments[export.experiment].trained else steps.OTHER_WEIGHTS
    path, tables = step.manifest.format(experiment=export.experiment), comparison_path(study)
    require_current(freshness, (path, tables), MAKE)
    training = read_manifest(freshness.folder / path)
    weights = (freshness.folder / path).parent / training["weights_folder"]
    base_file = freshness.folder / steps.BASE_MODEL.manifest
    base = read_manifest(base_file)
    name = export.base_name or _base_name(study)
    about = {"study": study.name, "experiment": export.experiment, "fingerprint": training["fingerprint"]}
    with new_folder(export.folder, export.force, about) as hidden:
        merged = None
        if export.merge:
            _verify(weights, training["weights_files"])
            merged = _merge(study, from_record(base["folder"], base_file), weights, freshness.folder, hidden)
        else:
            if step is steps.OTHER_WEIGHTS:
                _require_readable(weights, training["mode"])
                _copy_processor(from_record(base["folder"], base_file), base["model_files"], hidden)
            _copy(weights, training["weights_files"], hidden)
        _without_folders(hidden, name)
        write_text(hidden / STUDY, public_study_text(study, name, base["about"].get("commit")))
        write_text(hidden / CITATION, CITATION_TEXT.format(version=usertune.__version__, made=_made(training)))
        card = model_card(_facts(study, export, name, (freshness.folder / tables).parent, training, base, merged))
        check_card(card)
        write_text(hidden / CARD, card)
        _require_no_path(hidden, study)
    size = sum(file.stat().st_size for file in export.folder.rglob("*") if file.is_file())
    what = "merged weights" if export.merge else "the adapter" if training["mode"] == "lora" else "the weights"
    return f"{export.folder}: {what} of {export.experiment}, processor, model card and study ({count(size)}B)"


def _check_asked(study: Study, export: HubFolder) -> None:
    own = study.experiments.items()
    with_weights = [name for name, experiment in own if experiment.trained or experiment.uses_other_weights]
    if export.experiment not in with_weights:
        if export.experiment in study.experiments and study.experiments[export.experiment].trained_on_folds:
            folder = Path(study.results, steps.TRAIN_FOLDS.manifest.format(experiment=export.experiment, batch="ID"))
            raise UserError(
                f"--experiment {export.experiment}: each user and fold has its own weights, which are no model for a "
                f"hub; {folder} names the folder of each"
            )
        listed = ", ".join(with_weights)
        known = f"experiments of this study with weights of their own: {listed}" if listed else "this study trains none"
        raise UserError(f"--experiment {export.experiment}: {known}")
    if export.merge and study.experiments[export.experiment].mode != "lora":
        raise UserError(f"--merge: {export.experiment} has no adapter; its weights are complete already")


def _base_name(study: Study) -> str:
    path = study.base_model.path
    return Path(path).expanduser().resolve().name if is_local(path) else path


def _verify(weights: Path, digests: Mapping[str, str]) -> None:
    for name, sha256 in digests.items():
        if digest_file(weights / name) != sha256:
            raise UserError(f"{weights / name}: the file was edited or cut short after it was written; {MAKE}")


def _copy(weights: Path, digests: Mapping[str, str], folder: Path) -> None:
    """Copy the weights and the processor, and check the copies."""
    for name in digests:
        if name == CARD:
            # The card of PEFT, which says nothing.
            continue
        with naming(folder / name):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(weights / name, folder / name)
    _verify(folder, {name: sha256 for name, sha256 in digests.items() if name != CARD})


def _copy_processor(base: Path, digests: Mapping[str, str], folder: Path) -> None:
    """Copy the base model's processor, which weights from elsewhere are used with."""
    weights = {INDEX, *weight_files(base), *MODEL_CONFIGS}
    _copy(base, {name: sha256 for name, sha256 in digests.items() if name not in weights and "/" not in name}, folder)


def _require_readable(weights: Path, mode: str) -> None:
    """Check that PEFT reads an adapter from elsewhere, of which it would ignore tensors with other names."""
    if mode == "lora" and (other := [name for name, own in adapter_tensor_names(weights).items() if name != own]):
        raise UserError(
            f"{weights}: PEFT would ignore its tensors, since they have other names (such as {other[0]}); export the "
            "merged model (--merge)"
        )


def _made(training: Mapping[str, Any]) -> str:
    return "trained" if _is_trained_here(training) else "evaluated"


def _is_trained_here(training: Mapping[str, Any]) -> bool:
    return training["step"] == steps.TRAIN.name or bool(training.get("training"))


def _merge(study: Study, base: Path, weights: Path, results: Path, folder: Path) -> dict[str, Any]:
    # Imported here, since only this needs torch.
    from usertune.inference.merge import merge_adapter

    model = study.base_model
    settings = EngineSettings(
        base_folder=base,
        mode="lora",
        weights_folder=weights,
        dtype=model.dtype,
        pixels=Pixels(min=model.min_pixels, max=model.max_pixels),
        dataset_root=Path(study.dataset.root),
        max_new_tokens=study.evaluation.max_new_tokens,
        thinking=model.thinking,
    )
    _, samples = read_user(results / steps.PREPARE.manifest.format(user=study.users.test[0]))
    return merge_adapter(settings, samples, folder)


def _without_folders(folder: Path, base_name: str) -> None:
    """Name the base model, rather than its folder, in what libraries wrote."""
    for file in sorted(folder.glob("*.json")):
        if file.name in VOCABULARIES:
            continue
        values = read_json(file)
        if named := {key: base_name for key in FOLDER_KEYS if values.get(key)}:
            write_json(file, {**values, **named})


def _require_no_path(folder: Path, study: Study) -> None:
    """Check that no text of the folder names a folder of this machine.

    Raises:
        UserError: one does.
    """
    base = study.base_model.path
    private = [Path.cwd(), Path.home(), Path(study.results), Path(study.dataset.root)]
    private += [Path(base).expanduser()] if is_local(base) else []
    paths = {str(form) for path in private for form in (path.absolute(), path.resolve())} - {"/"}
    for file in sorted(folder.rglob("*")):
        if file.suffix not in TEXTS or file.name in VOCABULARIES:
            continue
        text = file.read_text(encoding="utf-8")
        if found := next((path for path in sorted(paths) if f"{path}/" in text or f'{path}"' in text), None):
            raise UserError(
                f"{file.name} would name the folder {found} of this machine; remove it from the study (it may be in a "
                "prompt, an option or the title)"
            )


def _facts(
    study: Study,
    export: HubFolder,
    base_name: str,
    tables: Path,
    training: Mapping[str, Any],
    base: Mapping[str, Any],
    merged: Mapping[str, Any] | None,
) -> CardFacts:
    comparison = read_manifest(tables / table_names.MANIFEST)
    rows = {row["experiment"]: row for row in records(read_table(tables / table_names.SUMMARY))}
    summary = (tables / table_names.SUMMARY_MD).read_text(encoding="utf-8").partition("<!--")[0]
    mode = study.experiments[export.experiment].mode
    here = _is_trained_here(training)
    settings = setting_rows({export.experiment: mode}, {export.experiment: training}, ())
    tested = int(rows[export.experiment]["samples"])
    samples = {
        split: training.get(f"{split}_samples", tested)
        for split in SPLITS
        if f"{split}_samples" in training or split == SPLITS[-1]
    }
    splits = [
        (f"{split} users", f"{len(getattr(study.users, split)):,}, with {own:,} samples")
        for split, own in samples.items()
    ]
    commit = base["about"].get("commit")
    return CardFacts(
        study=study.name,
        experiment=export.experiment,
        kind="full" if export.merge else mode,
        base_model=base_name,
        license=export.license,
        summary=summary,
        row=rows[export.experiment],
        metrics=CompareRecipe.model_validate(comparison["recipe"]).metrics,
        settings=[(row["key"], row["cells"][0]) for row in settings],
        data=[
            ("format", study.dataset.format),
            ("task", study.dataset.task),
            ("frame of the raw data", study.dataset.frame),
            ("prompt", json.dumps(study.dataset.prompt.user, ensure_ascii=False)),
            *splits,
        ],
        origin=[
            ("usertune", usertune.__version__),
            ("fingerprint of the training" if here else "fingerprint of the weights", training["fingerprint"]),
            ("fingerprint of the comparison", comparison["fingerprint"]),
            ("fingerprint of the base model's files", base["output"]),
            *([("commit of the base model", commit)] if commit else []),
        ],
        merged=merged,
        source=None if here else training[SOURCE]["name"],
    )

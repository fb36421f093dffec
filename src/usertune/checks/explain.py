"""Explains why a result would be made again, and at what cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from usertune.checks.freshness import Freshness
from usertune.checks.stored import count_stored
from usertune.core.errors import UserError
from usertune.core.hashing import KEPT_STEPS, step_fingerprint
from usertune.core.manifest import read_result
from usertune.data.samples import read_user
from usertune.pipeline import steps
from usertune.pipeline.layout import Result, needed_for, report_path
from usertune.training.kept_files import missing_in
from usertune.training.recipe import TrainFoldsRecipe
from usertune.training.train import train_inputs
from usertune.training.train_folds import parts_of
from usertune.training.working_folder import COMPLETE, work_folder


@dataclass
class Explanation:
    """Why a target would be made again.

    Attributes:
        target: label of the result.
        causes: reason -> labels of the results that it affects directly.
        jobs: step -> number of jobs that would run.
        trainings: a text for each training job that would run.
        fold_trainings: a text for each user, or all users together, with trainings on folds that would run.
        stored: number of samples with stored answers.
        to_generate: number of samples to generate.
        unknown: number of samples that may be stored, because model or samples may turn out unchanged.
        predicts_on_gpu: whether the engine of a prediction that would run needs a GPU.
        without_model: number of prediction jobs that ask no model.
    """

    target: str
    causes: dict[str, list[str]] = field(default_factory=dict)
    jobs: dict[str, int] = field(default_factory=dict)
    trainings: list[str] = field(default_factory=list)
    fold_trainings: list[str] = field(default_factory=list)
    stored: int = 0
    to_generate: int = 0
    unknown: int = 0
    predicts_on_gpu: bool = False
    without_model: int = 0


def explain(freshness: Freshness, target: str | None = None) -> Explanation:
    """Return why a result would be made again, and at what cost, without running or writing anything.

    Args:
        freshness: current state of the study's results.
        target: path of the result's manifest or one of its files, relative to the results folder; default: the
            report.

    Raises:
        UserError: the study has no such result.
    """
    manifest = _manifest_of(freshness.results, target or report_path(freshness.study))
    explanation = Explanation(freshness.results[manifest].label)
    again: set[str] = set()
    for path in needed_for(freshness.results, manifest):
        result = freshness.results[path]
        own = [*freshness.reasons(path), *freshness.not_from_upstream(path)]
        for reason in own:
            explanation.causes.setdefault(reason, []).append(result.label)
        if own or any(above in again for above in result.upstream):
            again.add(path)
            explanation.jobs[result.step] = explanation.jobs.get(result.step, 0) + 1
            if result.step == steps.TRAIN_FOLDS.name:
                explanation.fold_trainings.append(_folds_in_words(freshness, result, again))
            elif result.step == steps.TRAIN.name:
                explanation.trainings.append(_training_in_words(freshness, result, again))
            elif result.step == steps.PREDICT.name:
                if freshness.study.experiments[str(result.experiment)].generated:
                    _count_samples(freshness, result, again, explanation)
                else:
                    explanation.without_model += 1
    return explanation


def in_words(explanation: Explanation) -> str:
    """Return an explanation as text for people."""
    if not explanation.jobs:
        return f"{explanation.target}: up to date, nothing would run."
    lines = [f"{explanation.target}: would be made again."]
    if explanation.causes:
        lines.append("Why:")
        lines += [f"  {_some(labels)}: {reason}" for reason, labels in explanation.causes.items()]
    lines.append("What would run:")
    for step in steps.STEPS.values():
        if not (count := explanation.jobs.get(step.name, 0)):
            continue
        generates = explanation.to_generate + explanation.unknown and explanation.predicts_on_gpu
        gpu = step.gpu and (step is not steps.PREDICT or generates)
        lines.append(f"  {count} {step.counted[count != 1]}{' (GPU)' if gpu else ''}")
        if step in (steps.TRAIN, steps.TRAIN_FOLDS):
            texts = explanation.trainings if step is steps.TRAIN else _first(explanation.fold_trainings)
            lines += [f"    {text}" for text in texts]
        elif step is steps.PREDICT:
            lines.append(f"    {_samples_in_words(explanation)}")
    return "\n".join(lines)


def _manifest_of(results: Mapping[str, Result], target: str) -> str:
    for path, result in results.items():
        if target == path or target in result.files:
            return path
    examples = ", ".join([*list(results)[:1], *list(results)[-3:]])
    raise UserError(f"{target}: this study has no such result; results are, for example: {examples}")


def _training_in_words(freshness: Freshness, result: Result, again: set[str]) -> str:
    """Return whether a training job would train, resume or reuse weights."""
    if any(path in again for path in result.upstream):
        return f"{result.label}: trains, unless its samples and base model turn out to be unchanged"
    manifests = {path: freshness.inspect(path)[0] or {} for path in result.upstream}
    (base,) = result.inputs[steps.BASE_MODEL.name]
    train, validation = ([manifests[path] for path in result.inputs[role]] for role in ("train", "validation"))
    fingerprint = step_fingerprint(result.recipe, train_inputs(manifests[base], train, validation))
    work = work_folder(freshness.folder / result.manifest, fingerprint)
    if (work / COMPLETE).exists() and _seems_complete(work):
        if missing := missing_in(read_result(work / COMPLETE), result.recipe.get(KEPT_STEPS, ())):
            return f"{result.label}: trains again from the beginning, to keep the weights of {len(missing)} more steps"
        return f"{result.label}: already trained, will be reused"
    if any(work.glob("checkpoint-*")):
        return f"{result.label}: resumes from a working checkpoint"
    return f"{result.label}: trains from the beginning"


def _folds_in_words(freshness: Freshness, result: Result, again: set[str]) -> str:
    """Return how many trainings on folds would train, resume or reuse weights."""
    if any(path in again for path in result.upstream):
        return f"{result.label}: trains on folds whose samples, base model or start turn out to be changed"
    manifests = {path: freshness.inspect(path)[0] or {} for path in result.upstream}
    (base,), start = result.inputs[steps.BASE_MODEL.name], result.inputs["start"]
    samples = [read_user(freshness.folder / path)[1] for path in result.inputs["samples"]]
    recipe = TrainFoldsRecipe.model_validate(result.recipe)
    counts = {"will be reused": 0, "resumes from a working checkpoint": 0, "trains from the beginning": 0}
    for part in parts_of(recipe, manifests[base], manifests[start[0]] if start else None, samples):
        work = work_folder(freshness.folder / result.manifest, part.fingerprint)
        complete, resume, begin = counts
        if (work / COMPLETE).exists() and _seems_complete(work):
            counts[complete] += 1
        else:
            counts[resume if any(work.glob("checkpoint-*")) else begin] += 1
    folds = [f"{count} of {sum(counts.values())} folds {what}" for what, count in counts.items() if count]
    return f"{result.label}: {', '.join(folds)}"


def _first(texts: Sequence[str], shown: int = 10) -> list[str]:
    return [*texts[:shown], *([f"and {len(texts) - shown} more"] if len(texts) > shown else [])]


def _seems_complete(work: Path) -> bool:
    try:
        files: dict[str, Any] = read_result(work / COMPLETE)["weights_files"]
    except UserError:
        return False
    return all((work / "weights" / name).is_file() for name in files)


def _count_samples(freshness: Freshness, result: Result, again: set[str], explanation: Explanation) -> None:
    """Count the samples of a prediction job as stored, to be generated, or unknown."""
    explanation.predicts_on_gpu |= freshness.study.engine_of(str(result.experiment)).needs_gpu
    model = (*result.inputs[steps.BASE_MODEL.name], *result.inputs["weights"], *result.inputs["context"])
    for path in result.inputs["samples"]:
        manifest = freshness.inspect(path)[0]
        if manifest is None:
            explanation.unknown += freshness.raw_data.count(freshness.results[path].users[0])
            continue
        if again.intersection((path, *model)):
            explanation.unknown += manifest["samples"]
            continue
        found, missing = count_stored(freshness, result, path)
        explanation.stored += found
        explanation.to_generate += missing


def _samples_in_words(explanation: Explanation) -> str:
    parts = []
    if explanation.to_generate or not explanation.unknown:
        parts.append(f"{explanation.to_generate} samples to generate, {explanation.stored} are stored")
    if explanation.without_model:
        parts.append(f"{explanation.without_model} of the jobs need no model")
    if explanation.unknown:
        parts.append(
            f"up to {explanation.unknown} samples to generate, fewer if data or model turn out to be unchanged"
        )
    return "; ".join(parts)


def _some(labels: Sequence[str], shown: int = 3) -> str:
    rest = f" and {len(labels) - shown} more" if len(labels) > shown else ""
    return ", ".join(labels[:shown]) + rest

"""Export the answers of a study as logs of Inspect (inspect_ai), whose viewer then shows them.

The files have Inspect's documented JSON format of logs, version 2 (https://inspect.aisi.org.uk/eval-logs.html), which
every release since 2024 reads; Inspect itself is not needed.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from usertune.checks.freshness import Freshness
from usertune.core.errors import UserError
from usertune.core.files import write_json
from usertune.core.formatting import is_missing
from usertune.core.manifest import read_manifest
from usertune.data.images import BadImageError, load_image, locate
from usertune.data.samples import Sample, read_samples
from usertune.evaluation.tables import read_table, records
from usertune.exchange.current import freshness_of, recipes_of, require_current
from usertune.exchange.new_folder import new_folder, require_replaceable
from usertune.pipeline import steps
from usertune.pipeline.layout import Result
from usertune.reporting.recipe import ReportRecipe
from usertune.study.schema.study import Study
from usertune.tasks.catalogue import get_task
from usertune.tasks.metrics import AGGREGATES, Metric

FORMAT = "inspect"
VERSION = 2
# Copies of screenshots in a log: longer side in pixels, quality of the JPEG.
LARGEST, QUALITY = 960, 80


def export_inspect(study: Study, folder: Path, copy_images: bool = False, force: bool = False) -> str:
    """Write one log for each experiment, and return what was written, for people.

    Args:
        study: the study; all its scores are made.
        folder: the folder to write.
        copy_images: whether smaller copies of the screenshots are in the logs, rather than their absolute paths.
        force: whether to replace an earlier export.

    Raises:
        UserError: scores are missing, stale or modified, a screenshot is missing, or the folder cannot be written.
    """
    require_replaceable(folder.absolute(), force)
    freshness, design = freshness_of(study), ReportRecipe.parse(recipes_of(study).report())
    scores = {name: _scores_of(freshness, name) for name in design.names}
    own = (result.manifest for results in scores.values() for result in results)
    require_current(freshness, own, "snakemake --profile local")
    samples = {user: read_samples(freshness.folder / f"data/user_{user}.jsonl", user) for user in design.users}
    pictures: dict[str, str] = {}
    with new_folder(folder, force, {"study": study.name, "format": FORMAT}) as hidden:
        for name in design.names:
            log = _log(study, design, name, scores[name], freshness.folder, samples, pictures if copy_images else None)
            write_json(hidden / _file_name(study, name, log["eval"]["created"]), log)
    total = sum(map(len, samples.values()))
    return f"{folder}: {len(design.names)} logs of {total:,} samples; open them by: inspect view --log-dir {folder}"


def _scores_of(freshness: Freshness, experiment: str) -> list[Result]:
    return [
        result
        for result in freshness.results.values()
        if result.step == steps.SCORE.name and result.experiment == experiment
    ]


def _log(
    study: Study,
    design: ReportRecipe,
    experiment: str,
    scores: Sequence[Result],
    folder: Path,
    samples: Mapping[str, Sequence[Sample]],
    pictures: dict[str, str] | None,
) -> dict[str, Any]:
    """Return the log of one experiment."""
    tables = [read_table((folder / result.manifest).with_suffix(".csv")) for result in scores]
    rows = {(row["user"], row["id"]): row for row in records(pd.concat(tables, ignore_index=True))}
    paths = dict.fromkeys(path for result in scores for path in result.inputs["answers"])
    batches = [read_manifest(folder / path) for path in paths]
    answers = {(answer["user"], answer["id"]): answer for batch in batches for answer in batch["predictions"]}
    metrics = _measured(design, rows.values())
    model, task = f"usertune/{experiment}", get_task(design.task)
    logged = []
    for user in design.users:
        for sample in samples[user]:
            row, answer = rows[user, sample["id"]], answers[user, sample["id"]]
            outcome = task.outcome(row, design.thresholds[0])
            logged.append(
                {
                    "id": f"{user}/{sample['id']}",
                    "epoch": 1,
                    "input": _messages(study, sample, sample["messages"][:-1], pictures),
                    "target": _text(sample["messages"][-1]),
                    "messages": [
                        *_messages(study, sample, sample["messages"][:-1], pictures),
                        {"role": "assistant", "content": answer["text"], "source": "generate", "model": model},
                    ],
                    "output": _output(model, answer),
                    "scores": {metric.name: score for metric in metrics if (score := _score(metric, row, outcome))},
                    "metadata": {
                        **{key: sample[key] for key in ("user", "episode", "step")},  # type: ignore[literal-required]
                        **(sample.get("about") or {}),
                    },
                }
            )
    return _whole(study, design, experiment, batches, metrics, logged)


def _whole(
    study: Study,
    design: ReportRecipe,
    experiment: str,
    batches: Sequence[Mapping[str, Any]],
    metrics: Sequence[Metric],
    samples: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Return a log around its samples; ids and times are those of the answers, so equal results give equal logs."""
    # Answers of another program, or of no model, have no times.
    times = sorted(time for batch in batches for time in batch.get("answered") or ())
    started, ended = (times[0], times[-1]) if times else ("1970-01-01T00:00:00+00:00",) * 2
    identity = "-".join(batch["fingerprint"][:11] for batch in batches[:2])
    (item,) = (item for item in design.experiments if item.name == experiment)
    return {
        "version": VERSION,
        "status": "success",
        "eval": {
            "eval_id": f"{experiment}-{identity}",
            "run_id": identity,
            "created": started,
            "task": study.name,
            "task_id": f"{study.name}-{experiment}",
            "dataset": {
                "name": study.name,
                "samples": len(samples),
                "sample_ids": [sample["id"] for sample in samples],
                "shuffled": False,
            },
            "model": f"usertune/{experiment}",
            "config": {},
            "packages": {},
            "metadata": {"experiment": experiment, "mode": item.kind, "task": design.task},
        },
        "plan": {"name": "plan", "steps": []},
        "results": {
            "total_samples": len(samples),
            "completed_samples": len(samples),
            "scores": [_aggregate(metric, samples) for metric in metrics],
        },
        "stats": {"started_at": started, "completed_at": ended},
        "samples": samples,
    }


def _measured(design: ReportRecipe, rows: Iterable[Mapping[str, Any]]) -> list[Metric]:
    """Return the metrics with a value for some sample, one for each column; the primary one first."""
    columns: dict[str, Metric] = {}
    for metric in design.metrics:
        columns.setdefault(metric.column, metric)
    found = list(rows)
    return [metric for column, metric in columns.items() if any(not is_missing(row.get(column)) for row in found)]


def _score(metric: Metric, row: Mapping[str, Any], outcome: str) -> dict[str, Any] | None:
    """Return the score of one answer; None where the metric does not apply to it."""
    if is_missing(row.get(metric.column)):
        return None
    x, y = row.get("x"), row.get("y")
    point = None if is_missing(x) or is_missing(y) else f"{x:g}, {y:g}"
    metadata = {"form": row["form"], "parsed": bool(row["parsed"])}
    return {"value": row[metric.column], "answer": point, "explanation": outcome, "metadata": metadata}


def _aggregate(metric: Metric, samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    values = [sample["scores"][metric.name]["value"] for sample in samples if metric.name in sample["scores"]]
    value = AGGREGATES[metric.aggregate](values)
    return {
        "name": metric.name,
        "scorer": metric.name,
        "scored_samples": len(values),
        "unscored_samples": len(samples) - len(values),
        "metrics": {metric.aggregate: {"name": metric.aggregate, "value": value}},
        "metadata": {"over": "samples"},
    }


def _output(model: str, answer: Mapping[str, Any]) -> dict[str, Any]:
    message = {"role": "assistant", "content": answer["text"], "source": "generate", "model": model}
    reason = {True: "stop", False: "max_tokens"}.get(answer.get("stopped"), "unknown")  # type: ignore[arg-type]
    found = {"model": model, "choices": [{"message": message, "stop_reason": reason}], "completion": answer["text"]}
    tokens = answer.get("new_tokens")
    return {**found, "usage": {"output_tokens": tokens, "total_tokens": tokens}} if isinstance(tokens, int) else found


def _messages(
    study: Study, sample: Sample, turns: Sequence[Any], pictures: dict[str, str] | None
) -> list[dict[str, Any]]:
    """Return turns as Inspect has them; the images of a sample come in the order of its parts."""
    images = iter(sample["images"])
    found = []
    for turn in turns:
        content = [
            {"type": "text", "text": part.get("text", "")}
            if part["type"] == "text"
            else {"type": "image", "image": _image(study, sample, next(images), pictures)}
            for part in turn["content"]
        ]
        found.append({"role": turn["role"], "content": content, "source": "input"})
    return found


def _image(study: Study, sample: Sample, record: Any, pictures: dict[str, str] | None) -> str:
    """Return the absolute path of a screenshot, or with ``pictures`` a copy of it as a data URL."""
    root = Path(study.dataset.root)
    try:
        if pictures is None:
            return str(locate(root, record).absolute())
        if record["sha256"] not in pictures:
            image = load_image(root, record)
            image.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
            content = io.BytesIO()
            image.save(content, "JPEG", quality=QUALITY)
            pictures[record["sha256"]] = base64.b64encode(content.getvalue()).decode("ascii")
    except BadImageError as error:
        raise UserError(f"user {sample['user']}, sample {sample['id']!r}: {error}") from None
    return f"data:image/jpeg;base64,{pictures[record['sha256']]}"


def _text(turn: Mapping[str, Any]) -> str:
    return "\n".join(part.get("text", "") for part in turn["content"] if part["type"] == "text")


def _file_name(study: Study, experiment: str, created: str) -> str:
    """Return a file name as Inspect writes them: time, task and what tells logs of one time apart."""
    name = f"{created}_{study.name}_{experiment}"
    return re.sub(r"[^A-Za-z0-9_+-]", "-", name) + ".json"

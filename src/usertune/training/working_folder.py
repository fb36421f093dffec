"""The working folder of one training: its checkpoints, its weights and losses, and whether it is complete.

Does not import torch.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from usertune.core.clock import utc_now
from usertune.core.errors import UserError
from usertune.core.hashing import digest, digest_bytes, digest_file, digest_folder
from usertune.core.manifest import read_result, write_result
from usertune.models.base_folder import model_files
from usertune.runtime.provenance import UNKNOWN, Provenance, current_provenance, differences, distinct
from usertune.training import effort
from usertune.training.attempts import final_failures_kept
from usertune.training.kept_files import describe_kept, missing_in, remove_kept
from usertune.training.micro_batch import micro_batch_of_attempt
from usertune.training.recipe import Execution

logger = logging.getLogger(__name__)

COMPLETE = "complete.json"
WEIGHTS = "weights"
LOSS_TABLE = "training_log.csv"
PROVENANCE = "provenance.json"
# The name of ``provenance`` in working folders of older releases, which remain valid.
OLD_PROVENANCE = "made_with"


def work_folder(manifest_file: Path, fingerprint: str) -> Path:
    """Return the folder of working checkpoints and weights of a training, next to its manifest."""
    return manifest_file.parent / fingerprint[:16]


def attempted(
    work: Path,
    attempt: int,
    execution: Execution,
    share: int,
    gpus: AbstractContextManager[list[str]],
    train: Callable[[Execution], dict[str, Any]],
) -> dict[str, Any]:
    """Train once, and write the result into the working folder.

    Args:
        work: the working folder.
        attempt: 1, 2, ... in one run of the workflow.
        execution: settings of the study that change only the last digits.
        share: samples per optimizer step and process.
        gpus: holds GPUs while training and gives their ids.
        train: trains with the settings of this attempt, and returns measurements and provenance.

    Raises:
        FinalError: another attempt would fail in the same way.
        LackOfMemoryError: memory ran out; another attempt takes fewer samples at once.
    """
    with (
        final_failures_kept(work, attempt),
        gpus as devices,
        micro_batch_of_attempt(work, attempt, execution.micro_batch_size, share) as micro_batch_size,
    ):
        if micro_batch_size != execution.micro_batch_size:
            # Memory ran out: nothing takes more of it than it must.
            recomputed = {"gradient_checkpointing": True} if execution.gradient_checkpointing == "auto" else {}
            execution = execution.model_copy(update={"image_memory": 0.0, **recomputed})
        execution = execution.model_copy(update={"micro_batch_size": micro_batch_size})
        measured = train(execution)
        kept = describe_kept(work)
        result = {
            **measured,
            **_digests(work),
            **({"kept": kept} if kept else {}),
            "execution": execution.model_dump(exclude={"tracking"}),
            "finished": utc_now(),
        }
    result["gpus"] = devices
    write_result(work / COMPLETE, result)
    effort.forget(work)
    _remove_working_checkpoints(work)
    return result


def completed(work: Path, steps: Sequence[int] = ()) -> dict[str, Any] | None:
    """Return the recorded result if training is complete, its files are unchanged, and it kept the weights of steps."""
    if not (work / COMPLETE).exists():
        return None
    try:
        result = read_result(work / COMPLETE)
        losses = (work / LOSS_TABLE).read_bytes()
        if digest_bytes(losses) == result["losses_sha256"] and digest_folder(work / WEIGHTS) == result["weights_files"]:
            old = result.pop(OLD_PROVENANCE, [UNKNOWN])
            result.setdefault("provenance", old)
            if result.get("kept", {}) == describe_kept(work):
                if not (missing := missing_in(result, steps)):
                    return result
                logger.info("the weights of the steps %s were not kept; training again", missing)
                (work / COMPLETE).unlink()
                return None
    except (UserError, OSError, KeyError) as problem:
        logger.warning("%s", problem)
    logger.warning("%s: the weights or the losses are missing or damaged; training again", work)
    (work / COMPLETE).unlink()
    return None


def discard_mismatched(work: Path, step: str, family: tuple[str, ...]) -> None:
    """Remove a result and checkpoints made with code or packages other than the current ones."""
    now = current_provenance(step, plug_ins=family)
    for path in (work / COMPLETE, work / PROVENANCE):
        try:
            records = _read_provenance(path) if path.exists() else []
        except UserError as problem:
            logger.warning("%s", problem)
            records = [UNKNOWN]
        if changes := [change for record in records for change in differences(record, now)]:
            logger.info("made with other code or packages (%s); training again", ", ".join(changes))
            _remove_working_checkpoints(work)
            effort.forget(work)
            remove_kept(work)
            for stale in (work / COMPLETE, work / PROVENANCE):
                stale.unlink(missing_ok=True)


def _read_provenance(path: Path) -> list[Provenance]:
    record = read_result(path)
    found: list[Provenance] = record.get("provenance") or record.get(OLD_PROVENANCE) or [UNKNOWN]
    return found


def record_provenance(work: Path, step: str, device: str, family: tuple[str, ...]) -> list[Provenance]:
    """Record this process's provenance; return it after that of the attempts it resumes."""
    path = work / PROVENANCE
    resumed = any(work.glob("checkpoint-*"))
    try:
        before = _read_provenance(path) if resumed and path.exists() else []
    except UserError as problem:
        logger.warning("%s", problem)
        before = [UNKNOWN]
    provenance = distinct([*before, current_provenance(step, device, family)])
    write_result(path, {"provenance": provenance})
    return provenance


def _digests(work: Path) -> dict[str, Any]:
    files = digest_folder(work / WEIGHTS)
    deciding = {name: files[name] for name in model_files(work / WEIGHTS)}
    return {
        "losses_sha256": digest_file(work / LOSS_TABLE),
        "weights_files": files,
        "weights_fingerprint": digest(deciding),
    }


def _remove_working_checkpoints(work: Path) -> None:
    for pattern in ("checkpoint-*", "best-*"):
        for path in work.glob(pattern):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)

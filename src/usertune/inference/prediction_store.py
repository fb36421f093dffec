"""The prediction store, which keeps every generated answer so that it is generated only once.

A folder for each model and generation setting (``namespace``) contains a folder for each user, with segments of JSON
lines. Every writer appends to a segment of its own, so concurrent jobs, or an attempt that a scheduler believes dead,
cannot damage each other's lines. Lines that a crash cut short are ignored.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from usertune.core.errors import UserError
from usertune.core.files import naming
from usertune.core.hashing import digest
from usertune.core.manifest import read_result, write_result
from usertune.runtime.provenance import Provenance

logger = logging.getLogger(__name__)

CHECK_DIGITS = 16
EFFECT = "adapter_effect.json"
# The name of ``provenance`` in lines and folders of older releases, which remain valid.
OLD_PROVENANCE = "made_with"
EFFECT_AT_SERVERS = ("disagreement", "bound", "identical_answers")
# Left out of lines that have none: what only servers say, and what few machines measure.
OF_SOME = frozenset({"prompt_tokens", "system_fingerprint", "joules"})


@dataclass(frozen=True)
class Prediction:
    """A model's answer: its text, its length in tokens, and whether it ended before the length limit.

    Predictions are equal if they differ only in batch size, duration, energy, time or what a server says of itself.
    """

    text: str
    new_tokens: int | None
    stopped: bool
    provenance: str = ""
    """Key of the provenance record, see `PredictionStore.remember`; engines leave it empty."""
    batch_size: int | None = field(default=None, compare=False)
    """Maximum number of samples generated at once; None in lines of older releases."""
    seconds: float | None = field(default=None, compare=False)
    """Its share of the batch's generation time; None in lines of older releases."""
    joules: float | None = field(default=None, compare=False)
    """Its share of the energy of the batch's GPUs, see `usertune.runtime.energy`; None if unknown."""
    at: str | None = field(default=None, compare=False)
    """Time of generation, see `usertune.core.clock`; None in lines of older releases."""
    prompt_tokens: int | None = field(default=None, compare=False)
    """Length of the request in tokens, as a server counts it; None if it does not say, or for a model here."""
    system_fingerprint: str | None = field(default=None, compare=False)
    """What a server says of its version and settings with an answer; None if it says nothing."""


class PredictionStore:
    """Predictions of one model with one generation setting.

    Args:
        folder: the store's folder, which all studies with the same results folder share.
        namespace: fingerprint of the model and the generation setting.
    """

    def __init__(self, folder: str | Path, namespace: str) -> None:
        self.folder = Path(folder) / namespace[:32]

    def read(self, user: str, accept: Callable[[Prediction], bool] | None = None) -> dict[str, Prediction]:
        """Return the stored predictions of a user, by digest of the request.

        Args:
            user: the user's id.
            accept: whether a prediction counts; None accepts all.
        """
        found: dict[str, Prediction] = {}
        for segment in sorted((self.folder / f"user_{user}").glob("*.jsonl")):
            found.update(item for item in _read_segment(segment) if accept is None or accept(item[1]))
        return found

    def remember(self, record: Provenance) -> str:
        """Write a record of code, packages and machine; return its key, which predictions refer to."""
        key = digest(record)[:CHECK_DIGITS]
        if key not in self.current_provenance():
            write_result(self.folder / "provenance" / f"{key}.json", record)
        return key

    def current_provenance(self) -> dict[str, Provenance]:
        """Return the provenance records by key; damaged ones are left out."""
        found = {}
        for path in (*self.folder.glob("provenance/*.json"), *self.folder.glob(f"{OLD_PROVENANCE}/*.json")):
            try:
                found[path.stem] = read_result(path)
            except UserError as problem:
                logger.warning("%s", problem)
        return found

    def remember_effect(self, effect: dict[str, Any] | None) -> None:
        """Write the result of `usertune.inference.engine.Engine.effect`; None writes nothing."""
        if effect is not None:
            write_result(self.folder / EFFECT, effect)

    def effect(self) -> dict[str, Any] | None:
        """Return what `remember_effect` wrote (``probes``, ``largest_change``); None if unknown."""
        try:
            found = read_result(self.folder / EFFECT) if (self.folder / EFFECT).exists() else {}
            more = {key: found[key] for key in ("merged", *EFFECT_AT_SERVERS) if key in found}
            return {**{key: found[key] for key in ("probes", "largest_change")}, **more} if found else None
        except (UserError, KeyError) as problem:
            logger.warning("%s", problem)
            return None

    def writer(self) -> PredictionWriter:
        """Return what appends predictions to segments of its own."""
        return PredictionWriter(self.folder)


class PredictionWriter:
    """Appends predictions to segments of its own; predictions survive a crash once `append` has returned.

    No file stays open, because a job may answer thousands of pairs of model and user.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        # Sorting by name sorts by time, so the newest answer to a request counts.
        self._name = f"{time.time_ns()}-{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}.jsonl"

    def append(self, predictions: Iterable[tuple[str, str, Prediction]]) -> None:
        """Store (user, request digest, prediction) rows, and flush them to disk.

        Raises:
            OSError: the disk is full or cannot be written.
        """
        lines: dict[str, list[bytes]] = {}
        for user, request, prediction in predictions:
            fields = {
                key: value for key, value in asdict(prediction).items() if value is not None or key not in OF_SOME
            }
            record = {"request": request, **fields}
            line = json.dumps({**record, "check": _check(record)}, ensure_ascii=False)
            lines.setdefault(user, []).append(line.encode("utf-8") + b"\n")
        for user, own in lines.items():
            path = self._folder / f"user_{user}" / self._name
            path.parent.mkdir(parents=True, exist_ok=True)
            with naming(path), path.open("ab") as segment:
                segment.writelines(own)
                segment.flush()
                os.fsync(segment.fileno())


def _read_segment(path: Path) -> Iterator[tuple[str, Prediction]]:
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not line:
            continue
        try:
            record = json.loads(line)
            check = record.pop("check")
            if check != _check(record):
                raise ValueError("the line does not match its check digits")
            if OLD_PROVENANCE in record:
                record["provenance"] = record.pop(OLD_PROVENANCE)
            yield record.pop("request"), Prediction(**record)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            logger.warning("%s:%d: damaged or incomplete line ignored", path, number)


def _check(record: dict[str, object]) -> str:
    return digest(record)[:CHECK_DIGITS]

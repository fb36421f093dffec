"""Ends later attempts of a run at once where training would only fail again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from usertune.core.errors import FinalError, UserError
from usertune.core.files import read_json, write_json

NOTE = "failed.json"


@contextmanager
def final_failures_kept(work: Path, attempt: int) -> Iterator[None]:
    """Note a `FinalError` of the block; later attempts raise it again without entering the block.

    Snakemake retries every failed job as often as the profile says, whatever its exit code. The first attempt of a new
    run enters the block again.

    Args:
        work: working folder of the training, for the note.
        attempt: 1, 2, ... in one run of the workflow.

    Raises:
        FinalError: from the block, or from the previous attempt.
    """
    note = work / NOTE
    if attempt > 1 and (before := _read(note)):
        raise FinalError(f"{before} (the previous attempt failed with this error; this one was not started)")
    note.unlink(missing_ok=True)
    try:
        yield
    except FinalError as error:
        with suppress(OSError):
            write_json(note, {"message": str(error)})
        raise


def _read(note: Path) -> str | None:
    try:
        message = read_json(note).get("message") if note.exists() else None
    except UserError:
        return None
    return message if isinstance(message, str) else None

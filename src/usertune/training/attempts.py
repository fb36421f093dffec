"""Further attempts of one run at a training that can only fail again: they end at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from usertune.core.errors import FinalError, UserError
from usertune.core.files import read_json, write_json

NOTE = "failed.json"


@contextmanager
def final_failures_kept(work: Path, attempt: int) -> Iterator[None]:
    """Note a `FinalError` of the block, and raise it again in further attempts without entering the block.

    Snakemake repeats every failed job as often as the profile says, whatever its exit code. A new run, whose attempt
    is the first, enters the block again.

    Args:
        work: working folder of the training, where the note is left.
        attempt: 1, 2, ... in one run of the workflow.

    Raises:
        FinalError: of the block, or of the attempt before.
    """
    note = work / NOTE
    if attempt > 1 and (before := _read(note)):
        raise FinalError(f"{before} (so ended the attempt before; this one would too, and did not begin)")
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

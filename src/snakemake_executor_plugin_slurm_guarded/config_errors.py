"""A broken ``--configfile``, reported with file, line and column.

Snakemake reads it before any Snakefile, and its message names neither the file nor the line. Plugins are the only
code that is loaded earlier, so this wraps Snakemake's reader: it accepts and refuses the same files as before, with
another message.
"""

import os
from pathlib import Path

import snakemake.common.configfile as snakemake_reader  # type: ignore[import-untyped]
import yaml
from snakemake_interface_common.exceptions import WorkflowError

READER = "_load_configfile"


def name_broken_files() -> None:
    """Let errors of Snakemake's reader of config files name file and line; a release without this reader is left."""
    original = getattr(snakemake_reader, READER, None)
    if original is None or hasattr(original, "original"):
        return

    def read(source, filetype="Config"):  # type: ignore[no-untyped-def]
        try:
            return original(source, filetype)
        except Exception as error:
            cause = _cause(error)
            traceback = error.__traceback__ and error.__traceback__.tb_next
            if not (isinstance(source, str | Path) and isinstance(cause, yaml.YAMLError | ValueError) and traceback):
                raise
            # Snakemake shows every line of a traceback up to the innermost one of its own.
            traceback.tb_next = None
            raise WorkflowError(_problem(source, cause)).with_traceback(traceback) from None

    read.original = original  # type: ignore[attr-defined]
    setattr(snakemake_reader, READER, read)


def _cause(error: BaseException) -> BaseException:
    """Return the parser's error, which Snakemake and its template engine handle by raising others."""
    while error.__context__ is not None:
        error = error.__context__
    return error


def _problem(file: str | Path, error: BaseException) -> str:
    """Say what is wrong with a file, and in which line and column if the parser's error has them."""
    name = os.path.relpath(file)
    mark, begin = getattr(error, "problem_mark", None), getattr(error, "context_mark", None)
    if not isinstance(error, yaml.MarkedYAMLError) or mark is None:
        return f"{name}: not valid YAML: {error}"
    parts = [error.problem or "it cannot be read"]
    if error.context:
        where = f" (started in line {begin.line + 1})" if begin and begin.line != mark.line else ""
        parts.append(f"{error.context}{where}")
    if "'\\t'" in parts[0]:
        parts.append("indent with spaces, YAML does not allow tabs")
    return f"{name}:{mark.line + 1}: not valid YAML (column {mark.column + 1}): {'; '.join(parts)}"

"""A study that is no valid YAML, named with file and line.

Snakemake reads ``--configfile`` before it reads a Snakefile, and says of a broken one neither which it was nor where.
Plugins are the only code of ours that is loaded earlier. So this wraps Snakemake's reader: what it reads stays the
same, and so does what it refuses; a refusal alone is worded better.
"""

import os

import snakemake.common.configfile as snakemake_reader  # type: ignore[import-untyped]
from snakemake_interface_common.exceptions import WorkflowError

READER = "_load_configfile"


def name_broken_files() -> None:
    """Let errors of Snakemake's reader of config files name file and line; of releases without it, do nothing."""
    original = getattr(snakemake_reader, READER, None)
    if original is None or hasattr(original, "original"):
        return

    def read(configpath_or_obj, filetype="Config"):  # type: ignore[no-untyped-def]
        try:
            return original(configpath_or_obj, filetype)
        except Exception as error:
            problem = _problem(configpath_or_obj)
            traceback = error.__traceback__ and error.__traceback__.tb_next
            if problem is None or traceback is None:
                raise
            # Snakemake shows the person every line of a traceback up to the innermost one of its own.
            traceback.tb_next = None
            raise WorkflowError(problem).with_traceback(traceback) from None

    read.original = original  # type: ignore[attr-defined]
    setattr(snakemake_reader, READER, read)


def _problem(file: object) -> str | None:
    """Say what is wrong with a file as YAML; None if nothing is, or if it is no file."""
    from usertune.core.errors import UserError
    from usertune.study.files import read_yaml

    if not isinstance(file, str | os.PathLike):
        return None
    try:
        read_yaml(os.path.relpath(file))
    except UserError as error:
        return str(error)
    return None

"""Copies of the study among its results: one for people, a study file of its own, and one for the workflow's jobs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from usertune.core.formatting import printable
from usertune.core.users import format_users
from usertune.models.base_folder import is_local
from usertune.study.files import SPLITS
from usertune.study.schema.study import Study

WIDTH = 120


def study_text(study: Study, written: Mapping[str, str]) -> str:
    """Return a study as YAML that reads as the same study, and below it, in comments, what its author wrote.

    Args:
        study: the study, with what the command line changed.
        written: the text of the files that the study was read from, by name.
    """
    values = _with_absolute_paths(study.model_dump(mode="json", include=set(Study.model_json_schema()["properties"])))
    values["users"] = {split: format_users(getattr(study.users, split)) or [] for split in SPLITS}
    parts = [
        f"# The study {study.name} as it was run: every default, and what the command line changed, is written out.",
        "# Paths are absolute, so that this file can be read as a study from wherever it lies.",
        yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=WIDTH).rstrip("\n"),
    ]
    for name, text in written.items():
        parts += ["", f"# As written in {_line(name)}:", *(f"#   {_line(line)}".rstrip() for line in _lines(text))]
    return "\n".join(parts) + "\n"


def resolved_text(study: Study) -> str:
    """Return a study as JSON, as the workflow hands it to its jobs; `read_resolved` returns an equal study."""
    return json.dumps({**study.model_dump(mode="json"), "origin": study.origin.model_dump(mode="json")})


def read_resolved(file: Path) -> Study:
    """Return the study that the workflow wrote.

    Raises:
        OSError: the file cannot be read.
        pydantic.ValidationError: it does not hold a study.
    """
    return Study.model_validate_json(file.read_bytes())


def read_written(files: list[str]) -> dict[str, str]:
    """Return the text of a study's files by name; one that cannot be read is left out, since the study was read."""
    found = {}
    for file in files:
        try:
            found[file] = Path(file).read_text(encoding="utf-8-sig")
        except (OSError, ValueError):
            continue
    return found


def _with_absolute_paths(values: dict[str, Any]) -> dict[str, Any]:
    base = values["base_model"]
    model = _absolute(base["path"]) if is_local(base["path"]) else base["path"]
    return {
        **values,
        "results": _absolute(values["results"]),
        "dataset": {**values["dataset"], "root": _absolute(values["dataset"]["root"])},
        "base_model": {**base, "path": model},
        "container": _absolute(values["container"]) if values["container"] else None,
    }


def _absolute(path: str) -> str:
    # Links keep the names that people gave them.
    return str(Path(path).expanduser().absolute())


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as they are, in a block of their own."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # What is not printable would be written as it is, and read as a line end or a blank.
    plain = text.replace("\n", "").isprintable()
    style = ("|" if "\n" in text else None) if plain else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def _lines(text: str) -> list[str]:
    # Not splitlines, which also ends lines where YAML and editors do not.
    return text.rstrip("\n").replace("\r\n", "\n").split("\n")


def _line(text: Any) -> str:
    """Return a text that stays one line of YAML's comment: control characters and other line ends are written out."""
    return printable(text, keep="\t")

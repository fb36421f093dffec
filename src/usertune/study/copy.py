"""Copies of the study in its results: a study file for people, and JSON for the workflow's jobs."""

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
from usertune.study.schema.elsewhere import made_elsewhere
from usertune.study.schema.study import Study, default_results

WIDTH = 120


def study_text(study: Study, written: Mapping[str, str]) -> str:
    """Return a study as YAML that loads as the same study, followed by its original files as comments.

    Args:
        study: the study, including changes from the command line.
        written: file name -> text of the files that the study was read from.
    """
    values = _with_absolute_paths(study.model_dump(mode="json", include=set(Study.model_json_schema()["properties"])))
    values["users"] = {split: format_users(getattr(study.users, split)) or [] for split in SPLITS}
    if study.users.seed:
        values["users"]["seed"] = study.users.seed
    parts = [
        f"# The study {study.name} as it was run, with all defaults and the changes from the command line.",
        "# Paths are absolute, so this file is a valid study in any folder.",
        yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=WIDTH).rstrip("\n"),
    ]
    for name, text in written.items():
        parts += ["", f"# As written in {_line(name)}:", *(f"#   {_line(line)}".rstrip() for line in _lines(text))]
    return "\n".join(parts) + "\n"


def public_study_text(study: Study, base_model: str, commit: str | None) -> str:
    """Return a study as YAML that names no folder of this machine: raw data, results and models are placeholders.

    Args:
        study: the study, including changes from the command line.
        base_model: name of the base model.
        commit: its commit on the hub, if known.
    """
    values = study.model_dump(mode="json", include=set(Study.model_json_schema()["properties"]))
    values |= {"results": default_results(study.name), "container": None}
    values["users"] |= {split: format_users(getattr(study.users, split)) or [] for split in SPLITS}
    values["dataset"]["root"] = "data"
    values["base_model"] |= {"path": base_model, "revision": study.base_model.revision or commit}
    for experiment in values["experiments"].values():
        experiment |= {key: Path(experiment[key]).name for key in made_elsewhere(experiment)}
    parts = [
        f"# The study {study.name} as it was run, with all defaults. To run it, set dataset.root to the raw data and",
        "# base_model.path to the base model.",
        yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=WIDTH).rstrip("\n"),
    ]
    return "\n".join(parts) + "\n"


def resolved_text(study: Study) -> str:
    """Return a study as JSON for the jobs of the workflow; `read_resolved` returns an equal study."""
    return json.dumps({**study.model_dump(mode="json"), "origin": study.origin.model_dump(mode="json")})


def read_resolved(file: Path) -> Study:
    """Read a study that `resolved_text` wrote.

    Raises:
        OSError: the file cannot be read.
        pydantic.ValidationError: the file does not contain a study.
    """
    return Study.model_validate_json(file.read_bytes())


def read_written(files: list[str]) -> dict[str, str]:
    """Return ``{file name: text}`` of a study's files, without those that can no longer be read."""
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
        "experiments": {
            name: {**own, **{key: _absolute(own[key]) for key in made_elsewhere(own)}}
            for name, own in values["experiments"].items()
        },
        "container": _absolute(values["container"]) if values["container"] else None,
    }


def _absolute(path: str) -> str:
    # Not resolve(): symbolic links keep their names.
    return str(Path(path).expanduser().absolute())


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as literal blocks."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # Without quotes, YAML would read an unprintable character as a line end or a space.
    plain = text.replace("\n", "").isprintable()
    style = ("|" if "\n" in text else None) if plain else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def _lines(text: str) -> list[str]:
    # Not splitlines(), which splits at more characters than YAML and editors do.
    return text.rstrip("\n").replace("\r\n", "\n").split("\n")


def _line(text: Any) -> str:
    """Return a text as one line of a YAML comment: control characters and line ends are escaped."""
    return printable(text, keep="\t")

"""Loads a study from YAML. Errors name file, line, key, value and the allowed values."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from usertune.core.described import DescribedSchema
from usertune.core.errors import UserError, shown
from usertune.core.users import batch_label
from usertune.study.files import (
    USER_OVERRIDES,
    KeyPath,
    line_numbers,
    merge,
    not_too_deep,
    read_setting,
    read_yaml,
    require_short_numbers,
    users_as_written,
)
from usertune.study.paths import with_resolved_paths
from usertune.study.renamed_keys import with_latest_keys
from usertune.study.schema.base import models_in
from usertune.study.schema.elsewhere import made_elsewhere
from usertune.study.schema.experiment import Experiment
from usertune.study.schema.study import Origin, Study
from usertune.study.splits import Problem, Resolved, resolve_users
from usertune.study.sweep import Expanded, expand_sweeps


def load_study(files: Sequence[str | Path], settings: Sequence[str] = ()) -> Study:
    """Read a study from YAML files; keys of later files replace those of earlier ones.

    Args:
        files: the YAML files.
        settings: ``name=value`` texts that are merged last, as Snakemake's ``--config`` does.

    Raises:
        UserError: a file cannot be read, or the study is not valid; one message lists all problems.
    """
    config: dict[str, Any] = {}
    for file in files:
        config = merge(config, read_yaml(file))
    for setting in settings:
        config = merge(config, read_setting(setting))
    return study_from_config(config, files, settings)


def study_from_config(
    config: Mapping[str, Any], files: Sequence[str | Path] = (), command_line: Sequence[str] = ()
) -> Study:
    """Validate a configuration that was already read (such as Snakemake's ``config``).

    Args:
        config: the merged configuration. ``train_users``, ``validation_users`` and ``test_users`` at its top level
            replace the lists under ``users``; tables, figures and report then have a separate folder.
        files: the YAML files of ``config``, for file and line in errors and for user lists as text.
        command_line: ``name=value`` texts of ``--config``. Their paths are relative to the working directory, other
            paths to the file that sets them.

    Raises:
        UserError: the study is not valid; the message lists every problem with line, key, value and solution.
    """
    name = " + ".join(str(file) for file in files) or "the configuration"
    with not_too_deep(name):
        require_short_numbers(config, name)
        lines = line_numbers(files)
        config = users_as_written(config, files, command_line)
        config = with_latest_keys(config, files, command_line)
    if "origin" in config:
        raise UserError(
            f"{_place(('origin',), lines)}origin: unknown key; the keys here are: {', '.join(_allowed_keys(()))}"
        )
    raw = {key: value for key, value in config.items() if key not in USER_OVERRIDES}
    raw = with_resolved_paths(raw, lines, command_line)
    resolved = resolve_users(config, raw.get("dataset"), lines, command_line)
    if resolved.users is not None:
        raw["users"] = resolved.users
    expanded = expand_sweeps(raw)
    problems = [_in_words(problem, lines) for problem in (*resolved.problems, *expanded.problems)]
    try:
        study = Study.model_validate(expanded.config)
    except ValidationError as error:
        problems += _problems(error, config, expanded, lines)
    if not problems:
        return study.model_copy(update={"origin": _origin(config, study, resolved, expanded)})
    count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
    raise UserError(f"{name} is not a valid study ({count}):\n" + "\n".join(f"  {problem}" for problem in problems))


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of `Study`, as written to ``schemas/study.schema.json``."""
    schema = Study.model_json_schema(schema_generator=DescribedSchema)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _origin(config: Mapping[str, Any], study: Study, resolved: Resolved, expanded: Expanded) -> Origin:
    """Return the origin of a study (see `Origin`)."""
    # Splits with other users than in the file.
    others = {
        split: getattr(study.users, split)
        for key, split in USER_OVERRIDES.items()
        if key in config and resolved.written.get(split) != getattr(study.users, split)
    }
    label = "_".join(f"{split}_{batch_label(chosen) if chosen else 'none'}" for split, chosen in others.items())
    return Origin(
        outcomes=f"subsets/{label}/" if label else "",
        base_model=config["base_model"]["path"],
        elsewhere={
            name: config["experiments"][expanded.as_written(("experiments", name, key))[1]][key]
            for name, experiment in study.experiments.items()
            for key in made_elsewhere(experiment)
        },
    )


def _in_words(problem: Problem, lines: dict[KeyPath, str]) -> str:
    return f"{_place(problem.path, lines)}{'.'.join(problem.path)}: {problem.text}"


def _problems(
    error: ValidationError, config: Mapping[str, Any], expanded: Expanded, lines: dict[KeyPath, str]
) -> Iterator[str]:
    seen = set()
    for detail in error.errors(include_url=False):
        path = tuple(str(part) for part in detail["loc"])
        # pydantic appends "[key]" if the key itself is invalid, but a user's key could also have this name.
        if path[-1:] == ("[key]",) and detail["type"] != "extra_forbidden":
            path = path[:-1]
        written = expanded.as_written(path)
        if _is_inherited(written, config):
            continue
        key = ".".join(part[:80] for part in written) or "study"
        text = f"{_place(written, lines)}{key}: {_explain(detail, path)}"
        if text not in seen:
            seen.add(text)
            yield text


def _is_inherited(path: KeyPath, config: Mapping[str, Any]) -> bool:
    """Whether the key comes from the shared `training`, where the same problem is reported."""
    if len(path) < 4 or path[0] != "experiments" or path[2] != "training":
        return False
    node: Any = config
    for part in path:
        if not isinstance(node, Mapping) or part not in node:
            return True
        node = node[part]
    return False


def _explain(detail: ErrorDetails, path: KeyPath) -> str:
    context = detail.get("ctx", {})
    value = detail["input"]
    kind = detail["type"]
    if kind == "extra_forbidden":
        allowed = _allowed_keys(path[:-1])
        close = difflib.get_close_matches(path[-1], allowed, n=1)
        hint = f"did you mean {close[0]!r}? The" if close else "the"
        return f"unknown key; {hint} keys here are: {', '.join(allowed)}"
    if kind == "missing":
        return "this key is required but missing"
    if kind == "literal_error":
        return f"{shown(value)} is not allowed; use one of: {context['expected']}"
    if kind == "value_error":
        return str(context["error"])
    if kind == "string_pattern_mismatch":
        return f"{shown(value)} is not a safe name; it must match {context['pattern']}"
    if kind == "string_type" and isinstance(value, bool | int | float):
        return f"YAML reads this as {shown(value)}, not as text; put it in quotes"
    message = detail["msg"][0].lower() + detail["msg"][1:]
    return f"{shown(value)} is not allowed; {message}"


def _allowed_keys(path: KeyPath) -> list[str]:
    """Return the keys that the section at ``path`` allows."""
    model: type[BaseModel] = Study
    parts = iter(path)
    for part in parts:
        model = next(models_in(model.model_fields[part].annotation))
        if model is Experiment:
            next(parts, None)  # skip the experiment's name
    return [*(key for key in model.model_fields if key != "origin"), *(USER_OVERRIDES if model is Study else ())]


def _place(path: KeyPath, lines: dict[KeyPath, str]) -> str:
    for length in range(len(path), 0, -1):
        if path[:length] in lines:
            return f"{lines[path[:length]]}: "
    return ""


def schema_text() -> str:
    """Return `json_schema` as the text of ``schemas/study.schema.json``."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"

"""Reading a study from YAML, with errors that name file, line, key, value and what is allowed."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from usertune.errors import UserError, shown
from usertune.experiments import Experiment
from usertune.study import SPLITS, Study

KeyPath = tuple[str, ...]
# Users are set on the command line (snakemake --config test_users=1-3) by these top-level keys.
USER_OVERRIDES = {f"{split}_users": split for split in SPLITS}
# Far beyond any study. A few lines of YAML can stand for more: an alias may repeat what holds aliases, or itself.
MAX_SIZE = 1_000_000
MAX_DEPTH = 20
MAX_DIGITS = 18
LONGEST_YAML_ERROR = 1000


def load_study(files: Sequence[str | Path]) -> Study:
    """Read a study from YAML files; in later files a key replaces the same key of earlier ones.

    Raises:
        UserError: a file cannot be read, or the study is not valid (all problems in one message).
    """
    config: dict[str, Any] = {}
    for file in files:
        config = _update(config, _read_yaml(file))
    return study_from_config(config, files)


def study_from_config(config: Mapping[str, Any], files: Sequence[str | Path] = ()) -> Study:
    """Check a study that was already read (as Snakemake's ``config``).

    Args:
        config: the merged configuration; ``train_users``, ``validation_users`` and ``test_users`` at its
            top level replace the lists under ``users``.
        files: where it came from, so that errors can name file and line.

    Raises:
        UserError: the study is not valid; the message lists every problem with line, key, value and remedy.
    """
    name = " + ".join(str(file) for file in files) or "the configuration"
    _require_bounded(config, name)
    lines = _line_numbers(files)
    raw = _with_user_overrides(config)
    try:
        return Study.model_validate(raw)
    except ValidationError as error:
        problems = list(_problems(error, config, lines))
    count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
    raise UserError(f"{name} is not a valid study ({count}):\n" + "\n".join(f"  {problem}" for problem in problems))


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of `Study`, as written to ``schemas/study.schema.json``."""
    schema = Study.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _with_user_overrides(config: Mapping[str, Any]) -> dict[str, Any]:
    raw = {key: value for key, value in config.items() if key not in USER_OVERRIDES}
    overrides = {split: config[key] for key, split in USER_OVERRIDES.items() if key in config}
    if overrides:
        users = raw.get("users")
        raw["users"] = {**(users if isinstance(users, dict) else {}), **overrides}
    return raw


def _problems(error: ValidationError, config: Mapping[str, Any], lines: dict[KeyPath, str]) -> Iterator[str]:
    seen = set()
    for detail in error.errors(include_url=False):
        path = tuple(str(part) for part in detail["loc"])
        # This is how pydantic says that it is the last key itself which is wrong; but somebody's key may be called so.
        if path[-1:] == ("[key]",) and detail["type"] != "extra_forbidden":
            path = path[:-1]
        if _is_inherited(path, config):
            continue
        key = ".".join(part[:80] for part in path) or "study"
        text = f"{_place(path, lines)}{key}: {_explain(detail, path)}"
        if text not in seen:
            seen.add(text)
            yield text


def _is_inherited(path: KeyPath, config: Mapping[str, Any]) -> bool:
    """Whether the key was filled in from the shared `training`, where the same problem is reported."""
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
        hint = f"did you mean {close[0]!r}? " if close else ""
        return f"unknown key; {hint}The keys here are: {', '.join(allowed)}"
    if kind == "missing":
        return "this key is needed and is not there"
    if kind == "literal_error":
        return f"{shown(value)} is not allowed; use one of: {context['expected']}"
    if kind == "value_error":
        return str(context["error"])
    if kind == "string_pattern_mismatch":
        return f"{shown(value)} is not a safe name; it must match {context['pattern']}"
    message = detail["msg"][0].lower() + detail["msg"][1:]
    return f"{shown(value)} is not allowed; {message}"


def _allowed_keys(path: KeyPath) -> list[str]:
    """Return the keys of the section at ``path``, by walking the typed models."""
    model: type[BaseModel] = Study
    parts = iter(path)
    for part in parts:
        model = next(_models_in(model.model_fields[part].annotation))
        if model is Experiment:
            next(parts, None)  # the experiment's name is free
    return [*model.model_fields, *(USER_OVERRIDES if model is Study else ())]


def _models_in(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in getattr(annotation, "__args__", ()):
        yield from _models_in(argument)


def _place(path: KeyPath, lines: dict[KeyPath, str]) -> str:
    for length in range(len(path), 0, -1):
        if path[:length] in lines:
            return f"{lines[path[:length]]}: "
    return ""


def _read_yaml(file: str | Path) -> dict[str, Any]:
    try:
        text = Path(file).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{file}: there is no such file") from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{file}: not valid YAML: {error}") from None
    try:
        # Before values are made of the nodes, which already takes forever when there are too many.
        _require_bounded(yaml.compose(text, Loader=yaml.SafeLoader), str(file))
        value = yaml.safe_load(text)
    except UserError:
        raise
    # An impossible date or number, or a value that does not go with its tag, is an error of any kind in PyYAML.
    except Exception as error:
        raise UserError(f"{file}: not valid YAML: {str(error)[:LONGEST_YAML_ERROR]}") from None
    if not isinstance(value, dict):
        raise UserError(f"{file}: a study is a mapping of keys to values; found {type(value).__name__}")
    return value


def _require_bounded(config: object, name: str) -> None:
    """Refuse what would take forever to check, or to show in a message; values and YAML nodes alike."""
    waiting = [(config, 0)]
    size = 0
    while waiting:
        value, depth = waiting.pop()
        size += len(value) if isinstance(value, str | bytes) else 1
        if size > MAX_SIZE or depth > MAX_DEPTH:
            raise UserError(
                f"{name} is not a valid study: with its YAML aliases written out it is longer than {MAX_SIZE:,} "
                f"characters or nested more than {MAX_DEPTH} deep"
            )
        if isinstance(value, int) and abs(value) >= 10**MAX_DIGITS:
            raise UserError(f"{name} is not a valid study: a whole number in it has more than {MAX_DIGITS} digits")
        waiting.extend((child, depth + 1) for child in _children(value))


def _children(value: object) -> list[Any]:
    match value:
        case yaml.MappingNode():
            return [node for pair in value.value for node in pair]
        case yaml.SequenceNode():
            return list(value.value)
        case yaml.ScalarNode():
            return [value.value]
        case Mapping():
            return [*value.keys(), *value.values()]
        case list() | tuple() | set():
            return list(value)
    return []


def _update(config: dict[str, Any], newer: dict[str, Any]) -> dict[str, Any]:
    both = {key for key in newer if isinstance(config.get(key), dict) and isinstance(newer[key], dict)}
    return {**config, **newer, **{key: _update(config[key], newer[key]) for key in both}}


def _line_numbers(files: Sequence[str | Path]) -> dict[KeyPath, str]:
    """Map every key path to ``file:line``, and refuse a key that stands twice (YAML would keep the last)."""
    lines: dict[KeyPath, str] = {}
    for file in files:
        try:
            node = yaml.compose(Path(file).read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
        except (OSError, ValueError, yaml.YAMLError, RecursionError):
            continue
        _require_bounded(node, str(file))
        _collect_lines(node, (), str(file), lines)
    return lines


def _collect_lines(node: yaml.Node | None, path: KeyPath, file: str, lines: dict[KeyPath, str]) -> None:
    if not isinstance(node, yaml.MappingNode):
        return
    seen: dict[str, int] = {}
    for key_node, value_node in node.value:
        key = str(key_node.value)
        line = key_node.start_mark.line + 1
        if key in seen:
            where = ".".join((*path, key))
            raise UserError(f"{file}:{line}: {where} was already set in line {seen[key]}; remove one of the two")
        seen[key] = line
        lines[(*path, key)] = f"{file}:{line}"
        _collect_lines(value_node, (*path, key), file, lines)


def schema_text() -> str:
    """Return `json_schema` as the text of ``schemas/study.schema.json``."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"

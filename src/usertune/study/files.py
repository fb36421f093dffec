"""Reads the YAML files of a study. Errors name file and line; user lists are read as text.

YAML 1.1 changes some values: 010 becomes 8, 1:30 becomes 90, 1_2 becomes 12, no becomes false. User ids are names, so
user lists are read as text. Elsewhere, octal and sexagesimal numbers are errors.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import yaml

from usertune.core.errors import UserError
from usertune.core.files import decode_text

KeyPath = tuple[str, ...]
SPLITS = ("train", "validation", "test")
# Top-level keys that set users on the command line (snakemake --config test_users=1-3).
USER_OVERRIDES = {f"{split}_users": split for split in SPLITS}
# Limits far above any real study: bytes per file, and digits per integer.
MAX_SIZE = 1_000_000
MAX_DIGITS = 18
LONGEST_YAML_ERROR = 1000
_NULL, _TEXT = "tag:yaml.org,2002:null", "tag:yaml.org,2002:str"
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


def read_yaml(file: str | Path) -> dict[str, Any]:
    """Read one file of a study, with the users of its splits as text.

    Raises:
        UserError: the file is missing, unreadable or not YAML; the message names file and line.
    """
    with not_too_deep(str(file)):
        node = _compose(file)
        value = _construct(_users_as_text(node, str(file)), str(file))
    if not isinstance(value, dict):
        raise UserError(f"{file}: a study is a mapping of keys to values; found {type(value).__name__}")
    return value


def read_setting(text: str) -> dict[str, Any]:
    """Read one ``name=value`` setting of a command line; the value is YAML, and users are text.

    Raises:
        UserError: the setting has another form, or its value is not YAML.
    """
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise UserError(f"--config {text}: write NAME=VALUE, as in test_users=1-3")
    if name in USER_OVERRIDES:
        return {name: value}
    try:
        return {name: yaml.safe_load(value)}
    except yaml.YAMLError as error:
        raise UserError(f"--config {text}: the value is not YAML: {error}") from None


def merge(config: dict[str, Any], newer: dict[str, Any]) -> dict[str, Any]:
    """Return ``config`` updated with ``newer``; nested mappings are merged key by key."""
    both = {key for key in newer if isinstance(config.get(key), dict) and isinstance(newer[key], dict)}
    return {**config, **newer, **{key: merge(config[key], newer[key]) for key in both}}


def users_as_written(
    config: Mapping[str, Any], files: Sequence[str | Path], command_line: Sequence[str] = ()
) -> dict[str, Any]:
    """Return a configuration that another program parsed, with its user lists as the original text.

    Args:
        config: the merged configuration.
        files: the YAML files of ``config``, in merge order. Unreadable files are ignored, and so are lists with another
            value in ``config`` (because the command line or a template changed it).
        command_line: ``name=value`` texts that were merged last. Snakemake parses numbers in them (``010`` is 10).
    """
    parsed: dict[str, Any] = {}
    written: dict[str, Any] = {}
    for file in files:
        try:
            node = _compose(file)
            values = _construct(node, str(file)), _construct(_users_as_text(node, str(file)), str(file))
        except UserError:
            continue
        if all(isinstance(value, dict) for value in values):
            parsed, written = merge(parsed, values[0]), merge(written, values[1])
    result = dict(config)
    for key in USER_OVERRIDES:
        if key in written and result.get(key) == parsed[key]:
            result[key] = written[key]
    own = config.get("users")
    if isinstance(own, dict) and isinstance(written.get("users"), dict) and isinstance(parsed.get("users"), dict):
        same = {key for key, value in own.items() if key in written["users"] and value == parsed["users"].get(key)}
        result["users"] = {**own, **{key: written["users"][key] for key in same}}
    for entry in command_line:
        key, _, text = entry.partition("=")
        # Snakemake keeps lists and texts, but parses numbers and booleans as Python does.
        if key in USER_OVERRIDES and isinstance(config.get(key), bool | int | float):
            result[key] = text.strip("'\"")
    return result


def line_numbers(files: Sequence[str | Path]) -> dict[KeyPath, str]:
    """Return ``{key path: "file:line"}`` for every key.

    Raises:
        UserError: a key occurs twice (YAML would keep the last), or a number is octal or sexagesimal.
    """
    lines: dict[KeyPath, str] = {}
    for file in files:
        try:
            node = yaml.compose(_text(file), Loader=yaml.SafeLoader)
        except (UserError, ValueError, yaml.YAMLError):
            continue
        _collect_lines(node, (), str(file), lines)
    return lines


@contextmanager
def not_too_deep(name: str) -> Iterator[None]:
    """Turn a `RecursionError` of the block into a `UserError`."""
    try:
        yield
    except RecursionError:
        raise UserError(f"{name}: not valid YAML: nested too deep, or an alias contains itself") from None


def require_short_numbers(value: object, name: str) -> None:
    """Check the length of all integers in ``value``, at any depth.

    Raises:
        UserError: an integer has more than `MAX_DIGITS` digits.
    """
    if isinstance(value, int) and abs(value) >= 10**MAX_DIGITS:
        raise UserError(f"{name} is not a valid study: a whole number in it has more than {MAX_DIGITS} digits")
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple | set) else ()
    for one in inner:
        require_short_numbers(one, name)


def _text(file: str | Path) -> str:
    try:
        content = Path(file).read_bytes()
        if len(content) > MAX_SIZE:
            raise UserError(f"{file}: a study has at most {MAX_SIZE:,} bytes, and this file has {len(content):,}")
        return decode_text(content)
    except FileNotFoundError:
        raise UserError(f"{file}: there is no such file") from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{file}: not valid YAML: {error}") from None


def _compose(file: str | Path) -> yaml.Node | None:
    text = _text(file)
    try:
        return yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, ValueError) as error:
        raise _not_yaml(str(file), error) from None


def _construct(node: yaml.Node | None, file: str) -> Any:
    try:
        return None if node is None else yaml.SafeLoader("").construct_document(node)
    except RecursionError:
        raise
    # PyYAML raises various exceptions for an impossible date or number, or a value that does not fit its tag.
    except Exception as error:
        raise _not_yaml(file, error, _line_that_fails(node)) from None


def _line_that_fails(node: yaml.Node | None) -> int | None:
    """Return the line of the first invalid value, for errors without a line."""
    if isinstance(node, yaml.ScalarNode):
        try:
            yaml.SafeLoader("").construct_object(node)
        except Exception:
            return int(node.start_mark.line) + 1
    children = chain(*node.value) if isinstance(node, yaml.MappingNode) else getattr(node, "value", ())
    if isinstance(node, yaml.CollectionNode):
        return next((line for child in children if (line := _line_that_fails(child))), None)
    return None


def _not_yaml(file: str, error: Exception, line: int | None = None) -> UserError:
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        location = file if line is None else f"{file}:{line}"
        return UserError(f"{location}: not valid YAML: {str(error)[:LONGEST_YAML_ERROR]}")
    problem = str(getattr(error, "problem", "") or "it cannot be read")
    context = getattr(error, "context", None)
    start = getattr(error, "context_mark", None)
    if context:
        since = f" (started in line {start.line + 1})" if start is not None and start.line != mark.line else ""
        problem = f"{problem}, {context}{since}"
    if "'\\t'" in problem:
        problem += "; indent with spaces, YAML does not allow tabs"
    return UserError(
        f"{file}:{mark.line + 1}: not valid YAML (column {mark.column + 1}): {problem}"[:LONGEST_YAML_ERROR]
    )


def _users_as_text(node: yaml.Node | None, file: str) -> yaml.Node | None:
    """Return the root node of a study, with all values of its user lists as text."""
    if not isinstance(node, yaml.MappingNode):
        return node
    pairs = []
    for key, value in _pairs(node, file):
        if str(key.value) in USER_OVERRIDES:
            value = _as_text(value)
        elif key.value == "users" and isinstance(value, yaml.MappingNode):
            lists = [(name, _as_text(own) if str(name.value) in SPLITS else own) for name, own in _pairs(value, file)]
            value = yaml.MappingNode(value.tag, lists, value.start_mark, value.end_mark)
        pairs.append((key, value))
    return yaml.MappingNode(node.tag, pairs, node.start_mark, node.end_mark)


def _pairs(node: yaml.MappingNode, file: str) -> list[tuple[yaml.Node, yaml.Node]]:
    """Return the keys and values of a mapping, including those that ``<<`` merges."""
    try:
        yaml.SafeLoader("").flatten_mapping(node)
    except yaml.YAMLError as error:
        raise _not_yaml(file, error) from None
    return list(node.value)


def _as_text(node: yaml.Node) -> yaml.Node:
    if isinstance(node, yaml.ScalarNode) and node.tag != _NULL:
        return yaml.ScalarNode(_TEXT, node.value, node.start_mark, node.end_mark, node.style)
    if isinstance(node, yaml.SequenceNode):
        items = [_as_text(item) for item in node.value]
        return yaml.SequenceNode(node.tag, items, node.start_mark, node.end_mark)
    return node


def _collect_lines(node: yaml.Node | None, path: KeyPath, file: str, lines: dict[KeyPath, str]) -> None:
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            inner = path if isinstance(item, yaml.ScalarNode) else (*path, str(index))
            if inner != path:
                lines[inner] = f"{file}:{item.start_mark.line + 1}"
            _collect_lines(item, inner, file, lines)
    elif isinstance(node, yaml.ScalarNode) and path[:1] != ("users",) and path[0] not in USER_OVERRIDES:
        _require_plain_number(node, path, file)
    elif isinstance(node, yaml.MappingNode):
        _collect_keys(node, path, file, lines)


def _collect_keys(node: yaml.MappingNode, path: KeyPath, file: str, lines: dict[KeyPath, str]) -> None:
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


def _require_plain_number(node: yaml.ScalarNode, path: KeyPath, file: str) -> None:
    """Raise UserError for octal and sexagesimal numbers, which are almost always mistakes."""
    text = str(node.value)
    if node.style is None and node.tag in _NUMBERS and (":" in text or re.fullmatch(r"[-+]?0[0-9_]+", text)):
        value = yaml.SafeLoader("").construct_object(node)
        raise UserError(
            f"{file}:{node.start_mark.line + 1}: {'.'.join(path)}: YAML reads {text} as the number {value}; "
            "write the number without leading zeros or colons, or put text in quotes"
        )

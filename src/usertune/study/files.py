"""The YAML files of a study: read with errors that name file and line, and with user lists as they are written.

YAML 1.1 makes other values of many things that people write: 010 is 8, 1:30 is 90, 1_2 is 12, 1e3 is 1000.0, no is
false. Ids are names, so user lists are read as text. Numbers elsewhere that are not what they look like are refused.
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
# Users are set on the command line (snakemake --config test_users=1-3) by these top-level keys.
USER_OVERRIDES = {f"{split}_users": split for split in SPLITS}
# Far beyond any study: bytes of a file, and digits of a whole number.
MAX_SIZE = 1_000_000
MAX_DIGITS = 18
LONGEST_YAML_ERROR = 1000
_NULL, _TEXT = "tag:yaml.org,2002:null", "tag:yaml.org,2002:str"
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


def read_yaml(file: str | Path) -> dict[str, Any]:
    """Read one file of a study; the users of its splits are texts, as they are written.

    Raises:
        UserError: the file is missing, cannot be read, or is not YAML; the message names file and line.
    """
    with not_too_deep(str(file)):
        node = _compose(file)
        value = _construct(_users_as_text(node, str(file)), str(file))
    if not isinstance(value, dict):
        raise UserError(f"{file}: a study is a mapping of keys to values; found {type(value).__name__}")
    return value


def read_setting(text: str) -> dict[str, Any]:
    """Read one ``name=value`` of a command line; the value is YAML, and users are a text.

    Raises:
        UserError: it is none.
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
    """Return ``config`` with the keys of ``newer`` in place of its own; mappings are merged key by key."""
    both = {key for key in newer if isinstance(config.get(key), dict) and isinstance(newer[key], dict)}
    return {**config, **newer, **{key: merge(config[key], newer[key]) for key in both}}


def users_as_written(
    config: Mapping[str, Any], files: Sequence[str | Path], command_line: Sequence[str] = ()
) -> dict[str, Any]:
    """Return a configuration that another program parsed, with its user lists as text again.

    Args:
        config: the merged configuration.
        files: the YAML files it was read from, in the order of merging. What cannot be read, or is not the same value
            in ``config`` (because the command line or a template changed it), is left as it is.
        command_line: ``name=value`` texts that were merged last. Snakemake makes numbers of them (``010`` is 10).
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
        # Snakemake reads lists and texts as they are written, and numbers and booleans as Python does.
        if key in USER_OVERRIDES and isinstance(config.get(key), bool | int | float):
            result[key] = text.strip("'\"")
    return result


def line_numbers(files: Sequence[str | Path]) -> dict[KeyPath, str]:
    """Map every key path to ``file:line``.

    Raises:
        UserError: a key stands twice, of which YAML would keep the last; or a number is not what it looks like.
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
    """Refuse what Python cannot walk through: a `RecursionError` of the block becomes a `UserError`."""
    try:
        yield
    except RecursionError:
        raise UserError(f"{name}: not valid YAML: nested too deep, or an alias that stands within itself") from None


def require_short_numbers(value: object, name: str) -> None:
    """Refuse whole numbers that no library takes.

    Raises:
        UserError: a number in ``value``, however deep, has too many digits.
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
    # An impossible date or number, or a value that does not go with its tag, is an error of any kind in PyYAML.
    except Exception as error:
        raise _not_yaml(file, error, _line_that_fails(node)) from None


def _line_that_fails(node: yaml.Node | None) -> int | None:
    """Return the line of the first value that cannot be made, for errors that do not say it."""
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
        place = file if line is None else f"{file}:{line}"
        return UserError(f"{place}: not valid YAML: {str(error)[:LONGEST_YAML_ERROR]}")
    problem = str(getattr(error, "problem", "") or "it cannot be read")
    context = getattr(error, "context", None)
    begun = getattr(error, "context_mark", None)
    if context:
        since = f" (begun in line {begun.line + 1})" if begun is not None and begun.line != mark.line else ""
        problem = f"{problem}, {context}{since}"
    if "'\\t'" in problem:
        problem += "; indent by spaces, YAML takes no tabs"
    return UserError(
        f"{file}:{mark.line + 1}: not valid YAML (column {mark.column + 1}): {problem}"[:LONGEST_YAML_ERROR]
    )


def _users_as_text(node: yaml.Node | None, file: str) -> yaml.Node | None:
    """Return the root node of a study with texts in place of whatever stands in its user lists."""
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
    """Return keys and values of a mapping, with those that ``<<`` merges into it."""
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
        for item in node.value:
            _collect_lines(item, path, file, lines)
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
    """Refuse octal and sexagesimal numbers, which nobody means."""
    text = str(node.value)
    if node.style is None and node.tag in _NUMBERS and (":" in text or re.fullmatch(r"[-+]?0[0-9_]+", text)):
        value = yaml.SafeLoader("").construct_object(node)
        raise UserError(
            f"{file}:{node.start_mark.line + 1}: {'.'.join(path)}: YAML reads {text} as the number {value}; "
            "write the number that you mean, without leading zeros or colons, or put a text in quotes"
        )

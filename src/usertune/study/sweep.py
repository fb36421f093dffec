"""Sweeps: one experiment of the file becomes several named experiments, one for each combination of the values.

The name of an experiment follows from its own values alone, so a value that is added renames and retrains no other.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cache
from itertools import product
from math import prod
from typing import Any

from pydantic import BaseModel

from usertune.core.errors import UserError, shown
from usertune.core.hashing import digest_bytes
from usertune.core.users import parse_users
from usertune.study.files import KeyPath
from usertune.study.schema.base import models_in
from usertune.study.schema.elsewhere import ELSEWHERE
from usertune.study.schema.experiment import Experiment
from usertune.study.splits import Problem

MOST = 500
LONGEST_NAME = 40
# Keys that say which experiments belong together, and keys whose values name one experiment.
NOT_SWEPT = ("sweep", "group", "select")
REFERENCES: tuple[KeyPath, ...] = (("like",), ("start_from",), ("adapters_of",), ("checkpoint", "of"))
_SHORT = {"learning_rate": "lr"}
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_DIGITS = 6
_ABSENT = object()

# Path of a key in an experiment -> (its path in the file, its value).
Values = dict[KeyPath, tuple[KeyPath, Any]]


@dataclass
class Expanded:
    """A configuration without sweeps.

    Attributes:
        config: the configuration; its other parts are as they were.
        problems: mistakes in the sweeps. An experiment with a mistake in its sweep stays one experiment.
        groups: name in the file -> the experiments that it became.
        members: experiment -> its name in the file, and the keys of its sweep.
    """

    config: dict[str, Any]
    problems: list[Problem] = field(default_factory=list)
    groups: dict[str, tuple[str, ...]] = field(default_factory=dict)
    members: dict[str, tuple[str, Values]] = field(default_factory=dict)

    def as_written(self, path: KeyPath) -> KeyPath:
        """Return the path in the file of a key of the expanded configuration."""
        if len(path) < 2 or path[0] != "experiments" or path[1] not in self.members:
            return path
        group, values = self.members[path[1]]
        for key, (written, _) in values.items():
            if path[2 : 2 + len(key)] == key:
                return written
        return ("experiments", group, *path[2:])


def expand_sweeps(config: Mapping[str, Any]) -> Expanded:
    """Replace every experiment that has a ``sweep`` by one experiment for each combination of the values.

    ``sweep`` is a mapping of keys to lists of values, or a list of mappings of keys to values. A key is the path of a
    key of an experiment, such as ``training.learning_rate``, or the end of one, such as ``seed``. Each experiment gets
    ``group``, the name in the file. An experiment with ``assign: matrix`` is a sweep over all values of ``shift``.
    """
    found = Expanded(dict(config))
    experiments = config.get("experiments")
    if not isinstance(experiments, Mapping):
        return found
    expanded: dict[Any, Any] = {}
    users = _number_of_test_users(config)
    for name, written in experiments.items():
        experiment = _with_every_shift(str(name), written, users, found.problems)
        if not isinstance(experiment, Mapping) or "sweep" not in experiment:
            expanded[name] = experiment
            continue
        own = {key: value for key, value in experiment.items() if key != "sweep"}
        before = len(found.problems)
        combinations = list(_combinations(str(name), experiment, found.problems))
        if len(found.problems) > before:
            expanded[name] = own
            continue
        names = [_name(str(name), values) for values in combinations]
        found.problems += _clashes(str(name), names, {*map(str, experiments), *found.members})
        found.groups[str(name)] = tuple(names)
        for member, values in zip(names, combinations, strict=True):
            found.members[member] = (str(name), values)
            expanded[member] = _with_values(own, values) | {"group": str(name)}
    found.config["experiments"] = expanded
    found.problems += _references_to_groups(expanded, found)
    _colour_groups(found)
    return found


def _number_of_test_users(config: Mapping[str, Any]) -> int:
    """Return the number of test users; 0 if there is a mistake in them, which the validation of the study reports."""
    users = config.get("users")
    try:
        return len(parse_users(users["test"])) if isinstance(users, Mapping) and "test" in users else 0
    except UserError:
        return 0


def _with_every_shift(name: str, experiment: Any, users: int, problems: list[Problem]) -> Any:
    """Return an experiment with ``assign: matrix`` as the sweep that it stands for; others as they are."""
    # One with shift and group is from the copy of a study, in which each experiment of the sweep is written out.
    if not isinstance(experiment, Mapping) or experiment.get("assign") != "matrix" or users < 2:
        return experiment
    if {"shift", "group"} <= experiment.keys():
        return experiment
    for key in ("sweep", "shift"):
        if key in experiment:
            text = "assign: matrix stands for a sweep over all values of shift; remove one of the two keys"
            problems.append(Problem(("experiments", name, key), text))
            return experiment
    return {**experiment, "sweep": {"shift": list(range(1, users))}}


def _combinations(name: str, experiment: Mapping[str, Any], problems: list[Problem]) -> Iterator[Values]:
    """Yield the values of each experiment of a sweep; mistakes are added to ``problems``."""
    sweep, path = experiment["sweep"], ("experiments", name, "sweep")
    if "group" in experiment:
        problems.append(Problem(("experiments", name, "group"), "the group of a sweep is its name; remove this key"))
    if not sweep or not isinstance(sweep, Mapping | list):
        text = "a mapping of keys to lists of values is expected, as in {seed: [0, 1, 2], learning_rate: [1e-5, 1e-4]}"
        problems.append(Problem(path, f"{text}; found {shown(sweep)}"))
    elif isinstance(sweep, Mapping):
        yield from _products(sweep, path, experiment, problems)
    else:
        yield from _settings(sweep, path, experiment, problems)


def _products(
    sweep: Mapping[Any, Any], path: KeyPath, experiment: Mapping[str, Any], problems: list[Problem]
) -> Iterator[Values]:
    lists: dict[KeyPath, list[tuple[KeyPath, Any]]] = {}
    for key, values in sweep.items():
        where = (*path, str(key))
        target = _key(str(key), where, experiment, problems)
        if target in lists:
            problems.append(Problem(where, f"{'.'.join(target or ())} is swept twice; keep one of them"))
        if _are_values(where, values, problems) and target is not None:
            lists[target] = [(where, value) for value in values]
    if (count := prod(map(len, lists.values()))) > MOST:
        problems.append(Problem(path, f"these are {count:,} experiments; at most {MOST} are possible"))
    else:
        for chosen in product(*lists.values()):
            yield dict(zip(lists, chosen, strict=True))


def _settings(
    sweep: Sequence[Any], path: KeyPath, experiment: Mapping[str, Any], problems: list[Problem]
) -> Iterator[Values]:
    seen: dict[str, int] = {}
    for index, setting in enumerate(sweep):
        where = (*path, str(index))
        if not setting or not isinstance(setting, Mapping):
            text = f"a mapping of keys to values is expected, as in {{seed: 0}}; found {shown(setting)}"
            problems.append(Problem(where, text))
            continue
        values: Values = {}
        for key, value in setting.items():
            target = _key(str(key), (*where, str(key)), experiment, problems)
            if target in values:
                problems.append(Problem((*where, str(key)), f"{'.'.join(target or ())} is set twice; keep one of them"))
            if target is not None:
                values[target] = ((*where, str(key)), value)
        text = repr(sorted((target, repr(_canonical(value))) for target, (_, value) in values.items()))
        if text in seen:
            problems.append(Problem(where, f"entries {seen[text] + 1} and {index + 1} are the same; remove one"))
        seen.setdefault(text, index)
        yield values


def _key(text: str, where: KeyPath, experiment: Mapping[str, Any], problems: list[Problem]) -> KeyPath | None:
    """Return the path of a key of an experiment; None if there is a problem with it."""
    known = _known_keys()
    parts = tuple(text.split("."))
    is_path = parts in known or parts[:-1] in _open_sections()
    found = [parts] if is_path else [path for path in known if path[-len(parts) :] == parts]
    if len(found) != 1:
        names = [".".join(path) for path in found or known]
        ends = {name.split(".")[-1]: name for name in reversed(names)}
        # Names of experiments are shorter than keys, so people try these: lr.
        ends |= {short: ends[end] for end, short in _SHORT.items() if end in ends}
        close = difflib.get_close_matches(text, [*names, *ends], n=1)
        hint = f"did you mean {ends.get(close[0], close[0])!r}? The" if close and not found else "the"
        what = "it can be any of several keys" if found else f"unknown key; {hint} keys that can be swept are"
        problems.append(Problem(where, f"{what}: {', '.join(names)}"))
        return None
    if found[0][0] in ELSEWHERE:
        problems.append(Problem(where, "a path cannot be swept; write one experiment for each, with the same group"))
        return None
    node: Any = experiment
    for part in found[0]:
        node = node.get(part, _ABSENT) if isinstance(node, Mapping) else _ABSENT
    if node is not _ABSENT:
        name = ".".join(found[0])
        problems.append(Problem(where, f"the experiment sets {name} too ({shown(node)}); remove one of the two"))
        return None
    return found[0]


def _are_values(where: KeyPath, values: Any, problems: list[Problem]) -> bool:
    """Whether these are the values of one key; if not, the mistake is added to ``problems``."""
    if not isinstance(values, list) or not values:
        found = "an empty list" if values == [] else shown(values)
        problems.append(Problem(where, f"a list of values is expected, as in [0, 1, 2]; found {found}"))
        return False
    seen = set()
    for value in values:
        text = repr(_canonical(value))
        if text in seen:
            problems.append(Problem(where, f"{shown(value)} is listed twice; keep it once"))
            return False
        seen.add(text)
    return True


@cache
def _known_keys() -> tuple[KeyPath, ...]:
    """Return the paths of all keys of an experiment that hold a value."""
    return tuple(path for path in _leaves(Experiment, ()) if path[0] not in NOT_SWEPT)


@cache
def _open_sections() -> set[KeyPath]:
    """Return the paths of sections of an experiment that take further keys, such as the settings of an engine."""
    sections = {path[:-1] for path in _known_keys() if len(path) > 1}
    return {path for path in sections if any(one.model_config.get("extra") == "allow" for one in _sections_at(path))}


def _sections_at(path: KeyPath) -> list[type[BaseModel]]:
    found: list[type[BaseModel]] = [Experiment]
    for part in path:
        fields = [one.model_fields[part] for one in found if part in one.model_fields]
        found = [inner for info in fields for inner in models_in(info.annotation)]
    return found


def _leaves(model: Any, prefix: KeyPath) -> Iterator[KeyPath]:
    seen = set()
    for name, info in model.model_fields.items():
        inner = list(models_in(info.annotation))
        for path in [leaf for one in inner for leaf in _leaves(one, (*prefix, name))] or [(*prefix, name)]:
            if path not in seen:
                seen.add(path)
                yield path


def _name(group: str, values: Values) -> str:
    """Return the name of an experiment, such as ``seeds_lr1e_5_seed0``.

    It depends on the values alone: not on their order in the file, on how a number is written, or on other values.
    """
    order = {path: index for index, path in enumerate(_known_keys())}
    keys = sorted(values, key=lambda path: (path[-1] == "seed", order.get(path, len(order)), path))
    parts = [_part(path[-1], _canonical(values[path][1])) for path in keys]
    name = "_".join([group, *parts])
    if len(name) > LONGEST_NAME:
        said = repr([(path, _canonical(values[path][1])) for path in keys])
        name = f"{name[: LONGEST_NAME - _DIGITS - 1]}_{_short_digest(said)}"
    return name


def _part(key: str, value: Any) -> str:
    key = _SHORT.get(key, key)
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf"):
        return f"{key}{re.sub('[.-]', '_', _number(value))}"
    text = "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    is_plain = re.fullmatch("[a-z0-9_]+", text) is not None and isinstance(value, str | bool | None)
    # The text "true" is another value than true.
    if not is_plain or (isinstance(value, str) and value in ("true", "false", "none")):
        word = re.sub("[^a-z0-9]+", "_", text.lower()).strip("_")[-12:]
        text = f"{word}_{_short_digest(repr(value))}"
    return f"{key}_{text}"


def _canonical(value: Any) -> Any:
    """Return a number as int if it is whole, else as float. YAML reads 1e-5 as text and 1.0e-5 as a number."""
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        value = float(value)
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _number(value: float) -> str:
    """Return a number in the shorter of its plain and its scientific notation."""
    if isinstance(value, int):
        return str(value)
    exact = Decimal(repr(value)).normalize()
    digits = "".join(map(str, exact.as_tuple().digits))
    scientific = f"{digits[0]}{'.' * (len(digits) > 1)}{digits[1:]}e{exact.adjusted()}"
    return min(f"{exact:f}", scientific, key=len)


def _short_digest(text: str) -> str:
    return digest_bytes(text.encode("utf-8"))[:_DIGITS]


def _with_values(experiment: Mapping[str, Any], values: Values) -> dict[str, Any]:
    result = dict(experiment)
    for path, (_, value) in values.items():
        result = _with_value(result, path, value)
    return result


def _with_value(section: Any, path: KeyPath, value: Any) -> Any:
    if not path:
        return value
    if section is not None and not isinstance(section, Mapping):
        return section  # validation reports it
    inner = section or {}
    return {**inner, path[0]: _with_value(inner.get(path[0]), path[1:], value)}


def _clashes(group: str, names: Sequence[str], taken: set[str]) -> Iterator[Problem]:
    for index, name in enumerate(names):
        if name in taken or name in names[:index]:
            text = f"one of its experiments is called {name}, as another experiment is; rename one of the two"
            yield Problem(("experiments", group, "sweep"), text)


def _references_to_groups(experiments: Mapping[Any, Any], found: Expanded) -> Iterator[Problem]:
    for name, experiment in experiments.items():
        for path in REFERENCES:
            node = experiment
            for part in path:
                node = node.get(part) if isinstance(node, Mapping) else None
            if isinstance(node, str) and node in found.groups:
                members = found.groups[node]
                text = f"{node} is a sweep of {len(members)} experiments; name one of them: {', '.join(members)}"
                yield Problem(found.as_written(("experiments", str(name), *path)), text)


def _colour_groups(found: Expanded) -> None:
    """Give the colour of a group in ``report.figures`` to its experiments."""
    report = found.config.get("report")
    figures = report.get("figures") if isinstance(report, Mapping) else None
    if not isinstance(report, Mapping) or not isinstance(figures, Mapping):
        return
    changed = {}
    for name, figure in figures.items():
        colours = figure.get("colours") if isinstance(figure, Mapping) else None
        if isinstance(colours, Mapping) and not found.groups.keys().isdisjoint(colours):
            own = {key: value for key, value in colours.items() if key not in found.groups}
            groups = {m: colours[group] for group in found.groups if group in colours for m in found.groups[group]}
            changed[name] = {**figure, "colours": {**groups, **own}}
    found.config["report"] = {**report, "figures": {**figures, **changed}}

"""Users of a split as a share, as the rest or as a file of ids. They become lists when a study is loaded.

In ``users``, a split can be, beside numbers, ranges and names (see `usertune.core.users`):

- ``80 %``: that share of the users that no list or file names, drawn by ``users.seed``.
- ``rest``: all users that no other split has.
- ``@FILE``: a file with one id a line, relative to the study's file. Blank lines and lines with ``#`` are ignored.

Who is drawn depends on the seed and the ids alone: users are ordered by the SHA-256 of seed and id. So it is the same
on every machine and for every order of files, and a new user moves few others. The resolved study has lists.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from usertune.core.errors import UserError, shown
from usertune.core.files import decode_text
from usertune.core.users import parse_users, sort_key
from usertune.study.files import MAX_SIZE, SPLITS, USER_OVERRIDES, KeyPath
from usertune.study.paths import folder_of
from usertune.study.schema.dataset import Dataset

FILE_MARK, REST = "@", "rest"
_SHARE = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,6})?)\s*%")


class Problem(NamedTuple):
    """What is wrong with a key of the study."""

    path: KeyPath
    text: str


@dataclass
class Resolved:
    """The section ``users`` with lists.

    Attributes:
        users: the section, with the changes of the command line.
        written: the users of each split without those changes.
        problems: what could not be resolved; such splits hold one user that is none.
    """

    users: Any
    written: dict[str, tuple[str, ...]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def resolve_users(
    config: Mapping[str, Any],
    dataset: Any,
    lines: Mapping[KeyPath, str],
    command_line: Sequence[str],
) -> Resolved:
    """Make lists of the users of each split, and put those of the command line in their place.

    Args:
        config: the merged configuration, with user lists as text.
        dataset: its section ``dataset``, with ``root`` relative to the working directory.
        lines: ``file:line`` of every key.
        command_line: ``name=value`` texts that were merged last.
    """
    section = config.get("users")
    own = section if isinstance(section, Mapping) else {}
    overrides = {split: config[key] for key, split in USER_OVERRIDES.items() if key in config}
    if not any(map(_is_rule, (*(own.get(split) for split in SPLITS), *overrides.values()))):
        written = {split: found for split in SPLITS if (found := _list_or_none(own.get(split))) is not None}
        return Resolved({**own, **overrides} if overrides else section, written)
    resolver = _Resolver(dataset, lines, command_line)
    lists = resolver.splits(own)
    written = {split: tuple(lists[split]) for split in SPLITS if split in lists}
    users = {**own, **{split: lists[split] for split in lists if _is_rule(own.get(split))}}
    for split, value in overrides.items():
        users[split] = resolver.override(split, value)
    return Resolved(users, written, resolver.problems)


def draw(users: Sequence[str], shares: Mapping[str, Fraction], seed: int) -> dict[str, list[str]]:
    """Share out users among splits, at random.

    Args:
        users: their ids, in any order.
        shares: split -> share, in the order in which ties are broken; the sum is at most 1. Numbers of users are
            rounded so that their sum is that of the shares, rounded (the largest remainders are rounded up).
        seed: another one gives other users.

    Returns:
        The users of each split, numbers first.
    """
    order = sorted(users, key=lambda user: hashlib.sha256(f"{seed}:{user}".encode()).digest())
    exact = {split: share * len(order) for split, share in shares.items()}
    counts = {split: math.floor(number) for split, number in exact.items()}
    left = math.floor(sum(exact.values()) + Fraction(1, 2)) - sum(counts.values())
    for split in sorted(exact, key=lambda split: counts[split] - exact[split])[: max(left, 0)]:
        counts[split] += 1
    drawn, start = {}, 0
    for split, count in counts.items():
        drawn[split] = sorted(order[start : start + count], key=sort_key)
        start += count
    return drawn


class _Resolver:
    """Resolves the splits of one study; collects the problems."""

    def __init__(self, dataset: Any, lines: Mapping[KeyPath, str], command_line: Sequence[str]) -> None:
        self.dataset, self.lines, self.command_line = dataset, lines, command_line
        self.problems: list[Problem] = []
        self._everyone: list[str] | None = None

    def splits(self, own: Mapping[str, Any]) -> dict[str, list[str]]:
        """Return the users of each split of the study's file."""
        lists: dict[str, list[str]] = {}
        drawn = {}
        for split in SPLITS:
            value = own.get(split)
            if _kind(value) == "file":
                lists[split] = self._file(("users", split), str(value))
            elif _is_rule(value):
                drawn[split] = str(value).strip()
            elif (found := _list_or_none(value)) is not None:
                lists[split] = list(found)
        if not drawn:
            return lists
        taken = {user for users in lists.values() for user in users}
        try:
            free = [user for user in self._list_everyone() if user not in taken]
            return {**lists, **self._draw(drawn, free, own.get("seed", 0))}
        except UserError as error:
            self.problems.append(Problem(("users", next(iter(drawn))), str(error)))
        except ValidationError:
            # The validation of the complete study reports the section `dataset`.
            pass
        return {**lists, **{split: _nobody(split) for split in drawn}}

    def override(self, split: str, value: Any) -> Any:
        """Return the users of a split that the command line sets."""
        key = f"{split}_users"
        if _kind(value) == "file":
            return self._file((key,), str(value))
        if not _is_rule(value):
            return value
        self.problems.append(
            Problem(
                (key,),
                f"{shown(value)}: shares and rest stand under users in the study; here, write users, as in 1-3, or a "
                "file of ids, as in @ids.txt",
            )
        )
        return _nobody(split)

    def _draw(self, drawn: Mapping[str, str], free: list[str], seed: Any) -> dict[str, list[str]]:
        """Return the users of the splits that are shares or the rest.

        Raises:
            UserError: the shares are too large, two splits are the rest, or a split gets no user.
        """
        if isinstance(seed, bool) or not isinstance(seed, int):
            # The validation of the complete study reports it.
            seed = 0
        rest = [split for split, text in drawn.items() if text == REST]
        if len(rest) > 1:
            raise UserError(f"{' and '.join(rest)} are both the rest; only one split can be")
        shares = {split: Fraction(_share(text)) / 100 for split, text in drawn.items() if text != REST}
        if sum(shares.values()) > 1:
            raise UserError(
                f"the shares {', '.join(drawn[split] for split in shares)} add up to "
                f"{float(100 * sum(shares.values())):g} %, which is more than 100 %"
            )
        users = draw(free, shares, seed)
        given = {user for one in users.values() for user in one}
        for split in rest:
            users[split] = sorted((user for user in free if user not in given), key=sort_key)
        for split, found in users.items():
            if not found:
                raise UserError(
                    f"{split} ({drawn[split]}) gets no user: {len(free)} users of {self.root} are in no list or file"
                )
        return users

    def _file(self, path: KeyPath, value: str) -> list[str]:
        """Return the ids in a file; problems name its lines."""
        name = value.strip()[len(FILE_MARK) :].strip()
        file = folder_of(path, self.lines, self.command_line) / name
        split = path[-1].removesuffix("_users")
        try:
            found = dict(_ids(file))
            missing = self._unknown(list(found))
        except UserError as error:
            self.problems.append(Problem(path, str(error)))
            return _nobody(split)
        for user in missing:
            self.problems.append(Problem(path, f"{file}:{found[user]}: user {user} has no raw data in {self.root}"))
        return _nobody(split) if missing else list(found)

    def _unknown(self, users: list[str]) -> list[str]:
        """Return the users without raw data; none where the dataset cannot be read, which is reported elsewhere."""
        try:
            everyone = set(self._list_everyone())
        except (UserError, ValidationError):
            return []
        return [user for user in users if user not in everyone]

    @property
    def root(self) -> Path:
        """The folder of the raw data."""
        return Path(self.dataset["root"])

    def _list_everyone(self) -> list[str]:
        """Return all users who have raw data.

        Raises:
            UserError: the folder of the dataset does not exist or cannot be read.
            ValidationError: the section ``dataset`` is not valid.
        """
        if self._everyone is None:
            from usertune.data.readers.catalogue import get_reader

            section = Dataset.model_validate(self.dataset)
            root = Path(section.root)
            if not root.is_dir():
                raise UserError(f"shares of users need the raw data, and the folder {root} (dataset.root) is not there")
            try:
                self._everyone = get_reader(section.format, root, section.options).users()
            except OSError as error:
                raise UserError(f"{error.filename or root}: cannot be read: {error.strerror}") from None
        return self._everyone


def _kind(value: Any) -> str | None:
    text = value.strip() if isinstance(value, str) else ""
    if text.startswith(FILE_MARK):
        return "file"
    return REST if text == REST else "share" if _SHARE.fullmatch(text) else None


def _is_rule(value: Any) -> bool:
    return _kind(value) is not None


def _share(text: str) -> str:
    match = _SHARE.fullmatch(text)
    assert match is not None, text
    return match[1]


def _nobody(split: str) -> list[str]:
    # Keeps the validation of the other keys going, which would otherwise report a consequence.
    return [f"_{split}_"]


def _list_or_none(value: Any) -> tuple[str, ...] | None:
    try:
        return tuple(parse_users(value)) if value is not None else ()
    except UserError:
        return None


def _ids(file: Path) -> Iterator[tuple[str, int]]:
    """Yield each id of a file and its line, from 1.

    Raises:
        UserError: the file cannot be read, a line is no id, or an id occurs twice; the message names the line.
    """
    seen: dict[str, int] = {}
    for number, line in enumerate(_text(file).split("\n"), start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        try:
            users = parse_users(text)
        except UserError as error:
            raise UserError(f"{file}:{number}: {error}") from None
        if len(users) > 1:
            raise UserError(f"{file}:{number}: {shown(text)} names {len(users)} users; write one id a line")
        if users[0] in seen:
            raise UserError(f"{file}:{number}: user {users[0]} is already in line {seen[users[0]]}")
        seen[users[0]] = number
        yield users[0], number
    if not seen:
        raise UserError(f"{file}: the file holds no id; write one a line")


def _text(file: Path) -> str:
    try:
        # A pipe or a device could be read for ever.
        if not file.is_file():
            raise UserError(f"{file}: there is no such file" if not file.exists() else f"{file}: this is not a file")
        if file.stat().st_size > MAX_SIZE:
            raise UserError(f"{file}: a file of users has at most {MAX_SIZE:,} bytes")
        return decode_text(file.read_bytes())
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{file}: not a text file: {error}") from None

"""Lists of users, in any notation."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from tests.support.mutations import values
from usertune.core.errors import UserError
from usertune.core.users import MAX_USERS, batch_label, format_users, parse_users, sort_key

SAFE = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-")
NAMES = st.from_regex(r"[A-Za-z_]([A-Za-z0-9_.-]{0,20}[A-Za-z0-9_-])?", fullmatch=True)
NUMBERS = st.integers(0, 10**6).map(str)
USERS = st.lists(NUMBERS | NAMES, min_size=1, unique=True)
# Neighbours, so that ranges form.
CROWDED_USERS = st.lists(
    st.integers(0, 30).map(str) | st.sampled_from(["a", "a-b", "x1", "1a"]), min_size=1, unique=True
)
PIECES = (
    *"0123456789-,. \t\nab_/\\'\"$`",
    "10",
    "007",
    "-",
    "..",
    "\xa0",
    "\u0663",
    "\uff11",
    "\u202e",
    "\0",
    "1" * 19,
)
BLANKS = st.sampled_from(["", " ", "\t", "\n"])


@given(values | st.integers(-5, 10**4000) | st.lists(st.sampled_from(PIECES), max_size=20).map("".join))
@example(10**5000)
@example([[10**5000]])
def test_any_value_gives_safe_users_or_a_documented_error(value: Any) -> None:
    try:
        users = parse_users(value)
    except UserError as error:
        assert len(str(error)) < 1000
        return
    assert len(set(users)) == len(users) <= MAX_USERS
    for user in users:
        assert set(user) <= SAFE
        assert 1 <= len(user) <= 64
        assert user[0] not in "-."
        assert user[-1] != "."
        assert not user.isdigit() or str(int(user)) == user


@st.composite
def notations(draw: st.DrawFn) -> tuple[Any, list[str]]:
    """Return a notation with the users that it means, counted out one by one."""
    parts: list[Any] = []
    meant: list[str] = []
    for _ in range(draw(st.integers(1, 5))):
        blank = draw(BLANKS)
        match draw(st.sampled_from(["number", "range", "name", "list"])):
            case "number":
                number = draw(st.integers(0, 10**18 - 1))
                parts.append(draw(st.sampled_from([number, f"{blank}{number}{blank}"])))
                meant.append(str(number))
            case "range":
                first, count = draw(st.integers(0, 50)), draw(st.integers(1, 20))
                parts.append(f"{blank}{first}{blank}-{blank}{first + count - 1}{blank}")
                for step in range(count):
                    meant.append(str(first + step))
            case "name":
                name = draw(NAMES)
                parts.append(f"{blank}{name}{blank}")
                meant.append(name)
            case _:
                inner = draw(USERS)
                parts.append([draw(st.sampled_from([inner, ",".join(inner)]))])
                meant.extend(inner)
    if all(isinstance(part, str) for part in parts) and draw(st.booleans()):
        return ",".join(parts), meant
    return parts, meant


@given(notations())
def test_a_notation_means_the_users_counted_out_one_by_one(notation: tuple[Any, list[str]]) -> None:
    value, meant = notation
    try:
        assert parse_users(value) == meant
    except UserError as error:
        assert "listed twice" in str(error)
        assert len(set(meant)) < len(meant)


@given(USERS | CROWDED_USERS)
def test_formatting_is_undone_by_parsing_and_cannot_be_shorter(users: list[str]) -> None:
    written = format_users(users)
    assert parse_users(written) == users
    follows = [one.isdigit() and other.isdigit() and int(other) == int(one) + 1 for one, other in pairwise(users)]
    assert written.count(",") == len(users) - 1 - sum(follows)


@given(USERS | CROWDED_USERS, USERS | CROWDED_USERS)
def test_batch_labels_are_short_file_names_and_tell_batches_apart(one: list[str], other: list[str]) -> None:
    assert len(batch_label(one)) <= 80
    assert set(batch_label(one)) <= SAFE | {","}
    assert (batch_label(one) == batch_label(other)) == (one == other)


@given(USERS)
def test_users_sort_by_number_and_then_by_name(users: list[str]) -> None:
    ordered = sorted(users, key=sort_key)
    numbers = [int(user) for user in ordered if user.isdigit()]
    names = [user for user in ordered if not user.isdigit()]
    assert (numbers, names) == (sorted(numbers), sorted(names))
    assert ordered == [*map(str, numbers), *names]

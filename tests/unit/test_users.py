"""User ids and their short notation."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usertune.errors import UserError
from usertune.users import batch_label, format_users, parse_users, sort_key

NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_.-]{0,20}", fullmatch=True)
NUMBERS = st.integers(0, 10**6).map(str)
USERS = st.lists(NUMBERS | NAMES, min_size=1, unique=True)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("11-13", ["11", "12", "13"]),
        ("1-3,7,9-10", ["1", "2", "3", "7", "9", "10"]),
        (" 1 - 2 , alice ", ["1", "2", "alice"]),
        (7, ["7"]),
        ([1, "4-5", ["bob"]], ["1", "4", "5", "bob"]),
        ("a-b", ["a-b"]),
        ([], []),
    ],
)
def test_notation_is_expanded_in_the_order_written(value: object, expected: list[str]) -> None:
    assert parse_users(value) == expected


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("5-3", "counts backwards"),
        ("1,1", "listed twice"),
        ("1-3,2", "listed twice"),
        ("", "not a user id"),
        ("1,,2", "not a user id"),
        ("07", "leading zeros"),
        ("1-99999999999", "mistyped"),
        ("../x", "not a user id"),
        ("a b", "not a user id"),
        ("$(rm)", "not a user id"),
        ("a\nb", "not a user id"),
        ("ü", "not a user id"),
        ("٣", "not a user id"),
        (".hidden", "not a user id"),
        ("x" * 65, "not a user id"),
        (None, "does not name users"),
        (True, "does not name users"),
        (1.5, "does not name users"),
        ({"a": 1}, "does not name users"),
    ],
)
def test_bad_notation_is_refused_with_a_reason(value: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_users(value)


@given(USERS)
def test_formatting_is_undone_by_parsing(users: list[str]) -> None:
    assert parse_users(format_users(users)) == users


@given(st.text() | st.integers() | st.lists(st.text() | st.integers()))
def test_any_input_gives_users_or_a_documented_error(value: object) -> None:
    try:
        users = parse_users(value)
    except UserError:
        return
    assert len(set(users)) == len(users)
    assert all("/" not in user and not user.startswith(".") for user in users)


@given(USERS, USERS)
def test_batch_labels_are_short_file_names_and_tell_batches_apart(one: list[str], other: list[str]) -> None:
    assert len(batch_label(one)) <= 80
    assert "/" not in batch_label(one)
    assert (batch_label(one) == batch_label(other)) == (one == other)


def test_people_sort_numbers_by_value() -> None:
    assert sorted(["10", "bob", "9", "ann"], key=sort_key) == ["9", "10", "ann", "bob"]

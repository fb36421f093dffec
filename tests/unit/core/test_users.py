"""User ids and their short notation."""

from __future__ import annotations

import pytest

from usertune.core.errors import UserError
from usertune.core.users import batch_label, parse_users, sort_key
from usertune.study.load import study_from_config

STUDY = {
    "name": "small",
    "dataset": {"root": "data"},
    "base_model": {"path": "base"},
    "experiments": {"vanilla": {"mode": "vanilla"}},
}


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
        (None, "does not name users"),
        (True, "does not name users"),
        (1.5, "does not name users"),
        ({"a": 1}, "does not name users"),
    ],
)
def test_bad_notation_is_refused_with_a_reason(value: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_users(value)


HOSTILE_NAMES = [
    *("../x", "..", ".", "/", "a/b", "a\\b", ".hidden", "alice.", "-rf", "--help", "~", "*", "a?", "a|b", "a;b", "a&b"),
    *(
        "a b",
        "a\tb",
        "a\nb",
        "a\rb",
        "a\0b",
        "\0",
        "\n",
        "",
        " ",
        "'",
        '"',
        "a'b",
        'a"b',
        "`touch x`",
        "$(touch x)",
        "$HOME",
    ),
    *("{user}", "<results>", "%s", "a:b", "a=b", "a@b", "#a", "!a", "x" * 65, "x" * 100_000, "con\x07", "\x1b[2J"),
    # Letters and digits that only look like ours, marks that turn the direction of writing, and no letters at all.
    *(
        "\u0430lice",
        "\uff41lice",
        "\u202ealice",
        "alice\u200f",
        "a\u200blice",
        "\ufeffalice",
        "\u0663",
        "\uff11",
        "\u00b2",
    ),
    *("\u00fc", "e\u0301", "\U0001f600", "\ud800"),
]


@pytest.mark.parametrize("name", HOSTILE_NAMES, ids=lambda name: ascii(name)[:20])
def test_a_hostile_name_is_refused_everywhere(name: str) -> None:
    for value in (name, [name], ["1", name], f"1,{name}", [["1", [name]]]):
        with pytest.raises(UserError, match="is not a user id; ids are numbers, or names of at most 64") as caught:
            parse_users(value)
        assert len(str(caught.value)) < 300
        assert str(caught.value).isprintable()
    for split in ("train", "validation", "test"):
        users = {"train": "1", "validation": "2", "test": "3", split: [name]}
        with pytest.raises(UserError, match=rf"users\.{split}: .* is not a user id"):
            study_from_config({**STUDY, "users": users})
        with pytest.raises(UserError, match=rf"users\.{split}: .* is not a user id"):
            study_from_config({**STUDY, "users": {"test": "3"}, f"{split}_users": name})


@pytest.mark.parametrize(
    "name", ["x" * 64, "a", "_", "0a", "a-", "a.b", "a..b", "True", "null", "1.5", "7.manifest", "1-2-3"]
)
def test_a_plain_name_is_a_name(name: str) -> None:
    assert parse_users(name) == parse_users([name]) == [name]
    assert study_from_config({**STUDY, "users": {"test": [name]}}).users.test == (name,)


@pytest.mark.parametrize("value", [10**18, -(10**18), [10**5000], -1, [[[10**30]]]])
def test_a_number_of_too_many_digits_is_refused(value: object) -> None:
    with pytest.raises(UserError, match=r"at most 18 digits|is not a user id"):
        parse_users(value)


def test_lists_in_lists_end_somewhere() -> None:
    nested: list[object] = ["1"]
    for _ in range(10_000):
        nested = [nested]
    endless: list[object] = []
    endless.append(endless)
    for value in (nested, endless):
        with pytest.raises(UserError, match="nested more than"):
            parse_users(value)


def test_a_long_batch_gets_a_short_label_of_its_own() -> None:
    users = [f"user_{number}" for number in range(1000)]
    labels = {batch_label(users), batch_label(users[:-1]), batch_label(["x" * 64, *users[1:]])}
    assert len(labels) == 3
    assert all(len(label) <= 80 for label in labels)


def test_people_sort_numbers_by_value() -> None:
    assert sorted(["10", "bob", "9", "ann"], key=sort_key) == ["9", "10", "ann", "bob"]

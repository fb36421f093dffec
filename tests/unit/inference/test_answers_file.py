"""Answers from elsewhere are taken exactly, and everything wrong with them is said at once."""

from __future__ import annotations

import hashlib
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from usertune.core.errors import UserError
from usertune.inference.answers_file import (
    LISTED,
    LONGEST_LINE,
    GivenAnswer,
    check_answers,
    read_answers,
)

KEY = "experiments.theirs.answers"
WANTED = {"1": dict.fromkeys(("1/a", "1/b")), "ana": dict.fromkeys(("5",))}


def write(path: Path, *lines: Any) -> None:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))


@pytest.fixture
def here(tmp_path: Path) -> Path:
    write(tmp_path / "1.jsonl", {"id": "1/b", "text": "B"}, {"id": "1/a", "text": "", "stopped": False})
    write(tmp_path / "ana.jsonl", {"sample_id": 5, "response": "x", "labels": "y", "messages": []})
    return tmp_path


def problems(folder: Path, file: str = "{user}.jsonl", wanted: dict[str, Any] | None = None) -> str:
    with pytest.raises(UserError) as error:
        read_answers(f"{folder}/{file}", WANTED if wanted is None else wanted, KEY)
    assert str(error.value).startswith(KEY)
    return str(error.value).replace(f"{folder}/", "")


def test_a_file_for_each_user(here: Path) -> None:
    check_answers(f"{here}/{{user}}.jsonl", list(WANTED), KEY)
    found = read_answers(f"{here}/{{user}}.jsonl", WANTED, KEY)
    # In the order of the samples, not of the file.
    assert list(found.answers["1"].items()) == [
        ("1/a", GivenAnswer("", False, 2)),
        ("1/b", GivenAnswer("B", None, 1)),
    ]
    assert found.answers["ana"] == {"5": GivenAnswer("x", None, 1)}
    assert found.files == {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(here.iterdir())}


@pytest.mark.parametrize("key", ["text", "prediction", "response", "output"])
def test_one_file_for_all_users(tmp_path: Path, key: str) -> None:
    lines = [{"id": name, "user": user, key: f"{user} {name}"} for user, ids in WANTED.items() for name in ids]
    # Of another job.
    lines += [{"id": "9/a", "user": 9, key: "?"}]
    content = "\ufeff" + "\n\n".join(json.dumps(line) for line in lines)
    (tmp_path / "all.jsonl").write_text(content, encoding="utf-8")
    found = read_answers(f"{tmp_path}/all.jsonl", WANTED, KEY)
    texts = {user: {name: answer.text for name, answer in own.items()} for user, own in found.answers.items()}
    assert texts == {user: {name: f"{user} {name}" for name in ids} for user, ids in WANTED.items()}
    assert found.files == {f"{tmp_path}/all.jsonl": hashlib.sha256(content.encode()).hexdigest()}
    # For one user too, each line names its user.
    assert read_answers(f"{tmp_path}/all.jsonl", {"ana": {"5": None}}, KEY).answers["ana"]["5"].text == "ana 5"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"id": "1/a", "text": "x"', "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ('{"id": "1/a", "text": ' + "1" * 5000 + "}", "not valid JSON"),
        ("[1]", "[1] is not an object with id and text"),
        ({"text": "x"}, "no id or sample_id, so it belongs to no sample (ms-swift keeps the id with"),
        ({"id": "1/a"}, "no answer: one of text, prediction, response, output is needed"),
        ({"id": "1/a", "text": None}, "no answer: one of"),
        ({"id": "1/a", "text": 5}, "text is 5, not a text"),
        ({"id": "1/a", "text": "x", "response": "y"}, "text and response differ"),
        ({"id": "1/a", "text": "x", "stopped": "no"}, "stopped is 'no'; write true"),
        ({"id": ["1/a"], "text": "x"}, "id is ['1/a'], which is no name"),
        ({"id": True, "text": "x"}, "id is True, which is no name"),
        ({"id": "1/a", "user": {}, "text": "x"}, "user is {}, which is no name"),
        ({"id": "1/a", "user": "2", "text": "x"}, "an answer of user '2' in the file of user 1"),
        ({"id": "2/a", "text": "x"}, "user 1 has no sample '2/a'; remove the line, or correct its id"),
        ({"id": "1/b", "text": "B"}, "sample '1/b' of user 1 was answered in line 1 too; keep one"),
        ('{"id": "1/a", "text": "\\ud800"}', "it holds half of a character"),
        ({"id": "1/a", "text": "x" * LONGEST_LINE}, "longer than 1,048,576 bytes"),
    ],
)
def test_a_bad_line_is_named(here: Path, line: Any, said: str) -> None:
    write(here / "1.jsonl", {"id": "1/b", "text": "B"}, line, {"id": "1/a", "text": "A"})
    assert f"1.jsonl:2: {said}" in problems(here)


def test_a_line_of_exactly_the_greatest_length_and_the_one_after_a_line_that_is_too_long(here: Path) -> None:
    empty = len(json.dumps({"id": "1/a", "text": ""})) + 1
    for extra, count in ((0, 0), (1, 1), (2, 1)):
        text = "x" * (LONGEST_LINE - empty + extra)
        write(here / "1.jsonl", {"id": "1/a", "text": text}, {"id": "1/b", "text": "B"})
        if not count:
            assert read_answers(f"{here}/{{user}}.jsonl", WANTED, KEY).answers["1"]["1/a"].text == text
        else:
            # The next line is read: only one answer is missing.
            assert "no answer for 1 sample of user 1: '1/a'" in problems(here)


def test_bytes_that_are_no_utf_8(here: Path) -> None:
    (here / "1.jsonl").write_bytes(b'{"id": "1/a", "text": "A"}\n{"id": "1/b", "text": "\xff"}\n')
    assert "1.jsonl:2: not UTF-8 (byte 24 of the line)" in problems(here)
    (here / "1.jsonl").write_bytes('{"id": "1/a", "text": "A"}\n'.encode("utf-16"))
    assert "1.jsonl: the file is UTF-16" in problems(here)


def test_a_file_of_several_users_has_to_name_them(here: Path) -> None:
    write(here / "all.jsonl", {"id": "1/a", "text": "A"})
    assert "all.jsonl:1: no user, which lines of a file for several users need" in problems(here, "all.jsonl")


def test_everything_is_said_at_once(here: Path) -> None:
    write(here / "1.jsonl", "no", {"id": "1/c", "text": "C"})
    (here / "ana.jsonl").unlink()
    said = problems(here)
    assert said.startswith(f"{KEY}: 5 problems with the answers:\n")
    for part in (
        "1.jsonl:1: not valid JSON",
        "1.jsonl:2: user 1 has no sample '1/c'",
        "ana.jsonl: cannot be read: No such file",
        "1.jsonl: no answer for 2 samples of user 1: '1/a', '1/b'; answer them too",
        "ana.jsonl: no answer for 1 sample of user ana: '5'",
    ):
        assert part in said
    write(here / "1.jsonl", *["no"] * 1000)
    assert f"... and {1000 + 3 - LISTED} more" in problems(here)


def test_planning_looks_for_files_and_at_their_beginnings(here: Path) -> None:
    def said(path: str, users: tuple[str, ...] = ("1", "ana", "7", "8")) -> str:
        with pytest.raises(UserError) as error:
            check_answers(f"{here}/{path}", users, KEY)
        return str(error.value).replace(f"{here}/", "")

    assert said("{user}.jsonl") == (
        f"{KEY}: no file for users 7-8: 7.jsonl does not exist; remove these users from the study, or give their "
        "answers"
    )
    assert said("all.jsonl") == f"{KEY}: the file {here}/all.jsonl does not exist".replace(f"{here}/", "")
    (here / "7.jsonl").mkdir()
    write(here / "8.jsonl", {"id": "8/a"})
    both = said("{user}.jsonl")
    assert "7.jsonl is a folder; give a file" in both
    assert "8.jsonl:1: no answer: one of text" in both
    # Only the beginning is read.
    write(here / "8.jsonl", *[{"id": str(number), "text": "x"} for number in range(20)], "no")
    check_answers(f"{here}/{{user}}.jsonl", ("1", "8"), KEY)


def test_memory_holds_only_what_is_wanted(tmp_path: Path) -> None:
    with (tmp_path / "all.jsonl").open("w") as file:
        for number in range(20_000):
            file.write(json.dumps({"id": str(number), "user": number % 1000, "text": "x" * 1000}) + "\n")
    assert (tmp_path / "all.jsonl").stat().st_size > 20_000_000
    tracemalloc.start()
    wanted = {"7": {str(number): None for number in range(7, 20_000, 1000)}}
    assert len(read_answers(f"{tmp_path}/all.jsonl", wanted, KEY).answers["7"]) == 20
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000

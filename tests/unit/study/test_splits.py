"""Users of a split as shares, as the rest and as files of ids."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from usertune.core.errors import UserError
from usertune.core.users import sort_key
from usertune.study.copy import study_text
from usertune.study.load import load_study
from usertune.study.schema.study import Study
from usertune.study.splits import draw

USERS = [str(number) for number in range(1, 21)]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with raw data of 20 users; the study is in ``studies``, and the working directory is the folder."""
    (tmp_path / "data").mkdir()
    (tmp_path / "studies").mkdir()
    for user in USERS:
        (tmp_path / "data" / f"user_{user}.jsonl").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def load(settings: tuple[str, ...] = (), root: str = "../data", **users: Any) -> Study:
    """Load a study, with ``users`` as the third line of its file."""
    study = {
        "name": "small",
        "dataset": {"root": root},
        "base_model": {"path": "base"},
        "experiments": {"vanilla": {"mode": "vanilla"}},
    }
    lines = "\n".join(f"  {key}: {json.dumps(value)}" for key, value in users.items())
    Path("studies/study.yaml").write_text(f"# A study.\nusers:\n{lines}\n{yaml.safe_dump(study)}")
    return load_study(["studies/study.yaml"], settings)


def message(**users: Any) -> str:
    with pytest.raises(UserError) as caught:
        load(**users)
    return str(caught.value)


def test_shares_are_lists_of_all_users_in_the_loaded_study() -> None:
    users = load(train="80 %", validation="10%", test="10 %").users
    assert [len(users.train), len(users.validation), len(users.test)] == [16, 2, 2]
    assert sorted((*users.train, *users.validation, *users.test), key=sort_key) == USERS
    assert list(users.train) == sorted(users.train, key=sort_key)


def test_the_same_users_are_drawn_everywhere() -> None:
    # Written down, since another drawing would train other models: a change of it is a decision.
    users = load(train="70 %", test="30 %").users
    assert users.test == ("1", "5", "6", "11", "13", "16")
    assert load(train="70 %", test="30 %", seed=1).users.test == ("1", "13", "14", "15", "18", "19")


def test_the_order_of_files_has_no_effect(monkeypatch: pytest.MonkeyPatch) -> None:
    before = load(train="70 %", test="30 %").users
    original = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda path: iter(sorted(original(path), reverse=True)))
    assert load(train="70 %", test="30 %").users == before


def test_shares_are_of_the_users_that_no_list_names() -> None:
    users = load(train="50 %", validation="rest", test="1-10").users
    assert users.test == tuple(USERS[:10])
    assert len(users.train) == len(users.validation) == 5
    assert set(users.train) | set(users.validation) == set(USERS[10:])


def test_a_user_called_rest_is_written_in_a_list() -> None:
    Path("data/user_rest.jsonl").touch()
    assert load(test=["rest"]).users.test == ("rest",)
    assert len(load(test="rest").users.test) == 21


def test_a_file_is_relative_to_the_study_and_keeps_its_order() -> None:
    Path("studies/ids.txt").write_bytes(b"\xef\xbb\xbf7\r\n\r\n# a comment\r\n  3 \r\n")
    assert load(train="rest", test="@ids.txt").users.test == ("7", "3")
    assert len(load(train="rest", test="@ids.txt").users.train) == 18


def test_the_copy_of_the_study_names_every_user(folder: Path) -> None:
    study = load(train="80 %", test="20 %", seed=7)
    Path("copy.yaml").write_text(study_text(study, {}))
    for user in range(100, 200):
        (folder / "data" / f"user_{user}.jsonl").touch()
    assert load_study(["copy.yaml"]).users == study.users


@pytest.mark.parametrize(
    ("users", "expected"),
    [
        (
            {"train": "80 %", "test": "20.5 %"},
            "users.train: the shares 80 %, 20.5 % add up to 100.5 %, which is more than 100 %",
        ),
        ({"train": "99 %", "test": "1 %"}, "test (1 %) gets no user: 20 users of data are in no list or file"),
        ({"train": "1-20", "test": "rest"}, "test (rest) gets no user: 0 users"),
        ({"train": "rest", "test": "rest"}, "train and test are both the rest; only one split can be"),
        ({"test": "0 %"}, "test (0 %) gets no user"),
        ({"test": "1000 %"}, "'1000 %' is not a user id"),
        ({"test": ["50 %"]}, "'50 %' is not a user id"),
    ],
)
def test_a_split_that_cannot_be_drawn_is_refused(users: dict[str, Any], expected: str) -> None:
    said = message(**users)
    assert expected in said
    assert "studies/study.yaml:" in said
    assert "(1 problem)" in said


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"1\n2\n\n1\n", "ids.txt:4: user 1 is already in line 1"),
        (b"1\n99\n", "ids.txt:2: user 99 has no raw data in data"),
        (b"1\n007\n", "ids.txt:2: '007': write user numbers without leading zeros"),
        (b"1\n2-4\n", "ids.txt:2: '2-4' names 3 users; write one id a line"),
        (b"1\n../x\n", "ids.txt:2: '../x' is not a user id"),
        (b"a\x1b[31m\n", r"ids.txt:1: 'a\x1b[31m' is not a user id"),
        (b"# nobody\n", "ids.txt: the file holds no id"),
        (b"", "ids.txt: the file holds no id"),
        (b"\xff\xfe1\x00\n\x00", "ids.txt: not a text file: the file is UTF-16; save it as UTF-8"),
        (b"\xff\xff", "ids.txt: not a text file"),
        (b"1\n" * 600_000, "ids.txt: a file of users has at most 1,000,000 bytes"),
        (None, "ids.txt: there is no such file"),
    ],
)
def test_a_bad_file_of_ids_is_refused_with_file_and_line(content: bytes | None, expected: str) -> None:
    if content is not None:
        Path("studies/ids.txt").write_bytes(content)
    said = message(train="3", test="@ids.txt")
    assert f"studies/study.yaml:4: users.test: studies/{expected}" in said
    assert "(1 problem)" in said


def test_a_file_that_is_no_file_is_refused() -> None:
    os.mkfifo("studies/ids.txt")
    assert "studies/ids.txt: this is not a file" in message(test="@ids.txt")
    assert "studies: this is not a file" in message(test="@.")


def test_without_raw_data_shares_are_refused_and_files_are_read() -> None:
    with pytest.raises(
        UserError, match=r"study.yaml:3: users.test: shares of users need the raw data, and .* data/gone"
    ):
        load(test="50 %", root="../data/gone")
    Path("studies/ids.txt").write_text("99\n")
    assert load(test="@ids.txt", root="../data/gone").users.test == ("99",)


def test_other_problems_of_the_study_are_reported_beside_it() -> None:
    with pytest.raises(UserError) as caught:
        load(train="200 %", test="1-2", seed="x")
    assert "2 problems" in str(caught.value)
    with pytest.raises(UserError) as caught:
        load(train="50 %", test="1-2", root="")
    # The dataset cannot be read, so nothing is said of users.
    assert "1 problem" in str(caught.value)
    assert "dataset.root" in str(caught.value)


def test_the_command_line_sets_users_without_drawing_others() -> None:
    study = load(train="50 %", test="30 %")
    first, second, *_ = study.users.test
    Path("ids.txt").write_text(first)
    for setting, user in (("test_users=@ids.txt", first), (f"test_users={second}", second)):
        changed = load((setting,), train="50 %", test="30 %")
        assert (changed.users.train, changed.users.test) == (study.users.train, (user,))
        assert changed.origin.outcomes == f"subsets/test_{user}/"
    with pytest.raises(UserError, match="is in both train and test"):
        load((f"test_users={study.users.train[0]}",), train="50 %", test="30 %")
    same = load((f"test_users={','.join(study.users.test)}",), train="50 %", test="30 %")
    assert same.origin.outcomes == ""
    with pytest.raises(UserError, match=r"test_users: '30 %': shares and rest stand under users in the study"):
        load(("test_users=30 %",), train="50 %", test="30 %")


def test_lists_import_no_data_and_read_no_folder() -> None:
    load(train="3-4", test="1-2", root="../nowhere")
    program = "import sys; from usertune.study.load import load_study; load_study([sys.argv[1]]); print(*sys.modules)"
    command = [sys.executable, "-c", program, "studies/study.yaml"]
    modules = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert not {"PIL", "numpy", "pandas", "torch", "transformers"} & set(modules)


SHARES = st.lists(st.integers(0, 100), min_size=1, max_size=3).filter(lambda parts: 0 < sum(parts) <= 100)


@settings(deadline=None)
@given(st.integers(1, 300), SHARES, st.integers(0, 99))
def test_numbers_of_users_are_the_shares_rounded(count: int, parts: list[int], seed: int) -> None:
    users = [str(number) for number in range(count)]
    shares = {f"split{index}": Fraction(part, 100) for index, part in enumerate(parts)}
    drawn = draw(users, shares, seed)
    assert draw(users[::-1], shares, seed) == drawn
    given_out = [user for found in drawn.values() for user in found]
    assert len(given_out) == len(set(given_out))
    assert abs(len(given_out) - count * Fraction(sum(parts), 100)) <= Fraction(1, 2)
    for split, share in shares.items():
        assert abs(len(drawn[split]) - share * count) < 1

"""YAML files of a study: user lists are text, numbers are what they look like, errors name file and line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from usertune.core.errors import UserError
from usertune.study.files import read_yaml, users_as_written
from usertune.study.load import load_study, study_from_config

REST = """
name: small
dataset: {root: data}
base_model: {path: base}
experiments: {vanilla: {mode: vanilla}}
"""
# What YAML 1.1 makes something else of, and what it means as a list of users.
NAMES = ["1_2", "1e3", "0x10", "0b11", "yes", "no", "on", "off", "true", "False", "1.50", "2024-01-02", "1_000"]


def _study_of(folder: Path, text: str, name: str = "study.yaml") -> tuple[Path, dict[str, Any]]:
    """Write a study, and parse it as Snakemake does."""
    file = folder / name
    file.write_text(text + REST, encoding="utf-8")
    return file, yaml.load(file.read_text(encoding="utf-8"), Loader=yaml.FullLoader)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("written", ["{}", "[3, {}]", "[[3, {}]]"])
@pytest.mark.parametrize("key", ["users: {{test: {}}}", "test_users: {}"])
def test_user_lists_are_read_as_text(tmp_path: Path, name: str, written: str, key: str) -> None:
    file, config = _study_of(tmp_path, key.format(written.format(name)))
    expected = (("3",) if "3" in written else ()) + (name,)
    assert load_study([file]).users.test == expected
    assert study_from_config(config, [file]).users.test == expected


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("010", "leading zeros"),
        ("[1, 010]", "leading zeros"),
        ("'010'", "leading zeros"),
        ("08", "leading zeros"),
        ("[[1], [[2, 010]]]", "leading zeros"),
        ("1:30", "'1:30' is not a user id"),
        ("-5", "'-5' is not a user id"),
        ("+5", r"'\+5' is not a user id"),
        (".inf", "is not a user id"),
        ("null", "needs quotes"),
        ("[alice, ~]", "needs quotes"),
        ("", "needs quotes"),
    ],
)
def test_what_is_no_user_as_it_is_written_is_refused_with_its_line(tmp_path: Path, value: str, said: str) -> None:
    file, config = _study_of(tmp_path, f"users:\n  train: 5\n  test: {value}")
    for read in (lambda: load_study([file]), lambda: study_from_config(config, [file])):
        with pytest.raises(UserError, match=rf"study.yaml:3: users.test: .*{said}"):
            read()


def test_aliases_and_merged_keys_are_text_where_they_name_users_and_numbers_elsewhere(tmp_path: Path) -> None:
    text = (
        "evaluation: {batch_size: &n 0x10}\n"
        "common: &common {train: 1_1, validation: 12}\n"
        "users: {<<: *common, test: *n}"
    )
    file, config = _study_of(tmp_path, text)
    del config["common"]
    users = users_as_written(config, [file])["users"]
    assert users == {"train": "1_1", "validation": "12", "test": "0x10"}
    assert read_yaml(file)["evaluation"] == {"batch_size": 16}


def test_a_later_file_and_the_command_line_come_before_an_earlier_file(tmp_path: Path) -> None:
    first, config = _study_of(tmp_path, "users: {train: 1_1, test: 1_2}")
    second = tmp_path / "second.yaml"
    second.write_text("users: {test: 1_3}")
    assert load_study([first, second]).users.test == ("1_3",)
    # As Snakemake has it: lists and texts of --config as they are written, numbers as Python reads them.
    config["users"] = {**config["users"], "test": "4"}
    assert study_from_config(config, [first]).users.test == ("4",)
    config["test_users"] = 12
    users = study_from_config(config, [first], ["name=x", "test_users='1_2'"]).users
    assert (users.train, users.test) == (("1_1",), ("1_2",))
    config["test_users"] = 10
    with pytest.raises(UserError, match="'010': write user numbers without leading zeros"):
        study_from_config(config, [first], ["test_users=010"])


def test_a_study_in_json_is_read_too(tmp_path: Path) -> None:
    config = {**yaml.safe_load(REST), "users": {"test": [7, "alice"], "train": "1-2"}}
    file = tmp_path / "study.json"
    file.write_text(json.dumps(config, indent=2))
    assert load_study([file]).users.test == study_from_config(config, [file]).users.test == ("7", "alice")


@given(st.lists(st.integers(0, 10**17) | st.from_regex(r"\A[a-z][a-z0-9_.-]{0,8}[a-z0-9]\Z"), min_size=1, unique=True))
def test_plain_lists_mean_what_they_meant(users: list[Any]) -> None:
    text = yaml.safe_dump({"users": {"test": users}})
    node = yaml.safe_load(text)
    assert node["users"]["test"] == users
    expected = tuple(str(user) for user in users)
    assert study_from_config({**yaml.safe_load(REST), **node}).users.test == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: a\n\tfoo: 1\n", r":2: .*'\\t'.*indent with spaces"),
        ("name: a\nfoo:\n\t- 1\n", r":3: .*indent with spaces"),
        ("name: a\nfoo: [1, 2\nbar: 3\n", r":3: .*started in line 2"),
        ("name: a\nfoo: {b: 1\n", r":3: .*started in line 2"),
        ("name: a\n  foo: 1\n", ":2: .*mapping values are not allowed"),
        ("users:\n    test: 1\n  train: 2\n", ":3: "),
        ("a: &x 1\nb: &x 2\n", ":2: .*duplicate anchor 'x'.*started in line 1"),
        ("a: *x\n", ":1: .*undefined alias 'x'"),
        ("a: 1\nb: 2024-13-45\n", ":2: .*month must be in"),
        ("a: 1\nb: 'c\n", ":3: .*started in line 2"),
        ("a: @x\n", ":1: .*'@'"),
    ],
)
def test_broken_yaml_is_reported_with_file_and_line(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=rf"study\.yaml{said}") as caught:
        load_study([file])
    assert "unicode string" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32"])
def test_another_encoding_is_named(tmp_path: Path, encoding: str) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(REST, encoding=encoding)
    with pytest.raises(UserError, match=rf"study.yaml: .*the file is {encoding[:6].upper()}.*save it as UTF-8"):
        load_study([file])


def test_a_byte_order_mark_and_windows_line_ends_are_read(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_bytes(("users: {test: 1-2}" + REST).replace("\n", "\r\n").encode("utf-8-sig"))
    assert load_study([file]).users.test == ("1", "2")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("training: {batch_size: 010}", "training.batch_size: YAML reads 010 as the number 8"),
        ("evaluation: {max_new_tokens: 1:30}", "evaluation.max_new_tokens: YAML reads 1:30 as the number 90"),
        ("evaluation: {thresholds: [0140]}", "evaluation.thresholds: YAML reads 0140 as the number 96"),
    ],
)
def test_a_number_that_is_not_what_it_looks_like_is_refused(tmp_path: Path, line: str, said: str) -> None:
    file, config = _study_of(tmp_path, f"users: {{test: 1}}\n{line}")
    for read in (lambda: load_study([file]), lambda: study_from_config(config, [file])):
        with pytest.raises(UserError, match=f"study.yaml:2: {said}"):
            read()


def test_a_text_that_yaml_takes_for_a_number_needs_quotes(tmp_path: Path) -> None:
    file, _ = _study_of(tmp_path, "users: {test: 1}")
    file.write_text(file.read_text().replace("path: base", "path: base, revision: 1234567"))
    with pytest.raises(UserError, match=r"base_model.revision: YAML reads this as 1234567, .*put it in quotes"):
        load_study([file])

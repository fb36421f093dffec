"""Checksummed results are read as they were written, and every change to them is detected."""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from usertune.core.errors import UserError
from usertune.core.hashing import step_fingerprint
from usertune.core.manifest import (
    OLD_FORMAT,
    checksum_problem,
    read_manifest,
    read_result,
    step_manifest,
    write_result,
)
from usertune.core.recipe import Recipe

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('abc\n"é'), inner, max_size=3),
    max_leaves=10,
)
RESULTS = st.dictionaries(st.text('abc\n"é', min_size=1), JSON, min_size=1, max_size=4)
RESULT = {"step": "score", "user": "ana", "metrics": {"rate": 0.25, "words": ["é", "\u2028", None]}}


@given(RESULTS)
@settings(max_examples=100, deadline=None)
def test_any_result_comes_back_and_is_plain_json(value: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "result.json"
        write_result(path, value)
        assert read_result(path) == value
        assert list(json.loads(path.read_bytes())) == ["content_sha256", *value]
        content = path.read_bytes()
        write_result(path, read_result(path))
        assert path.read_bytes() == content


def test_the_checksum_is_the_digest_of_all_that_follows_its_line(tmp_path: Path) -> None:
    write_result(tmp_path / "a.json", RESULT)
    first, second, rest = (tmp_path / "a.json").read_bytes().split(b"\n", 2)
    assert first == b"{"
    assert second == f'  "content_sha256": "{hashlib.sha256(rest).hexdigest()}",'.encode()


def test_every_change_of_a_single_byte_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_result(path, RESULT)
    whole = path.read_bytes()
    assert checksum_problem(whole) is None
    for position, byte in enumerate(whole):
        for other in {byte ^ 1, byte ^ 32, 0, ord(" "), ord("0"), ord("a")} - {byte}:
            assert checksum_problem(whole[:position] + bytes([other]) + whole[position + 1 :]), position
        assert checksum_problem(whole[:position] + whole[position + 1 :]), position
        for added in (b" ", b"\n", b"0"):
            assert checksum_problem(whole[:position] + added + whole[position:]), position


def test_every_truncation_is_noticed_and_so_is_what_is_added(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_result(path, RESULT)
    whole = path.read_bytes()
    for length in range(len(whole)):
        assert checksum_problem(whole[:length]), length
    for added in (b" ", b"\n", b"\0", whole):
        assert checksum_problem(whole + added)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b" \n\t\n", "the file is empty"),
        (b"\0" * 100, "not a result that usertune wrote"),
        (b"not JSON", "not a result that usertune wrote"),
        (b"{}", "not a result that usertune wrote"),
        (b"[1]", "not a result that usertune wrote"),
        (json.dumps(RESULT, indent=2).encode(), "not a result that usertune wrote"),
        (json.dumps({"content_sha256": "0" * 64, **RESULT}).encode(), "not a result that usertune wrote"),
        (json.dumps({"content_sha256": "0" * 64, **RESULT}, indent=2).encode(), "edited or cut short"),
    ],
)
def test_what_usertune_did_not_write_is_refused_with_file_and_remedy(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"a.json: .*{message}.*; run snakemake to make it again"):
        read_result(path)


def test_a_missing_result_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a.json: this file does not exist; run snakemake"):
        read_result(tmp_path / "a.json")


@pytest.mark.parametrize("value", [{}, {"content_sha256": "a"}, {"step": "score", "content_sha256": "a"}])
def test_a_result_that_a_manifest_cannot_hold_is_refused(tmp_path: Path, value: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="content_sha256"):
        write_result(tmp_path / "a.json", value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_numbers_that_json_does_not_have_are_refused(tmp_path: Path, number: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_result(tmp_path / "a.json", {"a": number})
    assert not list(tmp_path.iterdir())


class Drawn(Recipe):
    settings: dict[str, int] = {}  # noqa: RUF012 (pydantic copies it)


DIGESTS = st.text("0123456789abcdef", min_size=4, max_size=4)
INPUTS = st.dictionaries(
    st.sampled_from(["samples", "weights", "scores"]), DIGESTS | st.dictionaries(st.text("ab1 "), DIGESTS, max_size=3)
)
SETTINGS = st.dictionaries(st.sampled_from(["seed", "epochs"]), st.integers(0, 2))
WHEN = st.fixed_dictionaries(
    {},
    optional={
        "upstream": st.dictionaries(st.sampled_from(["train"]), DIGESTS),
        "provenance": st.dictionaries(st.sampled_from(["code"]), DIGESTS),
        "rebuild": DIGESTS,
    },
)


@given(SETTINGS, SETTINGS, INPUTS, INPUTS, WHEN, WHEN)
def test_a_fingerprint_changes_if_and_only_if_recipe_or_inputs_do(
    own: dict[str, int],
    others: dict[str, int],
    inputs: dict[str, Any],
    other_inputs: dict[str, Any],
    when: dict[str, Any],
    then: dict[str, Any],
) -> None:
    one = step_manifest(Drawn(step="draw", settings=own, **when), inputs)
    two = step_manifest(Drawn(step="draw", settings=others, **then), other_inputs)
    assert (one["fingerprint"] == two["fingerprint"]) == (own == others and inputs == other_inputs)
    assert one["fingerprint"] == step_fingerprint(one["recipe"], one["inputs"]), "the manifest alone tells it"


def test_a_manifest_of_another_release_is_refused_in_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    write_result(path, {"step": "train", "made_with": [], "fingerprint": "0" * 64})
    with pytest.raises(UserError) as refused:
        read_manifest(path)
    assert str(refused.value) == f"{path}: {OLD_FORMAT}; run snakemake to make it again"

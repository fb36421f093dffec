"""Whatever a file of answers holds: either exactly the wanted answers are read, or a message names file and line."""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.support.mutations import changed_bytes
from usertune.core.errors import UserError
from usertune.inference.answers_file import HEAD_LINES, ID_KEYS, TEXT_KEYS, check_answers, read_answers

KEY = "experiments.theirs.answers"
TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=30)
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
KEYS = st.sampled_from((*ID_KEYS, *TEXT_KEYS, "user", "stopped", "messages"))
LINES = st.dictionaries(KEYS, JSON | st.sampled_from(("1", "1/a", "1/b")), max_size=6).map(json.dumps) | st.text(
    max_size=20
)


def read(content: bytes, wanted: dict[str, dict[str, None]], name: str) -> dict[str, dict[str, str]] | str:
    """Return the answers, or the message; what planning says is said by reading too."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "1.jsonl").write_bytes(content)
        planned = read_all = None
        try:
            check_answers(f"{folder}/{name}", list(wanted), KEY)
        except UserError as error:
            planned = str(error)
        try:
            found = read_answers(f"{folder}/{name}", wanted, KEY)
        except UserError as error:
            read_all = str(error)
            assert re.search(r"1\.jsonl(:\d+)?: ", read_all), read_all
        assert planned is None or read_all is not None
        if read_all is not None:
            return read_all
        assert {user: list(own) for user, own in found.answers.items()} == {
            user: list(own) for user, own in wanted.items()
        }
        return {user: {name: answer.text for name, answer in own.items()} for user, own in found.answers.items()}


@given(st.lists(LINES, max_size=HEAD_LINES + 5), st.sampled_from(("{user}.jsonl", "1.jsonl")))
def test_any_lines(lines: list[str], name: str) -> None:
    read("\n".join(lines).encode("utf-8", "surrogatepass"), {"1": {"1/a": None}}, name)


@given(st.binary(max_size=200))
def test_any_bytes(content: bytes) -> None:
    assert isinstance(read(content, {"1": {"1/a": None}}, "{user}.jsonl"), str) or b"1/a" in content


@given(st.dictionaries(TEXTS, TEXTS, min_size=1, max_size=6), st.data())
def test_answers_come_back_and_damage_never_changes_one_unseen(answers: dict[str, str], data: st.DataObject) -> None:
    lines = [json.dumps({"id": name, "text": text}, ensure_ascii=False) for name, text in answers.items()]
    content = "".join(line + "\n" for line in data.draw(st.permutations(lines))).encode()
    wanted = {"1": dict.fromkeys(answers)}
    assert read(content, wanted, "{user}.jsonl") == {"1": answers}
    damaged = data.draw(changed_bytes(content))
    found = read(damaged, wanted, "{user}.jsonl")
    # Damage inside a text cannot be seen; then every other part is as it was.
    if not isinstance(found, str):
        assert found["1"].keys() == answers.keys()

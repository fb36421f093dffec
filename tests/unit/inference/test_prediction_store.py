"""The prediction store returns what was stored, whatever happens to the files."""

from __future__ import annotations

import json
import logging
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from usertune.core.manifest import write_result
from usertune.inference.prediction_store import OLD_PROVENANCE, Prediction, PredictionStore, _check

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
PREDICTIONS = st.dictionaries(
    st.text("0123456789abcdef", min_size=1, max_size=64),
    st.builds(
        Prediction,
        text=TEXT,
        new_tokens=st.integers(0, 10_000),
        stopped=st.booleans(),
        provenance=TEXT,
        seconds=st.none() | st.floats(0, 1e6),
        at=st.none() | TEXT,
    ),
)


def _store(folder: Path) -> PredictionStore:
    return PredictionStore(folder, "f" * 64)


def _write(folder: Path, *requests: str, user: str = "7", provenance: str = "key") -> Path:
    """Store one prediction for each request, and return the segment they are in."""
    before = set(folder.rglob("*.jsonl"))
    rows = ((user, request, Prediction(f"answer to {request}", 3, True, provenance)) for request in requests)
    _store(folder).writer().append(rows)
    (segment,) = set(folder.rglob("*.jsonl")) - before
    return segment


def test_an_empty_store_has_nothing(tmp_path: Path) -> None:
    assert _store(tmp_path / "absent").read("7") == {}


@given(PREDICTIONS)
@settings(max_examples=50, deadline=None)
def test_any_text_comes_back_as_it_was(predictions: dict[str, Prediction]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = _store(Path(folder))
        store.writer().append(("7", request, prediction) for request, prediction in predictions.items())
        found = store.read("7")
        assert {request: asdict(prediction) for request, prediction in found.items()} == {
            request: asdict(prediction) for request, prediction in predictions.items()
        }


def test_users_and_namespaces_are_apart(tmp_path: Path) -> None:
    _write(tmp_path, "a", user="7")
    _write(tmp_path, "b", user="8")
    assert list(_store(tmp_path).read("7")) == ["a"]
    assert list(_store(tmp_path).read("8")) == ["b"]
    assert PredictionStore(tmp_path, "e" * 64).read("7") == {}


def test_appended_batches_are_readable_at_once_and_share_a_segment(tmp_path: Path) -> None:
    writer, expected = _store(tmp_path).writer(), {}
    for name in "ab":
        expected[name] = Prediction(name, 1, False, "key")
        writer.append([("7", name, expected[name])])
        assert _store(tmp_path).read("7") == expected
    assert len(list(tmp_path.rglob("*.jsonl"))) == 1


def test_writers_keep_no_file_open(tmp_path: Path) -> None:
    writers = [PredictionStore(tmp_path, f"{number:064}").writer() for number in range(20)]
    before = len(list(Path("/proc/self/fd").iterdir()))
    for writer in writers:
        writer.append((str(user), "a", Prediction("x", 1, False, "key")) for user in range(5))
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize("cut", [1, 2, 10, 40])
def test_a_torn_last_line_is_passed_over(tmp_path: Path, cut: int, caplog: pytest.LogCaptureFixture) -> None:
    segment = _write(tmp_path, "a", "b")
    content = segment.read_bytes()
    # Cutting only the newline loses nothing; a cut into the line loses that line alone.
    segment.write_bytes(content[:-cut])
    with caplog.at_level(logging.WARNING):
        assert list(_store(tmp_path).read("7")) == (["a", "b"] if cut == 1 else ["a"])
    assert [f"{segment}:2" in message for message in caplog.messages] == ([] if cut == 1 else [True])


def test_every_possible_cut_keeps_exactly_the_complete_lines(tmp_path: Path) -> None:
    segment = _write(tmp_path, "a", "b", "c")
    content = segment.read_bytes()
    for length in range(len(content)):
        segment.write_bytes(content[:length])
        # A line that lacks only its newline is complete.
        complete = content[: length + 1].count(b"\n")
        assert list(_store(tmp_path).read("7")) == ["a", "b", "c"][:complete]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"answer to b", b"answer to B"),
        (b'"new_tokens": 3', b'"new_tokens": 4'),
        (b'"stopped": true', b'"stopped": false'),
        (b'"provenance": "key"', b'"provenance": "kex"'),
        (b'"request": "b"', b'"request": "x"'),
        (b'"check"', b'"chick"'),
        (b"answer to b", b"answer to \xff"),
    ],
)
def test_an_edited_line_is_skipped_and_its_neighbours_count(tmp_path: Path, old: bytes, new: bytes) -> None:
    segment = _write(tmp_path, "a", "b", "c")
    lines = segment.read_bytes().split(b"\n")
    assert old in lines[1]
    lines[1] = lines[1].replace(old, new)
    segment.write_bytes(b"\n".join(lines))
    assert list(_store(tmp_path).read("7")) == ["a", "c"]


@pytest.mark.parametrize("junk", [b"[]", b"7", b"null", b'"text"', b"{}", b"\0\0\0", b"[" * 100_000, b'{"check": 1}'])
def test_junk_between_lines_is_passed_over(tmp_path: Path, junk: bytes) -> None:
    segment = _write(tmp_path, "a", "b")
    first, rest = segment.read_bytes().split(b"\n", 1)
    segment.write_bytes(first + b"\n" + junk + b"\n" + rest)
    assert list(_store(tmp_path).read("7")) == ["a", "b"]


def test_a_second_attempt_after_a_crash_does_not_touch_the_first_ones_segment(tmp_path: Path) -> None:
    torn = _write(tmp_path, "a", "b")
    torn.write_bytes(torn.read_bytes()[:-20])
    left = torn.read_bytes()
    _write(tmp_path, "b", "c")
    assert torn.read_bytes() == left
    assert sorted(_store(tmp_path).read("7")) == ["a", "b", "c"]


WRITER = """
import json, sys
from usertune.inference.prediction_store import Prediction, PredictionStore
folder, name = json.loads(sys.argv[1])
writer = PredictionStore(folder, "f" * 64).writer()
for number in range(200):
    writer.append([("7", f"{name}{number}", Prediction(name * 2000, number, True, "key"))])
"""


def test_two_processes_write_at_once(tmp_path: Path, run_python: Callable[..., subprocess.Popen[str]]) -> None:
    writers = [run_python(WRITER, [tmp_path, name]) for name in "ab"]
    for writer in writers:
        _, error = writer.communicate(timeout=60)
        assert writer.returncode == 0, error
    expected = {
        f"{name}{number}": Prediction(name * 2000, number, True, "key") for name in "ab" for number in range(200)
    }
    assert _store(tmp_path).read("7") == expected


def test_records_of_what_predictions_were_made_with_come_back(tmp_path: Path) -> None:
    store, today = _store(tmp_path), {"code": "a", "versions": {"torch": "2.14.0"}}
    key = store.remember(today)
    assert store.remember(dict(reversed(today.items()))) == key
    other = store.remember({**today, "code": "b"})
    assert store.current_provenance() == {key: today, other: {**today, "code": "b"}}
    assert PredictionStore(tmp_path, "e" * 64).current_provenance() == {}


@pytest.mark.parametrize("damage", [b"", b"{}", b'{"code": "a"}'])
def test_a_damaged_record_is_skipped_and_rewritten(
    tmp_path: Path, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    store = _store(tmp_path)
    key, other = (store.remember({"code": code}) for code in "ab")
    file = store.folder / "provenance" / f"{key}.json"
    file.write_bytes(damage)
    with caplog.at_level(logging.WARNING):
        assert store.current_provenance() == {other: {"code": "b"}}
    assert str(file) in caplog.text
    assert store.remember({"code": "a"}) == key
    assert store.current_provenance() == {key: {"code": "a"}, other: {"code": "b"}}


def test_lines_of_older_releases_have_no_batch_size(tmp_path: Path) -> None:
    segment = _write(tmp_path, "a")
    record = {
        key: value for key, value in json.loads(segment.read_text()).items() if key not in ("batch_size", "check")
    }
    segment.write_text(json.dumps({**record, "check": _check(record)}) + "\n")
    assert _store(tmp_path).read("7")["a"].batch_size is None


def test_lines_and_records_of_older_releases_name_what_they_were_made_with_otherwise(tmp_path: Path) -> None:
    segment = _write(tmp_path, "a", provenance="key")
    record = json.loads(segment.read_text())
    del record["check"]
    record[OLD_PROVENANCE] = record.pop("provenance")
    segment.write_text(json.dumps({**record, "check": _check(record)}) + "\n")
    store = _store(tmp_path)
    assert store.read("7")["a"].provenance == "key"
    write_result(store.folder / OLD_PROVENANCE / "key.json", {"code": "old"})
    assert store.current_provenance() == {"key": {"code": "old"}}


def test_only_accepted_predictions_are_read(tmp_path: Path) -> None:
    _write(tmp_path, "a", "b", provenance="old")
    _write(tmp_path, "b", "c", provenance="new")
    new = _store(tmp_path).read("7", lambda prediction: prediction.provenance == "new")
    assert {request: prediction.provenance for request, prediction in new.items()} == {"b": "new", "c": "new"}
    assert _store(tmp_path).read("7", lambda _: False) == {}
    assert sorted(_store(tmp_path).read("7")) == ["a", "b", "c"]

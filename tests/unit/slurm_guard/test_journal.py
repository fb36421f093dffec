"""The journal of a study's SLURM jobs: written by many at once, and read after crashes."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slurm_guard.journal import Journal, submissions

# Takes [journal, name, count]: writes that many events.
WRITER = """
import json, sys
from pathlib import Path
from slurm_guard.journal import Journal, submissions
path, name, count = json.loads(sys.argv[1])
for number in range(count):
    Journal(Path(path)).append("submitted", f"{name}{number}", filling="x" * 500)
"""

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "logs" / "slurm" / "jobs.jsonl")


def jobs(journal: Journal) -> list[str]:
    return [entry["job"] for entry in journal.read()]


def test_events_are_read_in_their_order(journal: Journal) -> None:
    journal.append("submitted", "7", rule="train", wildcards={"experiment": "lora"}, attempt=1)
    journal.append("ended", "7", state="COMPLETED")
    first, second = journal.read()
    assert datetime.fromisoformat(first.pop("time")).tzinfo is not None
    assert first == {
        "event": "submitted", "job": "7", "rule": "train", "wildcards": {"experiment": "lora"}, "attempt": 1
    }  # fmt: skip
    assert (second["event"], second["job"], second["state"]) == ("ended", "7", "COMPLETED")


def test_there_may_be_no_journal_yet(journal: Journal) -> None:
    assert list(journal.read()) == []
    assert submissions(journal.read()) == {}
    assert not journal.path.parent.exists()


def test_the_last_submission_or_adoption_of_a_job_counts(journal: Journal) -> None:
    journal.append("submitted", "7", attempt=1)
    journal.append("submitted", "8", attempt=1)
    journal.append("adopted", "7", attempt=2)
    journal.append("ended", "7")
    journal.append("cancelled", "9")
    assert {job: entry["attempt"] for job, entry in submissions(journal.read()).items()} == {"7": 2, "8": 1}


CUT_SHORT = [
    b'{"event": "submitted", "time": "2026-11-25T10:00:00", "jo',
    b'{"event": "submitted", "time": "\xe4\xbd',
    b"{",
    b"\x00" * 200,
    b'[1, 2]\n"text"\n7\nnull',
    b'{"event": "ended", "job": "3"}',
    b"\n\n",
]


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
@pytest.mark.parametrize("line", CUT_SHORT)
def test_lines_that_a_crash_cut_short_cost_no_other(journal: Journal, line: bytes, end: bytes) -> None:
    journal.append("submitted", "1")
    with journal.path.open("ab") as file:
        file.write(line + end)
    assert jobs(journal) == ["1"]
    journal.append("submitted", "2")
    journal.append("ended", "2")
    assert jobs(journal) == ["1", "2", "2"]


@pytest.mark.parametrize("length", range(0, 60, 7))
def test_a_journal_that_was_cut_anywhere(journal: Journal, length: int) -> None:
    journal.append("submitted", "1")
    journal.path.write_bytes(journal.path.read_bytes()[:length])
    journal.append("submitted", "2")
    assert jobs(journal) == ["2"]


def test_a_whole_event_without_its_line_break_counts(journal: Journal) -> None:
    journal.append("submitted", "1")
    journal.path.write_bytes(journal.path.read_bytes().rstrip(b"\n"))
    journal.append("submitted", "2")
    assert jobs(journal) == ["1", "2"]


@pytest.mark.parametrize("text", ["ä", "点击", "a\nb", "\u2028\x85\x0b", "\x00", '"\\', os.fsdecode(b"/data/\xff")])
def test_any_text_is_kept(journal: Journal, text: str) -> None:
    journal.append("submitted", "1", rule=text, log=text)
    journal.append("submitted", "2")
    first, second = journal.read()
    assert (first["rule"], first["log"], second["job"]) == (text, text, "2")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)
NAMES = st.from_regex(r"[a-z]{1,8}", fullmatch=True).filter(lambda name: name not in ("event", "job", "time", "self"))


@settings(deadline=None)
@given(st.lists(st.tuples(st.text(), st.text(), st.dictionaries(NAMES, JSON, max_size=3)), max_size=5))
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, events: list[tuple[str, str, dict[str, Any]]]
) -> None:
    journal = Journal(tmp_path_factory.mktemp("journal") / "jobs.jsonl")
    for event, job, more in events:
        journal.append(event, job, **more)
    read = list(journal.read())
    for entry in read:
        del entry["time"]
    assert read == [{"event": event, "job": job, **more} for event, job, more in events]


@settings(deadline=None)
@given(st.binary())
def test_no_journal_is_an_error(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    journal = Journal(tmp_path_factory.mktemp("journal") / "jobs.jsonl")
    journal.path.write_bytes(content)
    before = list(journal.read())
    journal.append("submitted", "1")
    assert list(journal.read())[:-1] == before
    assert jobs(journal)[-1] == "1"


def test_threads_do_not_mix_their_events(journal: Journal) -> None:
    with ThreadPoolExecutor(8) as pool:
        for number in range(400):
            pool.submit(journal.append, "submitted", str(number), filling="x" * 5000)
    assert sorted(map(int, jobs(journal))) == list(range(400))
    # Empty lines may come between, where one took another's half-written event for the end of a crash.
    assert sum(line != b"" for line in journal.path.read_bytes().splitlines()) == 400


def test_processes_do_not_mix_their_events(journal: Journal, run_python: Start) -> None:
    writers = [run_python(WRITER, [journal.path, name, 100]) for name in "abc"]
    for writer in writers:
        _, error = writer.communicate(timeout=60)
        assert writer.returncode == 0, error
    found = jobs(journal)
    for name in "abc":
        # Each one's in their order.
        assert [job for job in found if job[0] == name] == [f"{name}{number}" for number in range(100)]
    assert len(found) == 300


def test_a_journal_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError):
        Journal(tmp_path / "file" / "jobs.jsonl").append("submitted", "1")
    (tmp_path / "jobs.jsonl").mkdir()
    with pytest.raises(OSError):
        Journal(tmp_path / "jobs.jsonl").append("submitted", "1")


def test_one_event_is_one_line_of_plain_json(journal: Journal) -> None:
    journal.append("submitted", "1", rule="a\nb\u2028")
    (line,) = journal.path.read_text(encoding="ascii").splitlines()
    assert json.loads(line)["rule"] == "a\nb\u2028"

"""Logs of jobs are read while programs write them."""

from __future__ import annotations

from pathlib import Path

from usertune.runtime.job_log import Entry, LogReader, entries

INFO = "2026-11-30 01:18:44,020 INFO fine\n"
WARNING = "2026-11-30 01:18:44,829 WARNING odd: 2026-11-30\n  its second line\n"


def test_messages() -> None:
    found = entries("Killed\n" + INFO + WARNING)
    assert found == [Entry("", "Killed"), Entry("INFO", "fine"), Entry("WARNING", "odd: 2026-11-30\n  its second line")]


def test_only_what_is_new(tmp_path: Path) -> None:
    log = tmp_path / "job.log"
    reader = LogReader(log)
    assert not list(reader.new()), "there is none yet"
    log.write_text(INFO + WARNING[:-10])
    assert [entry.level for entry in reader.new()] == ["INFO", "WARNING"]
    log.write_text(INFO + WARNING + INFO)
    assert list(reader.new()) == [Entry("", "  its second line"), Entry("INFO", "fine")]
    assert not list(reader.new())
    log.write_text(WARNING)
    assert [entry.level for entry in reader.new()] == ["WARNING"], "a further attempt begins the log again"


def test_the_log_of_an_earlier_run(tmp_path: Path) -> None:
    log = tmp_path / "job.log"
    log.write_text(WARNING)
    assert not list(LogReader(log, since=log.stat().st_mtime + 1).new())
    assert list(LogReader(log, since=log.stat().st_mtime).new())

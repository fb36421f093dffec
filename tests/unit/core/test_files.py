"""Files appear complete or not at all; programs show errors that people can use."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from usertune.core.errors import UserError
from usertune.core.files import atomic_writer, folder_replacement, read_json, replacement, write_json, write_text

REPOSITORY = Path(__file__).resolve().parents[3]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "old")

    def fail_half_way() -> None:
        with atomic_writer(tmp_path / "a.txt") as handle:
            handle.write(b"new")
            raise RuntimeError("the disk is full")

    with pytest.raises(RuntimeError):
        fail_half_way()
    assert (tmp_path / "a.txt").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_link_is_replaced_or_stays_as_it_was(tmp_path: Path) -> None:
    link = tmp_path / "link"
    for target in ("a", "b"):
        with replacement(link) as temporary:
            temporary.symlink_to(target)
        assert link.readlink() == Path(target)
    with pytest.raises(FileNotFoundError), replacement(link):
        pass
    assert link.readlink() == Path("b")
    assert list(tmp_path.iterdir()) == [link]


def test_a_folder_is_there_only_when_it_is_complete(tmp_path: Path) -> None:
    folder = tmp_path / "weights"

    def fill(content: str, fail: bool = False) -> None:
        with folder_replacement(folder) as temporary:
            temporary.mkdir()
            (temporary / content).write_text(content)
            assert not folder.exists(), "a part of it is never seen"
            assert not fail

    fill("old")
    with pytest.raises(AssertionError):
        fill("half", fail=True)
    assert not folder.exists()
    fill("new")
    assert [path.name for path in folder.iterdir()] == ["new"], "nothing of the attempts before is in it"
    assert list(tmp_path.iterdir()) == [folder]


def test_json_is_read_back_and_bad_json_is_explained(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"ü": 1})
    assert read_json(tmp_path / "a.json") == {"ü": 1}
    for content, message in (
        (b"{", "not valid JSON"),
        (b"\xff", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"1" * 5000, "not valid JSON"),
        (b"[1]", "expected a JSON object"),
    ):
        (tmp_path / "b.json").write_bytes(content)
        with pytest.raises(UserError, match=message):
            read_json(tmp_path / "b.json")
    with pytest.raises(UserError, match="does not exist"):
        read_json(tmp_path / "c.json")
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "d.json", {"a": float("nan")})


def run_prepare(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    recipe = json.dumps({"step": "prepare", "format": "messages", "task": "grounding", "on_bad_sample": "error"})
    command = [sys.executable, str(REPOSITORY / "scripts" / "prepare.py"), "--recipe", recipe, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})


def test_a_program_shows_a_users_error_without_a_traceback_and_writes_it_to_its_log(tmp_path: Path) -> None:
    log = tmp_path / "l" / "log"
    outputs = ["--samples", str(tmp_path / "s"), "--manifest", str(tmp_path / "m"), "--log", str(log)]
    done = run_prepare("--root", str(tmp_path), "--users", "7", *outputs)
    assert done.returncode == 2
    assert "user 7 of the study has no raw data" in done.stderr
    assert "Traceback" not in done.stderr
    assert "user 7 of the study has no raw data" in log.read_text()


# environment.py is what the programs import first.
PROGRAMS = sorted({path.name for path in (REPOSITORY / "scripts").glob("*.py")} - {"environment.py"})


@pytest.mark.parametrize("script", PROGRAMS)
def test_every_program_explains_itself_without_importing_torch_or_matplotlib(script: str, tmp_path: Path) -> None:
    heavy = ("torch", "transformers", "matplotlib") if script != "figure.py" else ()
    for name in heavy:
        (tmp_path / f"{name}.py").write_text("raise ImportError('not needed for --help')")
    command = [sys.executable, str(REPOSITORY / "scripts" / script), "--help"]
    path = os.pathsep.join([str(tmp_path), str(REPOSITORY / "src")])
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path})
    assert done.returncode == 0, done.stderr
    assert len(done.stdout) > 200

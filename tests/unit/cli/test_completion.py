"""Shell completion: what bash completes, and a script of every command for each shell."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from usertune.cli.completion import SHELLS
from usertune.cli.main import COMMANDS, main


def completion(shell: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    monkeypatch.setattr(sys, "argv", ["usertune", "completion", shell])
    main()
    return capsys.readouterr().out


@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell_gets_every_command(
    shell: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = completion(shell, monkeypatch, capsys)
    for word in (*COMMANDS, "watch", "times", "pretrain"):
        assert word in script


def test_bash_completes_commands_options_and_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "usertune"
    script.write_text(completion("bash", monkeypatch, capsys))
    (tmp_path / "mine.yaml").touch()
    # As bash does when Tab is pressed: it calls the function that is registered for the command.
    press_tab = """
        source "$1"; shift
        function_of_command=$(complete -p usertune | sed -E 's/.*-F ([^ ]+).*/\\1/')
        COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
        "$function_of_command"
        printf '%s\\n' "${COMPREPLY[@]}"
    """

    def complete(*words: str) -> set[str]:
        done = subprocess.run(
            ["bash", "-c", press_tab, "bash", str(script), "usertune", *words],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        return set(done.stdout.split())

    assert complete("") >= set(COMMANDS)
    assert complete("st") == {"status"}
    assert complete("status", "--w") == {"--watch"}
    assert complete("status", "--study", "m") == {"mine.yaml"}
    assert complete("explain", "mi") == {"mine.yaml"}
    assert complete("demo", "") == {"data", "pretrain"}
    assert complete("demo", "data", "--us") == {"--users"}
    assert complete("completion", "z") == {"zsh"}

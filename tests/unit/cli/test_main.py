"""The command ``usertune``: its help, its answers to mistakes, and what it imports."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

import usertune
from usertune.cli.main import COMMANDS, did_you_mean, main, summary

REPOSITORY = Path(__file__).resolve().parents[3]


def run_usertune(*words: str, cwd: Path = REPOSITORY, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "usertune", *words]
    return subprocess.run(
        command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, check=False, timeout=60
    )


def test_the_console_command_is_this_program() -> None:
    scripts = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"usertune": "usertune.cli.main:main"}
    module, function = scripts["usertune"].split(":")
    assert getattr(import_module(module), function) is main


def test_the_catalogue_has_every_subcommand() -> None:
    modules = {f"usertune.cli.{path.stem}" for path in (REPOSITORY / "src/usertune/cli").glob("*.py")}
    assert set(COMMANDS.values()) == {name for name in modules if hasattr(import_module(name), "add_arguments")} - {
        "usertune.cli.main"
    }


@pytest.mark.parametrize("words", [["--help"], []], ids=["--help", "nothing typed"])
def test_help_lists_every_subcommand_and_imports_none(words: list[str], tmp_path: Path) -> None:
    for name in ("pydantic", "yaml", "rich", "numpy", "torch", "pandas"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('not needed for --help')")
    done = run_usertune(*words, PYTHONPATH=f"{tmp_path}:{REPOSITORY / 'src'}")
    assert done.returncode == (0 if words else 2), done.stderr
    shown = " ".join(done.stdout.split())
    for name, module in COMMANDS.items():
        assert f" {name} {summary(module)}" in shown


@pytest.mark.parametrize("name", COMMANDS)
def test_every_subcommand_explains_itself_and_imports_no_model_or_plots(name: str, tmp_path: Path) -> None:
    for package in ("torch", "transformers", "matplotlib", "pandas"):
        (tmp_path / f"{package}.py").write_text("raise ImportError('not needed for --help')")
    done = run_usertune(name, "--help", PYTHONPATH=f"{tmp_path}:{REPOSITORY / 'src'}")
    assert done.returncode == 0, done.stderr
    assert f"usertune {name}" in done.stdout
    assert summary(COMMANDS[name]) in done.stdout
    assert "--log FILE" in done.stdout


def test_version() -> None:
    assert run_usertune("--version").stdout == f"usertune {usertune.__version__}\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["staus"], "usertune: no command 'staus' (did you mean status?); commands: status, explain,"),
        (["--verison"], "usertune: the following arguments are required: COMMAND; see: usertune --help"),
        (["status", "--wacth"], "usertune status: unrecognized arguments: --wacth (did you mean --watch?); see: usert"),
        (["status", "--watch", "soon"], "usertune status: argument --watch: invalid float value: 'soon'; see: usertu"),
        (["status", "--watch", "--times"], "usertune status: argument --times: not allowed with argument --watch; se"),
        (["status", "--json", "--watch"], "--json shows one moment; leave out --watch"),
        (["status", "--study", "nowhere.yaml"], "nowhere.yaml: "),
        (["explain", "--study", "config.yaml", "a.csv"], "a.csv: --study takes every word that follows it; write the"),
        (["explain", "elsewhere/a.csv"], "elsewhere/a.csv: not in the study's results folder, results"),
        (["explain", "results/a.csv"], "a.csv: this study has no such result; results are, for example: "),
        (["check", "--users", "1,eve"], "--users: eve is not a user of this study"),
        (["demo"], "usertune demo: the following arguments are required: COMMAND; see: usertune demo --help"),
        (["demo", "data", "x", "--users", "eve"], "--users: 'eve' is not a number; the demo's users are numbers"),
        (["import", "nowhere"], "nowhere: there is no such file or folder"),
        (["export", "--to", "x"], "usertune export: one of the arguments --format --experiment is required; see: user"),
        (["export", "--format", "trl", "--to", "x", "--merge"], "--merge has no meaning with --format; leave it out"),
        (
            ["export", "--experiment", "vanilla", "--to", "x"],
            "--experiment vanilla: experiments of this study with weig",
        ),
        (["schema", "nowhere"], "nowhere/docs/answers.md: there is no such file; run this in a copy of usertune's"),
        (["completion", "cmd"], "usertune completion: argument shell: invalid choice: 'cmd' (choose from 'bash'"),
    ],
    ids=" ".join,
)
def test_a_mistake_is_answered_with_one_line(
    words: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr(sys, "argv", ["usertune", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    output = capsys.readouterr()
    assert (ended.value.code, output.out) == (2, "")
    assert output.err.startswith(said)
    assert len(output.err.splitlines()) == 1


def test_a_suggestion_needs_a_likeness() -> None:
    assert did_you_mean("stats", COMMANDS) == " (did you mean status?)"
    assert did_you_mean("zzz", COMMANDS) == ""


def test_a_command_in_the_catalogue_without_a_module_is_named() -> None:
    with pytest.raises(ImportError, match=r"usertune\.cli\.nowhere is in the catalogue of commands"):
        summary("usertune.cli.nowhere")


def test_a_reader_that_has_enough_ends_a_command_quietly() -> None:
    command = f"{sys.executable} -P -m usertune explain | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert (done.returncode in (0, 1), done.stderr) == (True, "")

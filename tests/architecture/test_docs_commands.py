"""Every command that the README, the docs, the profiles and the programs show is one that works as it is shown."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from snakemake.cli import parse_args

from tests.support.documented import REPOSITORY, Command, commands, run_snakemake
from tests.support.fingertip_tree import write_actions_alone
from usertune.cli.main import main
from usertune.runtime import step_main

# Programs that are not ours; only their names are checked.
OUTSIDE = {
    "module",
    "source",
    "export",
    "srun",
    "sinfo",
    "sacctmgr",
    "sort",
    "tmux",
    "squeue",
    "scancel",
    "flock",
    "rm",
}
OUTSIDE |= {"hf", "apptainer", "sbatch"}
# Shown, but not run here: word -> why.
NOT_RUN = {
    "conda": "conda is not installed where the tests run",
    "--report": "it needs a finished study; tests/workflow/test_whole_study.py has one",
    "benchmarks/": "benchmarks take minutes; each has its own entry in `make bench`",
}
STUDIES = ("config.yaml", "configs/mine.yaml", "configs/qwen3-vl-8b.yaml")


def _simple(command: Command) -> Iterator[tuple[str, ...]]:
    """Yield the simple commands of a line, also the one that `sbatch --wrap` submits."""
    lexer = shlex.shlex(command.text, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, ";"]:
        if word not in ("&&", ";", "|"):
            words.append(word)
            continue
        if words:
            yield tuple(words)
        for option in words:
            if option.startswith("--wrap="):
                yield tuple(shlex.split(option.removeprefix("--wrap=")))
        words = []


def _without_redirection(words: tuple[str, ...]) -> tuple[str, ...]:
    return words[: words.index(">")] if ">" in words else words


SHOWN = [(command, words) for command in commands() for words in _simple(command)]
# A text in a table may leave out what follows.
SNAKEMAKE = {tuple(word for word in words[1:] if word != "...") for _, words in SHOWN if words[0] == "snakemake"}
SCRIPTS = sorted({words[1:] for _, words in SHOWN if words[0].startswith("python")})
USERTUNE = sorted({_without_redirection(words[1:]) for _, words in SHOWN if words[0] == "usertune"})


def _write_json(file: Path, *samples: dict[str, object]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(samples))


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository with a user's own study; its data are not the demo's."""
    folder = tmp_path_factory.mktemp("docs")
    for name in ("Snakefile", "rules", "scripts", "src", "envs", "profiles", "local", "slurm"):
        (folder / name).symlink_to(REPOSITORY / name)
    shutil.copytree(REPOSITORY / "configs", folder / "configs")
    shutil.copy(REPOSITORY / "config.yaml", folder)
    (folder / "demo").mkdir()
    (folder / "demo/base").symlink_to(REPOSITORY / "demo/base")
    (folder / "usertune.sif").touch()
    (folder / "bin").mkdir()
    (folder / "bin/apptainer").write_text("#!/bin/sh\necho apptainer version 1.4.0\n")
    (folder / "bin/apptainer").chmod(0o755)
    data = folder / "demo/dataset"
    data.mkdir()
    for user in (*map(str, range(1, 84)), "alice"):
        (data / f"user_{user}.jsonl").write_text("")
    (study,) = re.findall(r"^```yaml\n(name: mine\n.*?)^```$", (REPOSITORY / "README.md").read_text(), re.M | re.S)
    (folder / "configs/mine.yaml").write_text(study)
    # As many as the dataset has, with more steps of training than the warm-up of the reference.
    write_actions_alone(folder / "data/fingertip-20k", range(1, 84), actions=6)
    for name in ("screenspot_desktop_v2", "screenspot_mobile_v2", "screenspot_web_v2"):
        _write_json(folder / f"data/screenspot-v2/{name}.json", {"img_filename": "a.png", "bbox": [1, 2, 3, 4]})
    for name in ("train", "validation", "test"):
        _write_json(folder / f"data/qwen-json/{name}.json", {"image": "a.png", "conversations": []})
    for name in STUDIES:
        path = folder / name
        text = re.sub(r"root: [^\s}]+", f"root: {data}", path.read_text())
        # Fewer users than shown, since every command is planned.
        text = text.replace("train: 11-73, validation: 74-83", "train: 11, validation: 74")
        text = text.replace("train: 11-73\n  validation: 74-83", "train: 11\n  validation: 74")
        # An image, for the commands that run jobs in one.
        path.write_text(re.sub(r"^container: .*\n", "", text, flags=re.M) + f"container: {folder}/usertune.sif\n")
    return folder


def test_every_program_is_known() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.M))
    assert len(SNAKEMAKE) > 15
    assert len(SCRIPTS) > 5
    assert len(USERTUNE) > 10
    for command, words in SHOWN:
        if words[0] == "make":
            assert set(words[1:]) <= targets, command
        elif words[0].startswith("python"):
            assert (REPOSITORY / words[1]).is_file(), command
        else:
            assert words[0] in {*OUTSIDE, "snakemake", "usertune"}, command


def test_every_shipped_study_is_planned() -> None:
    planned = {word for words in SNAKEMAKE for word in words if "-n" in words or "--dry-run" in words}
    for study in REPOSITORY.glob("configs/*.yaml"):
        assert f"configs/{study.name}" in planned


def test_targets_come_first_and_are_understood(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(checkout)
    for words in SNAKEMAKE:
        _, arguments = parse_args(list(words))
        targets = [*arguments.targets]
        assert list(words[: len(targets)]) == targets, f"write targets first: snakemake {' '.join(words)}"
        for file in arguments.configfile or ():
            assert file.suffix == ".yaml", f"{file} is taken for a configuration: snakemake {' '.join(words)}"


def test_every_snakemake_command_can_be_planned(checkout: Path) -> None:
    runs = sorted(
        {
            (*(word for word in words if word not in ("-n", "--dry-run")), "-n")
            for words in SNAKEMAKE
            if not set(words) & set(NOT_RUN)
        }
    )
    for words, (code, said) in zip(runs, run_snakemake(checkout, runs), strict=True):
        assert code == 0, f"snakemake {' '.join(words)}\n{said}"
        assert "This was a dry-run" in said or {"--lint", "--list"} & set(words), said


@pytest.mark.parametrize("words", SCRIPTS, ids=" ".join)
def test_every_script_takes_its_arguments(
    words: tuple[str, ...], checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if words[0].startswith("benchmarks/"):
        return
    monkeypatch.chdir(checkout)
    monkeypatch.setattr(sys, "argv", list(words))
    monkeypatch.syspath_prepend(REPOSITORY / "scripts")
    for word in words:
        if word.endswith(".txt"):
            # A list file, which the arguments are read from.
            Path(word).touch()
    monkeypatch.setattr(step_main, "run", lambda parser, main, **_: parser.parse_args())
    runpy.run_path(words[0], run_name="__main__")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("words", USERTUNE, ids=" ".join)
def test_every_usertune_command_takes_its_arguments(
    words: tuple[str, ...], checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed = []
    monkeypatch.chdir(checkout)
    monkeypatch.setattr(sys, "argv", ["usertune", *words])
    monkeypatch.setattr(step_main, "run", lambda parser, run, arguments: parsed.append(parser.parse_args(arguments)))
    with suppress(SystemExit):
        main()
    assert parsed or words[-1] in ("--help", "--version")


@pytest.mark.parametrize("name", ["status", "explain", "audit"])
def test_commands_run_as_shown(name: str, checkout: Path) -> None:
    """All but those that do not end; of a study that never ran they may say what they like, but in order."""
    shown = [words for words in USERTUNE if words[0] == name and "--watch" not in words]
    assert shown
    for words in shown:
        command = [sys.executable, "-P", "-m", "usertune", *words]
        done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)
        said = done.stdout + done.stderr
        assert done.returncode in (0, 2), said
        assert "see: usertune" not in said, said
        assert "Traceback" not in said, said
        assert not re.search(r"no such|not in the study", said), said

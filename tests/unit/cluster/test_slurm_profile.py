"""The profile for SLURM: this Snakemake understands it, and it has what the code relies on."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
from dataclasses import MISSING
from pathlib import Path
from typing import Any

import pytest
import snakemake_executor_plugin_slurm as slurm
import yaml
from snakemake.cli import get_argument_parser, parse_args
from snakemake.resources import Resources
from snakemake_executor_plugin_slurm.validation import validate_slurm_extra

from snakemake_executor_plugin_slurm_guarded import ExecutorSettings
from tests.support.workplace import REPOSITORY, new_workplace

PATH = REPOSITORY / "profiles/slurm/config.yaml"
EXAMPLE = re.compile(r"^( *)# ( *[a-z0-9_-]+:(?: .*)?)$", re.MULTILINE)


def read(text: str) -> dict[str, Any]:
    profile = yaml.safe_load(text)
    assert isinstance(profile, dict)
    return profile


@pytest.fixture
def uncommented() -> str:
    """The profile with all its examples."""
    return EXAMPLE.sub(r"\1\2", PATH.read_text())


@pytest.fixture
def parsed() -> argparse.Namespace:
    """The options as Snakemake understands them."""
    return parse_args(["--profile", str(PATH.parent), "--workflow-profile", "none"])[1]


def test_every_option_is_one_of_snakemake() -> None:
    known = {option for action in get_argument_parser()._actions for option in action.option_strings}
    profile = read(PATH.read_text())
    assert [key for key in profile if f"--{key}" not in known] == []
    # The same key twice would be no error of YAML.
    keys = re.findall(r"^([a-z-]+):", PATH.read_text(), re.MULTILINE)
    assert sorted(keys) == sorted(profile)


def test_what_the_code_relies_on(parsed: argparse.Namespace) -> None:
    assert parsed.executor == "slurm-guarded"
    # Attempts get more time and memory, or a smaller micro_batch_size; preempted and lost jobs need them too.
    assert parsed.retries == 2
    # usertune locks the results itself, and the outputs of a killed job are not trusted.
    assert parsed.nolock is True
    assert parsed.rerun_incomplete is True
    # Results are complete or absent, and an attempt that still runs would remove those of its successor.
    assert parsed.keep_incomplete is True
    assert parsed.slurm_guarded_requeue is True
    # Job arrays lose jobs.
    assert parsed.slurm_guarded_array_jobs is MISSING
    # The login node is for everybody; --cores would take cores from the SLURM jobs too.
    assert parsed.local_cores <= 2
    assert parsed.cores is None
    assert parsed.latency_wait >= 30


def test_training_is_warned_before_its_time_is_over(parsed: argparse.Namespace) -> None:
    class Job:
        resources = Resources({"slurm_extra": read(PATH.read_text())["default-resources"]["slurm_extra"]})

    validate_slurm_extra(Job())
    (option,) = shlex.split(read(PATH.read_text())["default-resources"]["slurm_extra"])
    name, signal, seconds = re.split("[=@]", option)
    # Not B:TERM, which only the batch shell would get, nor one that Snakemake would take for Ctrl-C.
    assert (name, signal) == ("--signal", "TERM")
    assert 120 <= int(seconds) <= 600


def test_polls_of_the_queue_are_rare(parsed: argparse.Namespace) -> None:
    shortest = parsed.slurm_guarded_init_seconds_before_status_checks
    assert 5 <= shortest <= parsed.slurm_guarded_longest_seconds_between_status_checks <= 60


def test_settings_of_the_guard_need_no_profile(parsed: argparse.Namespace) -> None:
    settings = ExecutorSettings()
    assert isinstance(settings, slurm.ExecutorSettings)
    for name in ("init_seconds_before_status_checks", "longest_seconds_between_status_checks"):
        assert getattr(settings, name) == getattr(parsed, f"slurm_guarded_{name}")
    assert settings.patience_seconds >= 60


def test_the_examples_are_options_of_snakemake_too(uncommented: str, tmp_path: Path) -> None:
    assert uncommented.count("#") < PATH.read_text().count("#") - 8
    profile = read(uncommented)
    assert set(profile["default-resources"]) == {"slurm_partition", "slurm_account", "slurm_extra"}
    assert set(profile["set-resources"]) == {"train", "train_folds-personal-users-1-5", "predict"}
    (tmp_path / "config.yaml").write_text(uncommented)
    parsed = parse_args(["--profile", str(tmp_path), "--workflow-profile", "none"])[1]
    assert set(parsed.set_resources) == {"train", "train_folds-personal-users-1-5", "predict"}


@pytest.mark.parametrize("with_examples", [False, True])
def test_what_slurm_is_asked_for(uncommented: str, tmp_path: Path, with_examples: bool) -> None:
    workplace = new_workplace(tmp_path / "study")
    profile = tmp_path / "profile" / "config.yaml"
    profile.parent.mkdir()
    profile.write_text(uncommented if with_examples else PATH.read_text())
    path = os.pathsep.join([str(_slurm_that_refuses(tmp_path / "bin")), os.environ["PATH"]])
    workplace.options = ("--profile", str(profile.parent))
    # As people start it: --cores would take cores from the SLURM jobs.
    command = workplace.command()
    assert command.pop(command.index("--cores") + 1) == "2"
    command.remove("--cores")
    done = subprocess.run(command, env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "Set slurm-guarded-qos in profiles/slurm/config.yaml" in done.stderr
    asked = map(_options, (tmp_path / "bin" / "asked").read_text().splitlines())
    predict, train = sorted(asked, key=lambda options: int(options["-t"]))
    assert train["--signal"] == predict["--signal"] == "TERM@180"
    assert "--requeue" in train
    assert "--requeue" in predict
    if with_examples:
        assert (train["-p"], train["-A"], train["-C"]) == ("gpu", "mylab", "nvlink")
        assert (train["--gpus"], train["-t"], train["--mem"]) == ("a100:1", "1440", "128000")
        assert (predict["--gpus"], predict["-t"], predict["--cpus-per-gpu"]) == ("a100:1", "120", "8")
    else:
        assert not {"-p", "-A", "-C"} & train.keys()
        assert (train["--gpus"], train["-t"], train["--mem"], train["--cpus-per-task"]) == ("1", "1440", "64000", "8")
        assert (predict["--gpus"], predict["-t"], predict["--mem"], predict["--cpus-per-task"]) == (
            "1", "240", "32000", "4"
        )  # fmt: skip


def _slurm_that_refuses(folder: Path) -> Path:
    """Return a folder of stand-ins: sbatch records its arguments, and refuses the jobs of the second rule."""
    folder.mkdir()
    programs = {
        "sbatch": f'printf "%s\\37" "$@" >> {folder}/asked; echo >> {folder}/asked\n'
        f"[ $(wc -l < {folder}/asked) = 1 ] || {{ echo Invalid qos specification >&2; exit 1; }}",
        "squeue": "exit 0",
        "sinfo": "echo short",
        "sacctmgr": "echo mylab",
        "scontrol": "exit 1",
        "sacct": "exit 1",
    }
    for name, text in programs.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    return folder


def _options(asked: str) -> dict[str, str]:
    """Return the options of a command by their names; those that take none have an empty value."""
    words = asked.rstrip("\x1f").split("\x1f")
    assert words[-2:] == ["--test-only", "--wrap=true"]
    options: dict[str, str] = {}
    name = ""
    for word in words:
        if word.startswith("-"):
            name, _, options_value = word.partition("=")
            options[name] = options_value
        else:
            options[name] = word
    return options

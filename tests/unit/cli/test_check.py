"""``usertune check``: what it prints, and with what it ends."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.synthetic_study import SyntheticStudy
from usertune.cli.main import main
from usertune.study.copy import resolved_text


@pytest.fixture
def check(
    make_study: Callable[..., SyntheticStudy],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., tuple[object, str, str]]:
    """Return a function that runs ``usertune check`` with words: its exit code, output and errors."""
    made = make_study()
    resolved = tmp_path / "study.json"
    resolved.write_text(resolved_text(made.study))
    monkeypatch.setenv("COLUMNS", "100")

    def run(*words: str) -> tuple[object, str, str]:
        monkeypatch.setattr(sys, "argv", ["usertune", "check", *words, "--resolved-study", str(resolved)])
        ended: object = None
        try:
            main()
        except SystemExit as left:
            ended = left.code
        said = capsys.readouterr()
        return ended, said.out, said.err

    return run


def test_memory_shows_every_part_and_does_not_read_raw_data(check: Callable[..., tuple[object, str, str]]) -> None:
    code, output, _ = check("memory", "--gpu-memory", "80")
    assert code is None
    assert "passed the checks" not in output
    for title in ("80.0 GiB (--gpu-memory)", "optimizer (AdamW)", "KV cache", "learning rate", "Disk: "):
        assert title in output
    assert "longest" in output


def test_data_shows_no_estimate_and_both_are_the_default(check: Callable[..., tuple[object, str, str]]) -> None:
    _, output, _ = check("data")
    assert "passed the checks" in output
    assert "optimizer" not in output
    _, both, _ = check()
    assert "passed the checks" in both
    assert "optimizer" in both
    # 12 samples each: 0.05^2 + 0.25 / 12 is 0.153^2; four users need 2.128 of it.
    found = "a mean gain of 32.5 points is found in 80 % of studies (two-sided 5 %, one comparison)"
    assert "Detectable gain: with 4 test users with samples (48 samples, as uncertain as 4.0 equal users" in both
    assert found in both
    assert "which is 15.3 with the chance of their samples" in both
    assert "With five users or fewer no sign-flip p value is below 5 %" in both


def test_what_cannot_fit_ends_with_an_error_that_names_it(
    check: Callable[..., tuple[object, str, str]], tmp_path: Path
) -> None:
    for manifest in tmp_path.rglob("checkpoints/*/manifest.json"):
        manifest.unlink()
    code, output, errors = check("memory", "--gpu-memory", "0.1")
    assert code == 2
    assert "does not fit" in output
    assert errors.startswith("experiments.lora: training of lora needs about ")

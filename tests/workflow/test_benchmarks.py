"""Every benchmark runs on tiny data, and says so."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.benchmarks import FOLDER
from tests.support.documented import REPOSITORY

# Not benchmarks: what they share, and what writes their results and an example into the docs.
HELPERS = {"check_example", "common", "performance_tables", "shapes", "write_figures", "write_pictures"}
# Run on a cluster, in tests/slurm.
ON_SLURM = {"slurm_study", "slurm_many_jobs"}
HERE = {path.stem for path in FOLDER.glob("*.py")} - HELPERS - ON_SLURM
# They run real Snakemake, or take longest.
SLOW = {
    "busy_machine",
    "demo",
    "dry_run",
    "fingertip_scale",
    "gpu",
    "many_adapters",
    "one_edit",
    "plan_sweep",
    "random_folds",
    "report_scale",
    "reproducibility",
    "start_up",
    "training_speed",
}
# Results that a tiny run must have at any speed.
FOUND: dict[str, dict[str, Any]] = {
    "batched_generation": {"samples": 4, "same_answers": True},
    "busy_machine": {"same_losses": True},
    "coverage": {"equal.winner_among_equals": 0.0},
    "demo": {"accuracy.vanilla.click_accuracy_low": None, "times.model_loads": 1},
    "dry_run": {"users": 3, "many.users": 6},
    "fingertip_scale": {"samples": 480, "not_asked": 120, "skipped": 0},
    "gpu": {"sizes.2B.prediction.equal_answers": 4, "sizes.2B.lora.losses.largest_difference.usertune": 0},
    "many_adapters": {"adapters": 2, "models.demo.same_answers": True, "models.wider.same_answers": True},
    "memory_estimates": {"process.visual_tokens": 50},
    "one_edit": {"one_sample_edited.answers_generated": 1, "dataset_touched.answers_generated": 0},
    "plan_sweep": {"trainings": 2},
    "prediction_speed": {"samples": 4, "equal_answers": 4, "distinct_answers": 4, "shape.visual_tokens": 32},
    "random_folds": {"episode.samples": 12, "episode.samples_with_screenshot_of_another_fold": 0},
    "report_browser": {"samples": 8, "experiments": 3},
    "report_scale": {"rows": 90, "experiments": 3},
    "reproducibility": {"prediction.float32": 0, "training.gradient_checkpointing.weight": 0.0},
    "start_up": {"seconds.bare.rounds": 1, "seconds.job.rounds": 1},
    "training_speed": {"shape.visual_tokens": 32, "losses.largest_difference.usertune": 0},
    "weight_checks": {"tensors_of_the_folder": 732},
}


def run(name: str, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    """Run a benchmark in this process."""
    monkeypatch.setattr(sys, "argv", [f"benchmarks/{name}.py", *arguments])
    monkeypatch.syspath_prepend(str(FOLDER))
    runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")


def value(result: dict[str, Any], key: str) -> Any:
    found: Any = result["measured"]
    for part in key.split("."):
        found = found[part]
    return found


def marks(name: str) -> list[pytest.MarkDecorator]:
    found = [pytest.mark.workflow] * (name in SLOW)
    if name == "report_browser" and "USERTUNE_REQUIRE_BROWSER" not in os.environ:
        found.append(pytest.mark.skipif(not shutil.which("chromedriver"), reason="chromium and its driver are needed"))
    return found


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", [pytest.param(name, marks=marks(name)) for name in sorted(HERE)])
def test_it_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(name, monkeypatch, "--tiny", "--out", str(tmp_path / "result.json"))
    assert capsys.readouterr().out
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["benchmark"] == name
    assert result["tiny"]
    assert {key: value(result, key) for key in FOUND[name]} == FOUND[name]


@pytest.mark.parametrize("name", sorted(HERE | ON_SLURM))
def test_it_explains_itself(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        run(name, monkeypatch, "--help")
    assert left.value.code == 0
    output = capsys.readouterr().out
    assert f"python benchmarks/{name}.py" in output
    assert "--tiny" in output


def test_a_tiny_result_is_not_stored_among_the_results(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run("weight_checks", monkeypatch, "--tiny", "--out", str(FOLDER / "results/weight_checks.json"))
    assert "does not belong in benchmarks/results" in capsys.readouterr().err


def test_make_runs_every_benchmark() -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    for name in HERE | ON_SLURM:
        assert f"$(BIN)/python benchmarks/{name}.py\n" in makefile, name


@pytest.mark.workflow
def test_the_example_in_the_page_about_memory_is_what_is_printed() -> None:
    done = subprocess.run(
        [sys.executable, FOLDER / "check_example.py"], capture_output=True, text=True, check=False, timeout=200
    )
    page = (REPOSITORY / "docs/memory.md").read_text()
    # How much of the disk is free differs.
    lines = [line.rstrip() for line in done.stdout.splitlines() if "are free" not in line]
    shown = page[page.index("```text\n") + len("```text\n") :].splitlines()[: len(lines) + 1]
    assert [line for line in shown if "are free" not in line] == lines

"""A complete study from raw data to the report, named targets, and a second run."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from tests.support.workplace import EXPERIMENTS, LOCAL_PROFILE, REPOSITORY, TRAINED, Workplace
from usertune.evaluation.table_names import DESCRIPTIONS, SAMPLES, USERS
from usertune.study.load import load_study

pytestmark = pytest.mark.workflow
NOTHING = "Nothing to be done"


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_whole_study(finished: Workplace) -> None:
    summary = _rows(finished.results / "tables/summary.csv")
    assert [row["experiment"] for row in summary] == list(EXPERIMENTS)
    assert {"users", "samples", "parse_rate", "click_accuracy", "mean_l2", "median_l2"} <= set(summary[0])
    assert {"difference_to_vanilla", "difference_low", "difference_high"} <= set(summary[0])
    assert all((row["users"], row["samples"]) == ("2", "10") for row in summary)
    assert all(0 <= float(row["click_accuracy"]) <= 1 for row in summary)
    for experiment in EXPERIMENTS:
        for user in "12":
            assert len(_rows(finished.results / f"scores/{experiment}/user_{user}.csv")) == 5
            assert (finished.results / f"scores/{experiment}/user_{user}.json").is_file()
        assert finished.predictions(experiment)["generated"] > 0
    report = (finished.results / "report.html").read_text()
    assert all(experiment in report for experiment in EXPERIMENTS)
    assert report.count("This sample has no screenshot.") == 1
    assert "No sample was skipped: all 29 samples of 6 users passed the checks." in report
    assert finished.json("data/user_13.manifest.json")["samples"] == 5
    assert not list(finished.results.glob("checkpoints/*/*/checkpoint-*")), "working checkpoints are removed"


def test_second_run_does_nothing(finished: Workplace) -> None:
    assert NOTHING in finished.run()


def test_everything_again_keeps_times_and_dates(finished: Workplace) -> None:
    """Nothing is trained or generated in the second run; what it cost is still in the report."""

    def shown() -> str:
        report = (finished.results / "report.html").read_text()
        # All of it but provenance, which names the comparison and the report of today.
        return report[: report.index('<section id="provenance"')]

    first, batches = shown(), {name: finished.predictions(name) for name in EXPERIMENTS}
    finished.run("--forceall")
    for name, before in batches.items():
        after = finished.predictions(name)
        assert (after["generated"], after["timed_answers"]) == (0, 10)
        assert after["answer_seconds"] == before["answer_seconds"] > 0
        assert after["answered"] == before["answered"]
    assert shown() == first
    copy, study = (load_study([path]) for path in (finished.results / "study.yaml", finished.study))
    assert copy.experiments == study.experiments
    assert copy.results == str(finished.results)


def test_trackers_make_nothing_stale_and_get_the_summary(finished: Workplace) -> None:
    with finished.study.open("a") as study:
        study.write("tracking:\n  trackers: [tensorboard]\n")
    assert NOTHING in finished.run()
    (finished.results / "report.html").unlink()
    assert "reported to tensorboard" in finished.run()
    events = (finished.results / "trackers/tensorboard/summary of tiny").rglob("events.*")
    assert sum(file.stat().st_size for file in events) > 1000


def test_planning_imports_nothing_heavy(finished: Workplace, tmp_path: Path) -> None:
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    for module in ("torch", "transformers", "matplotlib"):
        (blocked / f"{module}.py").write_text(f"raise ImportError('{module} was imported while planning')\n")
    finished.environment["PYTHONPATH"] = str(blocked)
    with_block = subprocess.run(
        [sys.executable, "-c", "import torch"], env={"PYTHONPATH": str(blocked)}, capture_output=True, text=True
    )
    assert "was imported while planning" in with_block.stderr, "the block works"
    assert NOTHING in finished.run("--dry-run")
    assert "report" in finished.run("--dry-run", "--forceall")


def test_report_of_snakemake(finished: Workplace) -> None:
    finished.run("--report", "report.zip")
    with zipfile.ZipFile(finished.folder / "report.zip") as report:
        files = {Path(name).name: report.read(name) for name in report.namelist() if "/data/raw/" in name}
        page = report.read("report/report.html").decode()
    paths = [finished.results / "report.html"]
    paths += [path for path in finished.results.glob("figures/*.svg") if not path.stem.endswith("_one_column")]
    paths += [path for path in finished.results.glob("tables/*.csv") if path.name != SAMPLES]
    assert files == {path.name: path.read_bytes() for path in paths}
    for text in (
        "Figures",
        "Tables",
        "Comparison",
        "A table of the comparison",
        "<em>loss curves</em>",
        DESCRIPTIONS[USERS],
    ):
        assert text in page


def test_one_experiment_is_a_target(workplace: Workplace) -> None:
    plan = workplace.run("vanilla", "--dry-run")
    assert "with vanilla" in plan
    assert "with lora" not in plan
    assert "Training" not in plan
    plan = workplace.run("lora", "--dry-run")
    assert "Training lora" in plan
    assert "Training full" not in plan
    assert "with vanilla" not in plan


def test_one_file_is_a_target(finished: Workplace) -> None:
    (finished.results / "scores/lora/user_1.csv").unlink()
    finished.options = LOCAL_PROFILE
    output = finished.run_in_terminal("results/scores/lora/user_1.csv")
    assert (finished.results / "scores/lora/user_1.csv").is_file()
    assert "1 job to run\r\n" in output
    # The job itself is not in it if it ends between two looks.
    assert "scores 0/1" in output, "the view"
    assert "Predicting" not in output
    assert "[?25l" not in output, "the cursor is never hidden"
    assert "answers parsed, click accuracy" not in output, "what jobs say is in their logs"
    without_colours = re.sub(r"\x1b\[[0-9;]*m", "", output)
    assert re.search(r"lora: click accuracy \(%\) \d+\.\d, the mean of 2 test users", without_colours)
    assert re.search(r"vanilla .*\r\nlora .*\r\nfull .*\r\n", without_colours)
    assert output.endswith("Report: results/report.html\r\n")


def test_users_from_the_command_line(finished: Workplace) -> None:
    weights = finished.weights()
    print(finished.run("lora", "--dry-run", "--config", "test_users=1"))
    output = finished.run("--config", "test_users=1")
    assert finished.json("predictions/lora/users_1.json")["users"] == ["1"]
    assert finished.json("predictions/lora/users_1.json")["generated"] == 0, "the store has them"
    assert "Scoring user 2" not in output
    assert finished.weights() == weights
    # A separate report, with its own copy of the study, next to that of all users.
    for folder, users, count in ((finished.results / "subsets/test_1", "1", "1"), (finished.results, "1-2", "2")):
        assert {row["users"] for row in _rows(folder / "tables/summary.csv")} == {count}
        assert yaml.safe_load((folder / "study.yaml").read_text())["users"]["test"] == users


def test_local_profile_is_found_at_the_root(workplace: Workplace) -> None:
    workplace.replace("root: data", f"root: {workplace.data}")
    workplace.replace("results: results", f"results: {workplace.results}")
    command = [sys.executable, "-m", "snakemake", "-n", "--profile", "local", "--configfile", str(workplace.study)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    assert "Training lora" in output


def test_no_training_starts_before_untrained_experiments_are_through(workplace: Workplace) -> None:
    """On a machine with room for all jobs at once. The model is a stand-in that fails after a while."""
    broken = workplace.folder / "broken"
    broken.mkdir()
    (broken / "torch.py").write_text("import time\ntime.sleep(2)\nraise ImportError('torch is broken')\n")
    workplace.environment["PYTHONPATH"] = str(broken)
    code, output = workplace.snakemake("--keep-going", cores=64)
    assert code != 0
    assert "torch is broken" in output
    ended = workplace.json("logs/predict/vanilla/users_1-2.progress.json")["ended"]
    checked = [workplace.json(f"logs/prepare/user_{user}.progress.json")["ended"] for user in (1, 2, 11, 12, 13, 74)]
    trainings = [workplace.json(f"logs/train/{name}.progress.json") for name in TRAINED]
    assert ended > max(checked)
    assert min(training["started"] for training in trainings) > ended
    together = max(training["started"] for training in trainings) < min(training["ended"] for training in trainings)
    assert together, "trainings do not wait for each other"


def test_unread_answers_are_shown_at_once(workplace: Workplace) -> None:
    workplace.replace("  max_new_tokens: 40", "  max_new_tokens: 3")
    output = workplace.run("vanilla")
    assert "warning: vanilla, user 1: only 0 of 5 answers could be read" in output
    assert output.count('  1-0000: "```') == 1


def _outcomes(results: Path) -> dict[str, bytes]:
    """Return what the comparison of the study consists of."""
    paths = [
        *results.glob("[!.]*.*"),
        *(path for name in ("tables", "figures", "audit") for path in results.glob(f"{name}/*")),
    ]
    return {path.relative_to(results).as_posix(): path.read_bytes() for path in paths if path.is_file()}


def test_other_test_users_have_a_report_of_their_own(finished: Workplace) -> None:
    before = _outcomes(finished.results)
    finished.options = ("--config", "test_users=1")
    finished.run()
    assert _outcomes(finished.results) == before
    subset = finished.results / "subsets/test_1"
    assert _outcomes(subset).keys() >= {"report.html", "study.yaml", "tables/summary.csv", "figures/loss_curves.svg"}
    assert {row["samples"] for row in _rows(subset / "tables/summary.csv")} == {"5"}
    # Neither report is unreferenced for the other, nor are the files that only one of them uses.
    for settings in ((), finished.options):
        code, said = finished.usertune("audit", "--study", "study.yaml", *settings)
        assert (code, said.count("\n")) == (0, 1), said
    assert NOTHING in finished.run("report")
    finished.options = ()
    assert "Training" not in finished.run()


def test_results_of_another_study_are_refused_when_planning(finished: Workplace) -> None:
    finished.replace("name: tiny", "name: other")
    code, output = finished.snakemake("--dry-run")
    assert code != 0
    assert "results belongs to the study 'tiny'" in output
    (finished.results / "study.json").unlink()
    assert "report" in finished.run("--dry-run")
    # It works elsewhere too, from any directory.
    finished.replace("results: results", "results: other")
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--snakefile", str(REPOSITORY / "Snakefile")]
    command += ["--cores", "1", "--configfile", str(finished.study)]
    done = subprocess.run(command, cwd=finished.folder.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "results in study/other" in done.stdout

"""The table of docs/staleness.md, row by row: what a change makes again, and that nothing else is done."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from tests.support.work import NOTHING, Work, audit, run
from tests.support.workplace import EXPERIMENTS, FIGURES, LOCAL_PROFILE, REPOSITORY, TRAINED, Workplace
from usertune.demo.dataset import Counts, make_dataset

pytestmark = pytest.mark.workflow

USERS = ("1", "2")
COUNTS = Counts(train=5, validation=4, test=5)
ALL_DRAWN = FIGURES


def _everywhere(*experiments: str, users: tuple[str, ...] = USERS) -> set[tuple[str, str]]:
    return {(name, user) for name in experiments for user in users}


def _all_answers(*experiments: str, users: tuple[str, ...] = USERS) -> dict[tuple[str, str], int]:
    return dict.fromkeys(_everywhere(*experiments, users=users), COUNTS.test)


def _add_user(workplace: Workplace, user: int) -> None:
    make_dataset(workplace.folder / "more", [user], 0, COUNTS)
    shutil.copytree(workplace.folder / "more", workplace.data, dirs_exist_ok=True)


@pytest.fixture
def own_code(finished: Workplace) -> Workplace:
    """The finished study with a copy of the workflow's code to edit."""
    copy = finished.folder / "code"
    for part in ("rules", "scripts", "src", "envs"):
        shutil.copytree(REPOSITORY / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
    for part in ("Snakefile", "config.yaml"):
        shutil.copy(REPOSITORY / part, copy / part)
    finished.repository = copy
    return finished


def _edit(workplace: Workplace, module: str, old: str, new: str) -> None:
    path = workplace.repository / "src/usertune" / module
    text = path.read_text()
    assert text.count(old) == 1, f"{old!r} is {text.count(old)} times in {module}"
    path.write_text(text.replace(old, new))


# No work at all


def test_nothing_changed(finished: Workplace, tmp_path: Path) -> None:
    assert NOTHING in finished.run()
    # From another directory, where Snakemake has no records of it.
    command = [
        "-m",
        "snakemake",
        *LOCAL_PROFILE,
        "--snakefile",
        REPOSITORY / "Snakefile",
        "--configfile",
        finished.study,
    ]
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=tmp_path,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert NOTHING in done.stdout + done.stderr


def test_settings_that_change_no_result(finished: Workplace) -> None:
    for old, new in {
        "    mode: full": "    mode: full\n    gpus: 2\n    nodes: 2\n    parallel: ddp",
        "  micro_batch_size: 4": "  micro_batch_size: 1",
        "  gradient_checkpointing: false": "  gradient_checkpointing: true",
        "  dataloader_num_workers: 0": "  dataloader_num_workers: 2",
        "  save_every_steps: 2": "  save_every_steps: 3",
        "  batch_size: 10": "  batch_size: 5\n  expected_parse_rate: 0.9",
        "  root: data": "  root: data\n  users_per_job: 2",
        "name: tiny": "name: tiny\ncontainer: jobs.sif",
    }.items():
        finished.replace(old, new)
    # On a cluster, since this machine has not so many GPUs.
    assert NOTHING in finished.run("--dry-run", "--executor", "slurm", "--jobs", "2")


def test_users_in_other_groups_need_no_gpu_job(finished: Workplace) -> None:
    finished.replace("  users_per_job: 2", "  users_per_job: 1")
    plan = finished.run("--dry-run", "--executor", "slurm", "--jobs", "2")
    started = set(re.findall(r"^(\w+)(?: \w+)?(?: users \S+)? +\d+$", plan, re.MULTILINE))
    assert started == {"predict_from_store", "score", "compare", "figure", "audit", "report", "all", "total"}
    work = run(finished)
    assert (work.trained, work.generated, work.scored) == (set(), {}, set())


def test_another_copy_of_the_same_code(own_code: Workplace) -> None:
    assert NOTHING in own_code.run()


def test_every_file_touched(finished: Workplace) -> None:
    for path in [*finished.data.rglob("*"), *finished.results.rglob("*")]:
        os.utime(path)
    work = run(finished)
    assert (work.trained, work.generated, work.scored) == (set(), {}, set())


def test_dataset_and_base_model_copied_elsewhere_and_then_other_weights_under_the_same_path(
    finished: Workplace,
) -> None:
    """A copy makes nothing again; another base model, even with an older time, everything."""
    shutil.copytree(finished.data, finished.folder / "elsewhere", copy_function=shutil.copyfile)
    finished.replace("  root: data", "  root: elsewhere")
    shutil.copytree(REPOSITORY / "demo/base", finished.folder / "base", copy_function=shutil.copyfile)
    finished.replace(f"  path: {REPOSITORY}/demo/base", "  path: base")
    work = run(finished)
    assert (work.trained, work.generated, work.scored) == (set(), {}, set())
    weights_file = finished.folder / "base/model.safetensors"
    was = weights_file.stat()
    weights = load_file(weights_file)
    name = next(name for name in weights if name.endswith("lm_head.weight") or "embed_tokens" in name)
    weights[name] = weights[name] + np.float32(0.01)
    save_file(weights, weights_file, {"format": "pt"})
    # An older time, as a copy that keeps times has.
    os.utime(weights_file, ns=(was.st_atime_ns, was.st_mtime_ns - 10**12))
    work = run(finished, "compare")
    assert (work.trained, work.generated) == (set(TRAINED), _all_answers(*EXPERIMENTS))


def test_comment_in_a_scoring_module(own_code: Workplace) -> None:
    _edit(own_code, "evaluation/score.py", "def summarise(", "# A comment.\ndef summarise(")
    assert NOTHING in own_code.run()


def test_colour_of_one_figure(finished: Workplace) -> None:
    finished.replace("  figures: {", '  figures: {loss_curves: {colours: {lora: "#123456"}}, ')
    assert run(finished) == Work(drawn={"loss_curves"})


def test_code_of_one_figure(own_code: Workplace) -> None:
    _edit(own_code, "reporting/figures/loss_curves.py", '"optimizer step"', '"step of the optimizer"')
    assert run(own_code) == Work(drawn={"loss_curves"})


# One user only


def test_one_sample_edited_and_for_another_user_an_image_replaced_under_the_same_name_and_size(
    finished: Workplace,
) -> None:
    path = finished.data / "user_1.jsonl"
    lines = path.read_text().splitlines()
    sample = json.loads(lines[2])
    sample["messages"][0]["content"][1]["text"] += " please"
    lines[2] = json.dumps(sample)
    path.write_text("".join(line + "\n" for line in lines))

    # The first sample of user 2 has no image.
    samples = [json.loads(line) for line in (finished.data / "user_2.jsonl").read_text().splitlines()[1:]]
    name = samples[0]["messages"][0]["content"][0]["image"]
    path = finished.data / name
    size = path.stat().st_size
    with Image.open(path) as image:
        Image.new("RGB", image.size, "teal").save(path)
    # What follows the end of a PNG is not read.
    path.write_bytes(path.read_bytes().ljust(size, b"\0"))
    assert path.stat().st_size == size
    shown = sum(sample["messages"][0]["content"][0]["image"] == name for sample in samples)

    names = ("prepare/users_1-2", "prepare/user_1", "prepare/user_2", "prepare/users_11-13", "train/lora")
    logs = {name: finished.results / f"logs/{name}.log" for name in names}
    before = {name: log.stat().st_mtime_ns for name, log in logs.items()}
    work = run(finished)
    # Jobs that need other users alone are not even started.
    started = [name for name, log in logs.items() if log.stat().st_mtime_ns != before[name]]
    assert started == ["prepare/users_1-2", "prepare/user_1", "prepare/user_2"]
    assert work.trained == set()
    assert work.generated == {(name, user): count for name in EXPERIMENTS for user, count in (("1", 1), ("2", shown))}
    assert _everywhere(*EXPERIMENTS, users=("1",)) <= work.scored <= _everywhere(*EXPERIMENTS)
    assert (work.drawn, work.compared, work.splits_compared) == (ALL_DRAWN, True, True)


def test_test_user_added(finished: Workplace) -> None:
    _add_user(finished, 3)
    finished.replace("  test: 1-2", "  test: 1-3")
    assert run(finished) == Work(
        generated=_all_answers(*EXPERIMENTS, users=("3",)),
        scored=_everywhere(*EXPERIMENTS, users=("3",)),
        drawn=ALL_DRAWN,
        compared=True,
        splits_compared=True,
    )


def test_test_user_removed(finished: Workplace) -> None:
    finished.replace("  test: 1-2", "  test: 1")
    assert run(finished) == Work(drawn=ALL_DRAWN, compared=True, splits_compared=True)
    assert "user_2.json" in audit(finished), "what is left over is named"


# One experiment only


def test_learning_rate_of_lora_and_longest_answer_of_vanilla(finished: Workplace) -> None:
    """What is done for each of them is all that is done for it, and nothing is done for a third experiment."""
    finished.replace("learning_rate: 4e-3", "learning_rate: 5e-3")
    finished.replace("    mode: vanilla", "    mode: vanilla\n    max_new_tokens: 3")
    assert run(finished) == Work(
        trained={"lora"},
        generated=_all_answers("lora", "vanilla"),
        scored=_everywhere("lora", "vanilla"),
        drawn=ALL_DRAWN,
        compared=True,
    )


def test_experiment_added(finished: Workplace) -> None:
    finished.replace("  full:\n    mode: full", "  full:\n    mode: full\n  second:\n    mode: lora")
    work = run(finished)
    assert (work.trained, work.generated) == ({"second"}, _all_answers("second"))
    assert work.scored == _everywhere("second")


def _write_answers(workplace: Workplace, user: str, off: int) -> Path:
    """Write answers of another program: the right points, moved to the right."""
    lines = []
    for line in (workplace.results / f"data/user_{user}.jsonl").read_text().splitlines():
        sample = json.loads(line)
        x, y = sample["target"]["point"]
        lines.append(json.dumps({"id": sample["id"], "response": f"```grounding\n[{x + off}, {y}]\n```"}))
    path = workplace.folder / f"given/{user}.jsonl"
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


def test_answers_from_elsewhere_added_touched_and_replaced(finished: Workplace) -> None:
    for user in USERS:
        _write_answers(finished, user, 0)
    answers = "  theirs:\n    mode: lora\n    answers: given/{user}.jsonl"
    finished.replace("  full:\n    mode: full", f"  full:\n    mode: full\n{answers}")
    assert run(finished) == Work(scored=_everywhere("theirs"), drawn=ALL_DRAWN, compared=True)
    metrics = [json.loads((finished.results / f"scores/theirs/user_{user}.json").read_text()) for user in USERS]
    assert [own["click_accuracy"] for own in metrics] == [1, 1]
    for user in USERS:
        os.utime(finished.folder / f"given/{user}.jsonl")
    work = run(finished)
    assert (work.trained, work.generated, work.scored) == (set(), {}, set())
    before = (finished.folder / "given/1.jsonl").stat()
    os.utime(_write_answers(finished, "1", 1), ns=(before.st_atime_ns, before.st_mtime_ns - 10**12))
    assert run(finished) == Work(scored={("theirs", "1")}, drawn=ALL_DRAWN, compared=True)


def test_weights_from_elsewhere_added_touched_and_replaced(finished: Workplace) -> None:
    """What another trainer wrote: here the study's own adapter and model, under another folder."""
    for name in TRAINED:
        (weights,) = finished.results.glob(f"checkpoints/{name}/*/weights")
        shutil.copytree(weights, finished.folder / f"theirs/{name}")
    adapter = finished.folder / "theirs/lora/adapter_model.safetensors"
    theirs = "  adapter: {mode: lora, weights: theirs/lora}\n  model: {mode: full, weights: theirs/full}"
    finished.replace("  full:\n    mode: full", f"  full:\n    mode: full\n{theirs}")
    work = run(finished)
    # Their digest is not that of the training, which covers the processor too.
    assert (work.trained, work.generated) == (set(), _all_answers("adapter", "model"))
    assert not work.scored - _everywhere("adapter", "model")
    for name, own in (("adapter", "lora"), ("model", "full")):
        answers = [
            json.loads(next(finished.results.glob(f"predictions/{each}/*.json")).read_text()) for each in (name, own)
        ]
        assert answers[0]["predictions"] == answers[1]["predictions"]
    assert "weights from elsewhere (theirs/lora)" in (finished.results / "report.html").read_text()
    for path in (finished.folder / "theirs").rglob("*"):
        os.utime(path)
    work = run(finished)
    assert (work.trained, work.generated, work.scored) == (set(), {}, set())
    before = adapter.stat()
    save_file({name: value / 4 for name, value in load_file(adapter).items()}, adapter, {"format": "pt"})
    os.utime(adapter, ns=(before.st_atime_ns, before.st_mtime_ns - 10**12))
    work = run(finished)
    assert (work.trained, work.generated, work.compared) == (set(), _all_answers("adapter"), True)
    # A user whose answers stay the same has the same score.
    assert work.scored
    assert work.scored <= _everywhere("adapter")


def test_weights_of_an_earlier_step_are_kept_and_predicted(finished: Workplace) -> None:
    """Adding a step trains again, and finds the answers of the same weights; removing one starts nothing."""
    lora = "    training:\n      learning_rate: 4e-3"
    early = "  early: {mode: lora, checkpoint: {of: lora, step: 2}}"
    finished.replace(lora, f"{lora}\n      keep_checkpoints: [1, 2]")
    finished.replace("  full:\n    mode: full", f"  full:\n    mode: full\n{early}")
    plan = finished.run("--dry-run")
    assert "the weights of steps 1, 2 were not kept" in plan
    assert "trains again from the beginning, to keep the weights of 2 more steps" in plan
    work = run(finished)
    assert (work.trained, work.generated) == ({"lora"}, _all_answers("early"))
    assert not work.scored - _everywhere("early")
    finished.replace("keep_checkpoints: [1, 2]", "keep_checkpoints: [2]")
    assert NOTHING in finished.run()


# All downstream


def test_train_user_added(finished: Workplace) -> None:
    _add_user(finished, 14)
    finished.replace("  train: 11-13", "  train: 11-14")
    work = run(finished, "compare")
    assert (work.trained, work.generated) == (set(TRAINED), _all_answers(*TRAINED))
    assert work.scored == _everywhere(*TRAINED)


def test_prompt_changed(finished: Workplace) -> None:
    finished.replace("  task: grounding", '  task: grounding\n  prompt: {user: "{text} Answer with a point."}')
    work = run(finished, "compare")
    assert (work.trained, work.generated) == (set(TRAINED), _all_answers(*EXPERIMENTS))
    assert work.scored == _everywhere(*EXPERIMENTS)


# CPU steps only


def test_threshold(finished: Workplace) -> None:
    finished.replace("  batch_size: 10", "  batch_size: 10\n  thresholds: [140, 70]")
    assert run(finished) == Work(scored=_everywhere(*EXPERIMENTS), drawn=ALL_DRAWN, compared=True)


def test_scoring_code(own_code: Workplace) -> None:
    _edit(own_code, "evaluation/score.py", "writer.writerows(rows)", "writer.writerows(list(rows))")
    assert run(own_code) == Work(scored=_everywhere(*EXPERIMENTS), drawn=ALL_DRAWN, compared=True)


def test_code_of_the_comparison_of_the_splits(own_code: Workplace) -> None:
    def reported() -> set[tuple[str, int]]:
        paths = [*own_code.results.glob("audit/*.json"), own_code.results / "report.html"]
        return {(path.name, path.stat().st_mtime_ns) for path in paths}

    before = reported()
    _edit(own_code, "data/leakage.py", "def overlaps(", "OTHER_CODE = 1\n\n\ndef overlaps(")
    assert run(own_code) == Work(splits_compared=True)
    assert len(reported()) == len(before) == 2
    assert not reported() & before


# Recorded and flagged, not rerun


def _upgrade_package(workplace: Workplace) -> None:
    installed = workplace.folder / "packages/peft-99.0.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: peft\nVersion: 99.0\n")
    workplace.environment["PYTHONPATH"] = str(installed.parent)


def _edit_training(workplace: Workplace) -> None:
    _edit(workplace, "training/finetune.py", "def _loss_table(", "OTHER_CODE = 1\n\n\ndef _loss_table(")


@pytest.mark.parametrize(
    ("change", "said"), [(_edit_training, "training of lora: code"), (_upgrade_package, "peft 0.21.2 -&gt; 99.0")]
)
def test_code_of_training_and_packages(own_code: Workplace, change: Callable[[Workplace], None], said: str) -> None:
    assert "Made with other code" not in (own_code.results / "report.html").read_text()
    change(own_code)
    assert run(own_code) == Work()
    report = (own_code.results / "report.html").read_text()
    assert "Made with other code or packages than the current ones." in report
    assert said in report
    with own_code.study.open("a") as study:
        study.write("rerun: {on_code_change: true}\n")
    work = run(own_code)
    assert work.trained == set(TRAINED)
    if change is _upgrade_package:
        assert work.generated == _all_answers(*EXPERIMENTS)
    assert "Made with other code" not in (own_code.results / "report.html").read_text()


def test_code_that_did_not_change_makes_nothing_again(finished: Workplace) -> None:
    with finished.study.open("a") as study:
        study.write("rerun: {on_code_change: true}\n")
    work = run(finished)
    assert (work.trained, work.generated, work.scored) == (set(), {}, set())


# Why


def test_dry_run_says_why_and_at_what_cost(finished: Workplace) -> None:
    finished.replace("learning_rate: 4e-3", "learning_rate: 5e-3")
    plan = finished.run("--dry-run")
    assert "training of lora: training.learning_rate: 0.004 -> 0.005" in plan
    assert "1 training job (GPU)" in plan
    assert "training of full" not in plan
    code, said = finished.usertune("explain", "results/scores/vanilla/user_1.csv", "--study", "study.yaml")
    assert (code, said.strip()) == (0, "scores of user 1 with vanilla: up to date, nothing would run.")
    code, said = finished.usertune("explain", "results/nowhere.csv", "--study", "study.yaml")
    assert code != 0
    assert "no such result" in said

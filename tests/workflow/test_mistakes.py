"""Mistakes in the study or the data: each is reported before a job is started in vain."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.support.fingertip_tree import write_users
from tests.support.forked_snakemake import run_each
from tests.support.workplace import SNAKEMAKE, STUDY, Workplace, refused

pytestmark = pytest.mark.workflow


# Old and new text of the study, and what is said of it next to the line.
TYPOS: list[tuple[str, str, list[str]]] = [
    ("report:\n", "reprot:\n", ["reprot", "unknown key", "did you mean 'report'"]),
    ("  format: messages", "  fromat: messages", ["dataset.fromat", "did you mean 'format'"]),
    ("  task: grounding", "  task: groundnig", ["dataset.task", "'groundnig' is not allowed", "'grounding'"]),
    ("  validation: 74", "  validaton: 74", ["users.validaton", "did you mean 'validation'"]),
    ("  train: 11-13", "  train: 13-11", ["users.train", "counts backwards", "11-13"]),
    ("  dtype: float32", "  dtpye: float32", ["base_model.dtpye", "did you mean 'dtype'"]),
    ("  dtype: float32", "  dtype: float16", ["base_model.dtype", "'float16'", "'bfloat16' or 'float32'"]),
    ("    mode: full", "    mdoe: full", ["experiments.full.mdoe", "did you mean 'mode'"]),
    ("    mode: lora", "    mode: lroa", ["experiments.lora.mode", "'lroa'", "'vanilla', 'lora', 'full' or 'prior'"]),
    (
        "      learning_rate: 4e-3",
        "      learning_rat: 4e-3",
        ["experiments.lora.training.learning_rat", "did you mean 'learning_rate'"],
    ),
    ("  warmup_steps: 1", "  warmup_stesp: 1", ["training.warmup_stesp", "did you mean 'warmup_steps'"]),
    ("  epochs: 1", "  epochs: -1", ["training.epochs", "-1 is not allowed", "greater than 0"]),
    ("    rank: 2", "    rnak: 2", ["training.lora.rnak", "did you mean 'rank'"]),
    ("  users_per_job: 2", "  user_per_job: 2", ["evaluation.user_per_job", "did you mean 'users_per_job'"]),
    ("  samples: all", "  smaples: all", ["report.smaples", "did you mean 'samples'"]),
]
# Here the lines are not those of the change.
NOT_THERE: list[tuple[str, str, list[str]]] = [
    ("  root: data", "  root: dtaa", ["dataset.root", "dtaa does not exist"]),
    ("  test: 1-2", "  test: 1-3", ["users.test", "user 3", "found 6 users there: 1-2,11-13,74"]),
    ("/demo/base", "/demo/bsae", ["base_model.path", "/demo/bsae is not a folder"]),
    ("  test: 1-2", "  test: 010", ["study.yaml:11: users.test: '010'", "leading zeros"]),
    ("  test: 1-2", "\ttest: 1-2", ["study.yaml:11: not valid YAML", "indent with spaces"]),
    ("  test: 1-2", "  test: [1, 2", ["study.yaml:12: not valid YAML", "started in line 11"]),
    ("  test: 1-2", "  test: 1-2,11", ["user 11 is in both train and test", "splits must not overlap"]),
    ("  samples: all", "  samples: all\n  samples: none", ["report.samples was already set in line"]),
    ("  lora:\n    mode: lora", "  train:\n    mode: lora", ["'train' is the name of a workflow step"]),
]


def test_mistakes_in_the_study_are_refused_with_file_and_line(workplace: Workplace) -> None:
    variants = workplace.variants(len(TYPOS) + len(NOT_THERE))
    expected = []
    for variant, (old, new, said) in zip(variants, [*TYPOS, *NOT_THERE], strict=True):
        line = variant.replace(old, new)
        expected.append([*said, f"study.yaml:{line}: "] if len(expected) < len(TYPOS) else said)
    for output, said in zip(refused(variants), expected, strict=True):
        for text in said:
            assert text in output


def test_users_of_the_command_line_are_read_as_text(workplace: Workplace) -> None:
    # Snakemake itself makes the number 10 of it.
    code, output = workplace.snakemake("-n", "--config", "test_users=010")
    assert code != 0
    assert "'010': write user numbers without leading zeros" in output
    code, output = workplace.snakemake("-n", "--config", "test_users=1_2")
    assert "no raw data in data for user 1_2" in output


def _second_image(workplace: Workplace) -> str:
    sample = json.loads((workplace.data / "user_1.jsonl").read_text().splitlines()[-1])
    image: str = sample["messages"][0]["content"][0]["image"]
    return image


@pytest.mark.parametrize("how", ["missing", "truncated"])
def test_bad_image_stops_before_any_gpu_job(workplace: Workplace, how: str) -> None:
    image = workplace.data / _second_image(workplace)
    if how == "missing":
        image.unlink()
    else:
        image.write_bytes(image.read_bytes()[:200])
    code, output = workplace.snakemake()
    assert code != 0
    assert "user_1.jsonl:5: image:" in output
    assert image.name in output
    assert "on_bad_sample: skip" in output
    assert "Training" not in output
    assert "Predicting" not in output
    assert not (workplace.results / "predictions").exists()
    assert not (workplace.results / "data/user_1.manifest.json").exists()


@pytest.mark.parametrize("options", [(), ("--keep-going",)], ids=["stop", "keep going"])
def test_one_run_reports_all_bad_users_and_check_needs_no_base_model(
    workplace: Workplace, options: tuple[str, ...]
) -> None:
    workplace.replace("/demo/base", "/demo/bsae")
    for user in (1, 12, 74):
        with (workplace.data / f"user_{user}.jsonl").open("a") as raw:
            raw.write('{"messages": []}\n')
    output = workplace.run("check", "-n")
    assert "prepare" in output
    assert "train" not in output.replace("train:", "")
    code, output = workplace.snakemake("check", *options, cores=1)
    assert code != 0
    assert "Traceback" not in output
    summary = output[output.index("users did not pass the checks") :]
    for user in (1, 12, 74):
        assert f"user {user}:\n  data/user_{user}.jsonl:" in summary
        assert not (workplace.results / f"data/user_{user}.manifest.json").exists()
    assert "Training" not in output
    assert not (workplace.results / "base_model").exists()
    for user in (1, 12, 74):
        raw = workplace.data / f"user_{user}.jsonl"
        raw.write_text("".join(raw.read_text().splitlines(keepends=True)[:-1]))
    output = workplace.run("check")
    assert sorted(path.name for path in workplace.results.glob("data/*.manifest.json")) == sorted(
        f"user_{user}.manifest.json" for user in (1, 2, 11, 12, 13, 74)
    )
    assert sorted(path.name for path in workplace.results.iterdir() if path.is_dir()) == ["data", "logs", "store"]
    assert [path.name for path in (workplace.results / "store").iterdir()] == ["image_hashes"]


def test_bad_samples_can_be_skipped(workplace: Workplace) -> None:
    image = _second_image(workplace)
    (workplace.data / image).unlink()
    lines = (workplace.data / "user_1.jsonl").read_text().splitlines()
    bad = sum(json.dumps(image) in line for line in lines)
    workplace.replace("on_bad_sample: error", "on_bad_sample: skip")
    output = workplace.run("results/data/user_1.manifest.json")
    manifest = workplace.json("data/user_1.manifest.json")
    assert manifest["skipped"] == bad > 0
    assert manifest["samples"] == 5 - bad
    assert manifest["skipped_samples"][-1]["line"] == 5
    assert manifest["skipped_samples"][-1]["field"] == "image"
    assert "skipped: image" in output


def test_data_that_turn_out_unusable_after_the_list_of_users_are_reported_without_a_traceback(tmp_path: Path) -> None:
    workplace = Workplace(tmp_path)
    write_users(workplace.data, (1, 2, 11, 12, 13, 74))
    workplace.study.write_text(STUDY)
    workplace.replace("  format: messages", "  format: fingertip")
    workplace.replace("  warmup_steps: 1", "  warmup_steps: 0")
    user = workplace.data / "1"
    (good,) = user.iterdir()
    # Users are found by their first episode in the order of the file system; the check of the other names comes later.
    for number in range(100):
        bad = user / f"bad\n{number}"
        shutil.copytree(good, bad)
        with os.scandir(user) as entries:
            if next(entries).name == good.name:
                break
        shutil.rmtree(bad)
    else:
        pytest.fail("no name comes after the good one")
    message = f"data: the folder '1/bad\\n{number}' holds a line break"
    runs = [workplace.command(*arguments)[len(SNAKEMAKE) :] for arguments in (["-n"], ["check"])]
    (planned, refused), (checked, failed) = run_each(runs, workplace.folder, workplace.run_environment)
    assert (planned, refused.count(message), checked) == (1, 1, 1)
    assert message in failed
    assert "Traceback" not in refused + failed
    assert not any(text in refused for text in ("Exception", ".smk"))
    assert not (workplace.results / "data/user_1.manifest.json").exists()

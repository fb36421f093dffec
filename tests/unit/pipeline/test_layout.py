"""Which results a study has, and that each is refused once anything about it is wrong."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from tests.support.synthetic_study import SyntheticStudy
from usertune.core.manifest import read_result, write_result
from usertune.pipeline import steps
from usertune.pipeline.layout import Finding, Result, audit_path, needed_for, read_checked, results_of
from usertune.pipeline.step import Input, Item
from usertune.pipeline.steps import OF_COSTS
from usertune.study.schema.report import FIGURE_NAMES
from usertune.study.schema.study import Study

HERE = Path()


def finding(study: SyntheticStudy, path: str) -> Finding | None:
    """Return what is wrong with one result."""
    return read_checked(HERE, study.results[path])[1]


def files_of(result: Result) -> list[str]:
    """Return every file of a result except its manifest, weights included."""
    if result.step != "train":
        return list(result.files)
    folder = Path(result.manifest).parent / read_result(result.manifest)["weights_folder"]
    return [*result.files, *(path.as_posix() for path in sorted(folder.iterdir()))]


def test_every_result_of_a_study_is_there_and_complete(complete: SyntheticStudy) -> None:
    steps = [result.step for result in complete.results.values()]
    expected = {"prepare": 7, "leakage": 1, "base_model": 1, "train": 2, "predict": 6, "score": 12, "compare": 1}
    expected |= {"figure": len({*FIGURE_NAMES} - {*OF_COSTS}), "audit": 1, "report": 1}
    assert {step: steps.count(step) for step in steps} == expected
    for path, result in complete.results.items():
        manifest, problem = read_checked(HERE, result)
        assert problem is None
        assert manifest == read_result(path)
        assert manifest["step"] == result.step
        assert manifest["recipe"] == result.recipe
        assert manifest["fingerprint"]
        for file in result.files:
            assert Path(file).name in manifest["files"]


def test_every_result_comes_after_what_it_is_made_from(complete: SyntheticStudy) -> None:
    seen: set[str] = set()
    for path, result in complete.results.items():
        assert set(result.upstream) <= seen
        seen.add(path)


def test_what_a_result_needs(complete: SyntheticStudy) -> None:
    assert needed_for(complete.results, "data/user_1.manifest.json") == ["data/user_1.manifest.json"]
    vanilla = needed_for(complete.results, "scores/vanilla/user_1.json")
    assert vanilla == [
        *("data/user_1.manifest.json", "data/user_2.manifest.json", steps.BASE_MODEL.manifest),
        *("predictions/vanilla/users_1-2.json", "scores/vanilla/user_1.json"),
    ]
    lora = needed_for(complete.results, "scores/lora/user_1.json")
    assert "checkpoints/lora/manifest.json" in lora
    assert {f"data/user_{user}.manifest.json" for user in ("t1", "t2", "v1")} <= set(lora)
    assert needed_for(complete.results, steps.REPORT.manifest) == list(complete.results)
    assert set(complete.results) - set(needed_for(complete.results, steps.COMPARE.manifest)) == {
        *(path for path in complete.results if path.startswith("figures/")),
        *(steps.LEAKAGE.manifest, audit_path(complete.recipes), steps.REPORT.manifest),
    }


def test_a_step_uses_results_of_other_experiments_and_users(
    complete: SyntheticStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def swapped(_study: Study, item: Item) -> Iterator[Item]:
        if item.experiment == "vanilla":
            yield Item("lora")
            yield Item("full_tuned")

    others = replace(
        steps.PREDICT,
        inputs=(
            Input("weights", "train"),
            Input("weights", "train", of=swapped),
            Input("samples", "prepare", of=lambda *_: [Item(users=("2",)), Item(users=("1", "2"))]),
            Input("everyone", "prepare", of=lambda *_: [Item()]),
        ),
    )
    monkeypatch.setattr(steps, "STEPS", {**steps.STEPS, "predict": others})
    results = results_of(complete.study, complete.recipes)
    vanilla = results["predictions/vanilla/users_1-2.json"].inputs
    assert vanilla["weights"] == ("checkpoints/lora/manifest.json", "checkpoints/full_tuned/manifest.json")
    assert vanilla["samples"] == ("data/user_2.manifest.json", "data/user_1.manifest.json")
    assert len(vanilla["everyone"]) == len(complete.study.all_users)
    assert results["predictions/lora/users_1-2.json"].inputs["weights"] == ("checkpoints/lora/manifest.json",)


def test_with_other_settings_the_audit_lies_elsewhere(complete: SyntheticStudy) -> None:
    changed = SyntheticStudy(HERE, changes={"evaluation": {"thresholds": [141]}})
    assert audit_path(changed.recipes) != audit_path(complete.recipes)


def test_a_missing_manifest_or_file_is_named(complete: SyntheticStudy) -> None:
    for path, result in complete.results.items():
        for file in [path, *files_of(result)]:
            aside = Path(file).rename("aside")
            problem = finding(complete, path)
            assert problem is not None
            assert (problem.kind, problem.path) == ("missing", file)
            aside.rename(file)
        assert finding(complete, path) is None


def _flip(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


DAMAGES: list[Callable[[bytes], bytes]] = [
    _flip,
    lambda content: content[: len(content) // 2],
    lambda content: content[:-1],
    lambda content: content + b"\n",
    lambda _: b"",
]


@pytest.mark.parametrize("damage", DAMAGES, ids=["flipped", "half", "all but a byte", "longer", "empty"])
def test_a_damaged_manifest_or_file_is_named(complete: SyntheticStudy, damage: Callable[[bytes], bytes]) -> None:
    for path, result in complete.results.items():
        for file in [path, *files_of(result)]:
            damaged = Path(file)
            content, times = damaged.read_bytes(), damaged.stat()
            damaged.write_bytes(damage(content))
            problem = finding(complete, path)
            assert problem is not None, file
            assert (problem.kind, problem.path) == ("modified", file)
            assert problem.reason
            damaged.write_bytes(content)
            os.utime(damaged, ns=(times.st_atime_ns, times.st_mtime_ns))
        assert finding(complete, path) is None


def _mismatched(complete: SyntheticStudy) -> Iterator[tuple[str, str]]:
    """Yield pairs of results: of the same step, and of the next one in the list."""
    paths = list(complete.results)
    for path, result in complete.results.items():
        for other, other_result in complete.results.items():
            if other != path and other_result.step == result.step:
                yield path, other
    yield from pairwise(paths)


def test_a_result_that_belongs_elsewhere_is_mismatched(complete: SyntheticStudy) -> None:
    """Whole results are copied over others, with their files."""
    for path, other in _mismatched(complete):
        result, mismatched = complete.results[path], complete.results[other]
        before = {file: Path(file).read_bytes() for file in (path, *result.files)}
        shutil.copy2(other, path)
        for ours, theirs in zip(result.files, mismatched.files, strict=False):
            shutil.copy2(theirs, ours)
        problem = finding(complete, path)
        assert problem is not None, (path, other)
        assert (problem.kind, problem.path) == ("mismatched", path)
        for file, content in before.items():
            Path(file).write_bytes(content)
    assert all(finding(complete, path) is None for path in complete.results)


def test_a_file_of_another_result_is_no_substitute(complete: SyntheticStudy) -> None:
    shutil.copy2("scores/lora/user_2.csv", "scores/lora/user_1.csv")
    assert finding(complete, "scores/lora/user_1.json") == Finding(
        "modified", "scores/lora/user_1.csv", "the file was edited or cut short after it was written"
    )
    shutil.copy2("data/user_t1.jsonl", "data/user_1.jsonl")
    problem = finding(complete, "data/user_1.manifest.json")
    assert problem is not None
    assert (problem.kind, problem.path) == ("modified", "data/user_1.jsonl")


@pytest.mark.parametrize("lacking", ["files", "weights_files", "weights_folder", "weights_state"])
def test_a_checksummed_result_that_lacks_a_key_is_refused(complete: SyntheticStudy, lacking: str) -> None:
    path = "checkpoints/lora/manifest.json"
    manifest = read_result(path)
    weights = Path(path).parent / manifest["weights_folder"] / "weights.safetensors"
    os.utime(weights)
    write_result(path, {key: value for key, value in manifest.items() if key != lacking})
    problem = finding(complete, path)
    assert problem is not None
    assert (problem.kind, problem.path) == ("mismatched", path)
    assert lacking in problem.reason


def test_weights_that_were_only_touched_or_copied_stay_fresh(complete: SyntheticStudy) -> None:
    path = "checkpoints/lora/manifest.json"
    folder = Path(path).parent / read_result(path)["weights_folder"]
    for file in folder.iterdir():
        os.utime(file, (1, 1))
    assert finding(complete, path) is None
    shutil.copytree(folder, "aside")
    shutil.rmtree(folder)
    shutil.copytree("aside", folder, copy_function=shutil.copyfile)
    assert finding(complete, path) is None

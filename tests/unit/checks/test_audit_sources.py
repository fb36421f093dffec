"""The audit of a complete study after its raw data, its images or its base model changed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests.support.auditing import LORA, audit, found, paths_of, reasons, touch, with_changes
from tests.support.synthetic_study import SyntheticStudy
from usertune.pipeline import steps


def _edit_raw(user: str) -> None:
    path = Path("dataset", f"user_{user}.jsonl")
    path.write_text(path.read_text().replace("Tap", "Press", 1))


def test_modified_raw_samples_are_found(complete: SyntheticStudy) -> None:
    _edit_raw("1")
    assert found(complete) == [("stale", "data/user_1.manifest.json")]
    assert reasons(complete) == ["the raw data dataset/user_1.jsonl changed"]


def test_what_was_made_from_something_else_is_found_step_by_step(complete: SyntheticStudy) -> None:
    _edit_raw("1")
    complete.make("data/user_1.manifest.json")
    predictions = {f"predictions/{name}/users_1-2.json" for name in complete.experiments}
    scores = {f"scores/{name}/user_1.json" for name in complete.experiments}
    leakage = steps.LEAKAGE.manifest
    assert set(found(complete)) == {("stale", path) for path in {*predictions, *scores, leakage}}
    assert "made from other versions of" in reasons(complete)[0]
    for path in predictions:
        complete.make(path)
    assert set(found(complete)) == {("stale", path) for path in {*scores, leakage}}
    for path in scores:
        complete.make(path)
    assert set(found(complete)) == {("stale", path) for path in (leakage, steps.COMPARE.manifest)}
    complete.make(leakage)
    complete.make(steps.COMPARE.manifest)
    assert set(found(complete)) == {("stale", path) for path in paths_of(complete, "figure", "audit", "report")}
    complete.make_all("figure", "audit")
    assert found(complete) == [("stale", steps.REPORT.manifest)]
    complete.make(steps.REPORT.manifest)
    assert found(complete) == []


def test_training_data_that_changed_make_the_trainings_stale_and_not_the_answers(complete: SyntheticStudy) -> None:
    _edit_raw("t2")
    complete.make("data/user_t2.manifest.json")
    leakage = steps.LEAKAGE.manifest
    assert set(found(complete)) == {("stale", path) for path in (leakage, *paths_of(complete, "train"))}
    complete.make(LORA)
    stale = {leakage, "checkpoints/full_tuned/manifest.json"}
    stale |= {f"predictions/lora/users_{batch}.json" for batch in ("1-2", "10,ana")}
    assert set(found(complete)) == {("stale", path) for path in stale}


@pytest.mark.parametrize("watch", ["stat", "content", "never"])
def test_an_image_replaced_under_the_same_name_and_size_is_found(complete: SyntheticStudy, watch: str) -> None:
    study = with_changes(complete, dataset={"root": "dataset", "watch_images": watch})
    study.make_all("prepare")
    image = Path("dataset/images/1_0.png")
    before = image.stat()
    content = image.read_bytes()
    Image.new("RGB", (90, 180), (240, 1, 120)).save(image)
    assert image.stat().st_size == before.st_size
    # With the old time, only the content can tell.
    os.utime(image, ns=(before.st_atime_ns, before.st_mtime_ns + (watch == "stat")))
    touch("dataset/user_1.jsonl")
    expected = [] if watch == "never" else [("stale", "data/user_1.manifest.json")]
    assert found(study) == expected
    assert reasons(study) == [f"the image {image} changed" for _ in expected]
    image.write_bytes(content)
    assert found(study) == []


def test_sources_that_were_only_touched_or_copied_stay_fresh(complete: SyntheticStudy) -> None:
    touch(*Path("dataset/images").iterdir(), *Path("dataset").glob("*.jsonl"), *Path("base").iterdir())
    assert found(complete) == []
    for folder in ("dataset", "base"):
        shutil.copytree(folder, "aside", copy_function=shutil.copyfile)
        shutil.rmtree(folder)
        Path("aside").rename(folder)
    assert found(complete) == []


def test_a_raw_file_or_image_that_is_gone_is_found(complete: SyntheticStudy) -> None:
    Path("dataset/user_1.jsonl").unlink()
    Path("dataset/images/2_1.png").unlink()
    assert found(complete) == [("stale", f"data/user_{user}.manifest.json") for user in ("1", "2")]
    assert reasons(complete) == [
        "the raw data of user 1 in dataset are missing",
        "the image dataset/images/2_1.png changed",
    ]


def _replace_keeping_size(path: Path) -> None:
    before = path.stat()
    path.write_bytes(path.read_bytes()[::-1])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns - 1))


@pytest.mark.parametrize(
    "change",
    [
        lambda: _replace_keeping_size(Path("base/model.safetensors")),
        lambda: Path("base/config.json").write_text('{"model_type": "qwen3_vl", "more": 1}'),
        lambda: Path("base/tokenizer_config.json").unlink(),
        lambda: Path("base/chat_template.jinja").write_text("new"),
        lambda: shutil.rmtree("base"),
    ],
)
def test_a_base_model_that_changed_is_found(complete: SyntheticStudy, change: Callable[[], object]) -> None:
    change()
    assert found(complete) == [("stale", "base_model/manifest.json")]
    assert reasons(complete) == ["the base model in base changed"]


def test_a_new_description_of_the_base_model_changes_nothing(complete: SyntheticStudy) -> None:
    Path("base/README.md").write_text("new")
    assert found(complete) == []


def test_a_skipped_sample_with_a_repaired_image_is_found(complete: SyntheticStudy) -> None:
    lenient = with_changes(complete, dataset={"root": "dataset", "on_bad_sample": "skip"})
    image = Path("dataset/images/1_0.png")
    content = image.read_bytes()
    image.write_bytes(content[:50])
    path = "data/user_1.manifest.json"
    lenient.make(path)
    assert [finding.path for finding in audit(lenient).findings if finding.path == path] == []
    image.write_bytes(content)
    found = [finding.reason for finding in audit(lenient).findings if finding.path == path]
    assert found == ["line 1 of dataset/user_1.jsonl was skipped because of an image that is valid now"]

"""The audit of a whole study after its raw data, its images or its base model changed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests.support.auditing import LORA, audit, found, places, reasons, touch, with_changes
from tests.support.synthetic_study import SyntheticStudy
from usertune.pipeline import steps


def _edit_raw(user: str) -> None:
    path = Path("dataset", f"user_{user}.jsonl")
    path.write_text(path.read_text().replace("Tap", "Press", 1))


def test_raw_samples_that_were_edited_are_found(whole: SyntheticStudy) -> None:
    _edit_raw("1")
    assert found(whole) == [("stale", "data/user_1.manifest.json")]
    assert reasons(whole) == ["the raw data dataset/user_1.jsonl changed"]


def test_what_was_made_from_something_else_is_found_step_by_step(whole: SyntheticStudy) -> None:
    _edit_raw("1")
    whole.make("data/user_1.manifest.json")
    predictions = {f"predictions/{name}/users_1-2.json" for name in whole.experiments}
    scores = {f"scores/{name}/user_1.json" for name in whole.experiments}
    assert set(found(whole)) == {("stale", place) for place in predictions | scores}
    assert "made from other versions of" in reasons(whole)[0]
    for place in predictions:
        whole.make(place)
    assert set(found(whole)) == {("stale", place) for place in scores}
    for place in scores:
        whole.make(place)
    assert found(whole) == [("stale", steps.COMPARE.manifest)]
    whole.make(steps.COMPARE.manifest)
    assert set(found(whole)) == {("stale", place) for place in places(whole, "figure", "audit", "report")}
    whole.make_all("figure", "audit")
    assert found(whole) == [("stale", steps.REPORT.manifest)]
    whole.make(steps.REPORT.manifest)
    assert found(whole) == []


def test_training_data_that_changed_make_the_trainings_stale_and_not_the_answers(whole: SyntheticStudy) -> None:
    _edit_raw("t2")
    whole.make("data/user_t2.manifest.json")
    assert set(found(whole)) == {("stale", place) for place in places(whole, "train")}
    whole.make(LORA)
    stale = {"checkpoints/full_tuned/manifest.json"}
    stale |= {f"predictions/lora/users_{batch}.json" for batch in ("1-2", "10,ana")}
    assert set(found(whole)) == {("stale", place) for place in stale}


@pytest.mark.parametrize("watch", ["stat", "content", "never"])
def test_an_image_replaced_under_the_same_name_and_size_is_found(whole: SyntheticStudy, watch: str) -> None:
    study = with_changes(whole, dataset={"root": "dataset", "watch_images": watch})
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


def test_sources_that_were_only_touched_or_copied_stand(whole: SyntheticStudy) -> None:
    touch(*Path("dataset/images").iterdir(), *Path("dataset").glob("*.jsonl"), *Path("base").iterdir())
    assert found(whole) == []
    for folder in ("dataset", "base"):
        shutil.copytree(folder, "aside", copy_function=shutil.copyfile)
        shutil.rmtree(folder)
        Path("aside").rename(folder)
    assert found(whole) == []


def test_a_raw_file_or_image_that_is_gone_is_found(whole: SyntheticStudy) -> None:
    Path("dataset/user_1.jsonl").unlink()
    Path("dataset/images/2_1.png").unlink()
    assert found(whole) == [("stale", f"data/user_{user}.manifest.json") for user in ("1", "2")]
    assert reasons(whole) == [
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
def test_a_base_model_that_changed_is_found(whole: SyntheticStudy, change: Callable[[], object]) -> None:
    change()
    assert found(whole) == [("stale", "base_model/manifest.json")]
    assert reasons(whole) == ["the base model in base changed"]


def test_a_new_description_of_the_base_model_changes_nothing(whole: SyntheticStudy) -> None:
    Path("base/README.md").write_text("new")
    assert found(whole) == []


def test_a_skipped_sample_whose_image_was_mended_is_found(whole: SyntheticStudy) -> None:
    lenient = with_changes(whole, dataset={"root": "dataset", "on_bad_sample": "skip"})
    image = Path("dataset/images/1_0.png")
    content = image.read_bytes()
    image.write_bytes(content[:50])
    place = "data/user_1.manifest.json"
    lenient.make(place)
    assert [finding.path for finding in audit(lenient).findings if finding.path == place] == []
    image.write_bytes(content)
    found = [finding.reason for finding in audit(lenient).findings if finding.path == place]
    assert found == ["line 1 of dataset/user_1.jsonl was skipped because of an image that is valid now"]

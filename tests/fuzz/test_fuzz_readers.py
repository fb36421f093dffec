"""Raw data, canonical samples and results, as they look after an accident or an attack."""

from __future__ import annotations

import codecs
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from tests.support.calls import prepare_one
from tests.support.mutations import FRAGMENTS, HOSTILE_TEXTS, changed_bytes, changed_value, values
from usertune.checks.sources import raw_data_of
from usertune.core.errors import UserError
from usertune.core.files import read_json, write_json
from usertune.core.manifest import read_result, write_result
from usertune.data.frames import FRAMES
from usertune.data.reader import BadSampleError
from usertune.data.readers.messages import MessagesReader, parse_line
from usertune.data.samples import read_samples, read_user, request_digest
from usertune.evaluation.answers import Answer
from usertune.evaluation.recipe import ScoreRecipe
from usertune.evaluation.score import score_samples
from usertune.study.load import study_from_config

USER = "7"
METRICS = ScoreRecipe(step="score", task="grounding", thresholds=[140]).metrics
STUDY = {
    "name": "small",
    "users": {"test": USER},
    "base_model": {"path": "base"},
    "experiments": {"vanilla": {"mode": "vanilla"}},
}
ANSWER = {"role": "assistant", "content": "```grounding\n[311.5, 541.2]\n```"}
IMAGE = {"type": "image", "image": "a.png"}
TEXT = {"type": "text", "text": "Where is \u4e2d mail?"}
SAMPLES = [
    {"id": "7-1", "episode": "7-e1", "step": 2, "user": 7, "messages": [{"role": "user", "content": "Where?"}, ANSWER]},
    {
        "messages": [
            {"role": "system", "content": [TEXT, {"type": "image", "path": "b.png"}]},
            {"role": "user", "content": [IMAGE, TEXT]},
            ANSWER,
            {"role": "user", "content": [TEXT, IMAGE]},
            {"role": "assistant", "content": [{"type": "text", "text": "[1, 2]"}]},
        ]
    },
]
HOSTILE_IMAGES = st.sampled_from([*HOSTILE_TEXTS, "a.png", "./a.png", "a.png/x", "\x85", "..", "images", "pipe"])
CHANGED_SAMPLES = st.sampled_from(SAMPLES).flatmap(lambda sample: changed_value(sample, values | HOSTILE_IMAGES))
CANONICAL = {
    "id": "7-1",
    "user": USER,
    "episode": "7-e1",
    "step": 2,
    "messages": [{"role": "user", "content": [{"type": "image"}, TEXT]}, {"role": "assistant", "content": [TEXT]}],
    "images": [{"path": "a.png", "sha256": "0" * 64, "width": 3, "height": 5}],
    "target": {"point": [311.5, 541.2]},
}
SCALARS = (str, int, float, bool, type(None))


def line_of(value: Any) -> bytes:
    """Return a value as a line of JSON, with halves of surrogate pairs escaped."""
    return json.dumps(value).encode("ascii")


LINES = st.one_of(
    CHANGED_SAMPLES.map(line_of),
    st.sampled_from(SAMPLES).map(line_of).flatmap(changed_bytes),
    values.map(line_of),
    st.sampled_from(FRAGMENTS),
    st.binary(max_size=30),
)
RAW_FILES = st.lists(LINES | st.sampled_from(SAMPLES).map(line_of), max_size=5).map(b"\n".join)


@contextmanager
def new_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a dataset with two images, a folder and a link that leads nowhere."""
    folder = tmp_path_factory.mktemp("root")
    for name in ("a.png", "b.png"):
        Image.new("RGB", (3, 5), "red").save(folder / name)
    (folder / "images").mkdir()
    (folder / "broken.png").symlink_to("nowhere")
    return folder


@given(LINES)
@example(b'{"id": ' + b"1" * 5000 + b"}")
def test_any_line_is_a_sample_or_is_refused_with_its_field(line: bytes) -> None:
    text = line.decode("utf-8", errors="surrogateescape")
    try:
        sample = parse_line(text, USER, 1)
    except BadSampleError as error:
        assert error.field
        f"{error.field}: {error}".encode()
        return
    assert sample.messages[-1]["role"] == "assistant"
    assert all(turn["role"] != "system" for turn in sample.messages[1:])
    parts = [part for turn in sample.messages for part in turn["content"]]
    assert len(sample.image_paths) == sum(part["type"] == "image" for part in parts)
    assert 1 <= len(sample.id) <= 200
    for told in (sample.id, sample.episode, *sample.image_paths, *(part.get("text", "") for part in parts)):
        told.encode("utf-8")


@given(RAW_FILES)
def test_the_images_of_good_samples_are_watched(root: Path, content: bytes) -> None:
    path = root / f"user_{USER}.jsonl"
    path.write_bytes(content)
    watched = MessagesReader(root).images(USER)
    for watch_images in ("stat", "content", "never"):
        dataset = {"root": str(root), "watch_images": watch_images}
        raw_data = raw_data_of(study_from_config({**STUDY, "dataset": dataset}))
        assert raw_data.state(USER)
    stats = raw_data.image_stats(USER)
    assert {reference for reference, _, _ in stats} == watched
    assert all(
        (modified >= 0) == (root / reference).exists() for reference, _, modified in stats if "/" not in reference
    )
    with new_folder() as out:
        try:
            prepare_one(root, USER, out / "user_7.jsonl", out / "user_7.manifest.json", on_bad_sample="skip")
        except UserError:
            return
        samples = read_samples(out / "user_7.jsonl", USER)
    assert {image["path"] for sample in samples for image in sample["images"]} <= watched


@given(RAW_FILES, st.sampled_from(["error", "skip"]), st.sampled_from(FRAMES))
def test_a_raw_file_is_prepared_or_refused(root: Path, content: bytes, on_bad_sample: str, frame: str) -> None:
    (root / f"user_{USER}.jsonl").write_bytes(content)
    with new_folder() as out:
        manifest_file = out / f"user_{USER}.manifest.json"
        try:
            prepare_one(root, USER, out / f"user_{USER}.jsonl", manifest_file, on_bad_sample=on_bad_sample, frame=frame)
        except UserError as error:
            str(error).encode("utf-8")
            assert not list(out.iterdir())
            return
        manifest, samples = read_user(manifest_file)
    lines = [line for line in content.split(b"\n") if line.removeprefix(codecs.BOM_UTF8).strip()]
    assert manifest["samples"] == len(samples)
    assert manifest["samples"] + manifest["skipped"] == len(lines)
    assert on_bad_sample == "skip" or not manifest["skipped"]
    for sample in samples:
        assert request_digest(sample)
        assert all(0 <= value <= 1000 for value in sample["target"]["point"])
        assert all((image["width"], image["height"]) == (3, 5) for image in sample["images"])


CHANGED_CANONICAL = changed_value(CANONICAL).map(line_of) | changed_bytes(line_of(CANONICAL))


@given(st.lists(CHANGED_CANONICAL | st.just(line_of(CANONICAL)), max_size=3).map(b"\n".join))
def test_canonical_samples_are_read_or_refused(content: bytes) -> None:
    with new_folder() as folder:
        path = folder / "user_7.jsonl"
        path.write_bytes(content)
        try:
            samples = read_samples(path, USER)
        except UserError as error:
            assert str(path) in str(error)
            return
        assert len({sample["id"] for sample in samples}) == len(samples) > 0
        assert {sample["user"] for sample in samples} == {USER}
        answers = {sample["id"]: Answer("[1, 2]") for sample in samples}
        try:
            rows = score_samples("grounding", METRICS, samples, answers, path)
        except UserError as error:
            assert "the target is" in str(error)
        else:
            assert [row["id"] for row in rows] == list(answers)
            assert all(isinstance(value, SCALARS) for row in rows for value in row.values())


@given(st.binary(max_size=50) | changed_bytes(line_of(CANONICAL)) | values.map(line_of) | st.sampled_from(FRAGMENTS))
def test_json_is_an_object_or_is_refused(content: bytes) -> None:
    with new_folder() as folder:
        (folder / "a.json").write_bytes(content)
        try:
            found = read_json(folder / "a.json")
        except UserError as error:
            assert str(folder) in str(error)
        else:
            assert isinstance(found, dict)


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**300), 10**300)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), PLAIN, min_size=1, max_size=4), st.data())
def test_results_come_back_as_they_were_written_or_not_at_all(value: dict[str, Any], data: st.DataObject) -> None:
    with new_folder() as folder:
        path = folder / "a.json"
        write_json(path, value)
        assert read_json(path) == value
        write_result(path, value)
        assert read_result(path) == value
        path.write_bytes(data.draw(changed_bytes(path.read_bytes())))
        try:
            assert read_result(path) == value
        except UserError as error:
            assert str(path) in str(error)

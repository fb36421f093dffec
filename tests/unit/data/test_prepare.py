"""Raw samples become canonical ones, or errors that name file, line and field."""

from __future__ import annotations

import codecs
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.support.calls import PREPARE, prepare_one
from tests.support.synthetic_study import SyntheticStudy
from usertune.core.errors import UserError
from usertune.data.check import bad_users, in_words
from usertune.data.folds import FoldSettings
from usertune.data.prepare import ADVICE, Shared, is_prepared, prepare_user
from usertune.data.raw_data import RawData
from usertune.data.readers.messages import MessagesReader
from usertune.data.samples import read_samples, read_user, request_digest

ANSWER = {"role": "assistant", "content": "```grounding\n[311.5, 541.2]\n```"}
IMAGE = {"type": "image", "image": "images/a.png"}
QUESTION = {"role": "user", "content": [IMAGE, {"type": "text", "text": "Where is mail?"}]}

Prepare = Callable[..., dict[str, Any]]


@pytest.fixture
def prepare(tmp_path: Path) -> Prepare:
    """Write raw lines (objects or bytes) of user 7 and prepare them; the outputs are in ``tmp_path / "out"``."""
    (tmp_path / "images").mkdir()
    Image.new("RGB", (96, 160), "red").save(tmp_path / "images" / "a.png")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link.png").symlink_to("nowhere")

    def run(*lines: Any, on_bad_sample: str = "error") -> dict[str, Any]:
        raw = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
        (tmp_path / "user_7.jsonl").write_bytes(b"\n".join(raw) + b"\n")
        out = tmp_path / "out"
        manifest = out / "user_7.manifest.json"
        return prepare_one(tmp_path, "7", out / "user_7.jsonl", manifest, on_bad_sample=on_bad_sample)

    return run


def test_a_good_sample_gets_its_defaults_target_and_image_record(prepare: Prepare, tmp_path: Path) -> None:
    manifest = prepare({"messages": [QUESTION, ANSWER]}, b"", {"id": 5, "messages": [QUESTION, ANSWER]})
    read, (first, second) = read_user(tmp_path / "out" / "user_7.manifest.json")
    assert read == manifest
    assert (manifest["samples"], manifest["skipped"], manifest["images"], manifest["user"]) == (2, 0, 1, "7")
    assert (first["id"], first["episode"], first["step"]) == ("7-line-1", "7-line-1", 0)
    assert second["id"] == "5"
    assert first["target"] == {"point": [311.5, 541.2]}
    assert (first["images"][0]["width"], first["images"][0]["height"]) == (96, 160)
    assert request_digest(first) == request_digest(second)


BOM = codecs.BOM_UTF8


@pytest.mark.parametrize("on_bad_sample", ["error", "skip"])
@pytest.mark.parametrize("ending", [b"", b"\r"], ids=["lf", "crlf"])
def test_a_byte_order_mark_and_windows_line_ends_are_read(
    prepare: Prepare, tmp_path: Path, on_bad_sample: str, ending: bytes
) -> None:
    line = json.dumps({"messages": [QUESTION, ANSWER]}).encode()
    # The third as after `cat a.jsonl b.jsonl`.
    manifest = prepare(BOM + line + ending, ending, BOM + line + ending, BOM + ending, on_bad_sample=on_bad_sample)
    assert (manifest["samples"], manifest["skipped"]) == (2, 0)
    assert MessagesReader(tmp_path).images("7") == {"images/a.png"}


@pytest.mark.parametrize("on_bad_sample", ["error", "skip"])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le"])
def test_utf_16_is_reported_by_name(prepare: Prepare, tmp_path: Path, encoding: str, on_bad_sample: str) -> None:
    line = json.dumps({"messages": [QUESTION, ANSWER]}).encode(encoding)
    with pytest.raises(UserError, match=rf"user_7.jsonl: the file is {encoding[:6].upper()}.*; save it as UTF-8"):
        prepare(line, on_bad_sample=on_bad_sample)
    assert MessagesReader(tmp_path).images("7") == set()


def test_a_line_of_zeros_is_one_bad_line(prepare: Prepare) -> None:
    manifest = prepare(bytes(100), {"messages": [QUESTION, ANSWER]}, on_bad_sample="skip")
    assert [(item["line"], item["field"]) for item in manifest["skipped_samples"]] == [(1, "line")]


PLACEHOLDERS = [
    *("<image>", "<video>", "<audio>", "<image_pad>", "<ref-object>", "<bbox>"),
    *("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<img>a.png</img>"),
]


@pytest.mark.parametrize("placeholder", PLACEHOLDERS)
def test_a_placeholder_left_in_a_text_is_refused(prepare: Prepare, placeholder: str) -> None:
    question = {"role": "user", "content": [IMAGE, {"type": "text", "text": f"{placeholder}\nWhere is mail?"}]}
    with pytest.raises(UserError, match=r"user_7.jsonl:1: messages\[0\].content\[1\].text: '<.*>' is in the text"):
        prepare({"messages": [question, ANSWER]})
    system = {"role": "system", "content": f"See {placeholder}."}
    manifest = prepare({"messages": [QUESTION, ANSWER]}, {"messages": [system, QUESTION, ANSWER]}, on_bad_sample="skip")
    (skipped,) = manifest["skipped_samples"]
    assert skipped["field"] == "messages[0].content[0].text"
    assert repr(placeholder) in skipped["problem"]
    assert '{"type": "image", "image": PATH}' in skipped["problem"]


@pytest.mark.parametrize(
    "text", ["a < image > b", "&lt;image&gt;", "<Image>", "<img src='a'>", "the image", "<im_age>"]
)
def test_other_texts_with_angle_brackets_are_read(prepare: Prepare, text: str) -> None:
    question = {"role": "user", "content": [IMAGE, {"type": "text", "text": text}]}
    assert prepare({"messages": [question, ANSWER]})["samples"] == 1


def test_samples_of_the_reference_experiment_are_read(prepare: Prepare, tmp_path: Path) -> None:
    system = {"role": "system", "content": [IMAGE, {"type": "text", "text": "Point."}]}
    prepare({"messages": [system, ANSWER]})
    (sample,) = read_samples(tmp_path / "out" / "user_7.jsonl", "7")
    assert [turn["role"] for turn in sample["messages"]] == ["system", "user", "assistant"]
    assert sample["messages"][1]["content"] == [{"type": "image"}]
    assert [image["path"] for image in sample["images"]] == ["images/a.png"]
    with pytest.raises(UserError, match=r"user_7.jsonl:1: messages\[1\].content: .*no point"):
        prepare({"messages": [system, {"role": "assistant", "content": "nowhere"}]})


def test_a_sample_of_text_alone_is_read(prepare: Prepare) -> None:
    manifest = prepare({"messages": [{"role": "user", "content": "Where?"}, ANSWER]})
    assert (manifest["samples"], manifest["images"]) == (1, 0)


def test_the_problems_of_all_users_are_reported_at_once(prepare: Prepare, tmp_path: Path) -> None:
    good = {"messages": [QUESTION, ANSWER]}
    prepare(good)
    (tmp_path / "user_8.jsonl").write_bytes(b"{}\n" * 30)
    (tmp_path / "user_9.jsonl").write_bytes(json.dumps({**good, "messages": [IMAGE]}).encode())
    before = sorted(tmp_path.rglob("*"))
    bad = bad_users(PREPARE, tmp_path, ["9", "7", "8", "10"], processes=2)
    assert sorted(tmp_path.rglob("*")) == before
    assert list(bad) == ["9", "8", "10"]
    text = in_words(bad, 4)
    assert text.startswith("the data of 3 of 4 users did not pass the checks:\nuser 9:\n  ")
    assert "user_9.jsonl:1: messages[0].role" in text
    assert "user_8.jsonl:6: messages" in text
    assert "... and 15 more lines for this user" in text
    assert "user 10 of the study has no raw data" in text
    assert text.count(ADVICE) == 1
    assert in_words(bad_users(PREPARE, tmp_path, ["7"], processes=2), 1) == "the data of all 1 users passed the checks"


def test_an_image_of_the_system_turn_moves_to_the_front_of_the_user_turn(prepare: Prepare, tmp_path: Path) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "images" / "b.png")
    system = {"role": "system", "content": [{"type": "text", "text": "Be brief."}, {**IMAGE, "image": "images/b.png"}]}
    prepare({"messages": [system, QUESTION, ANSWER]})
    _, (sample,) = read_user(tmp_path / "out" / "user_7.manifest.json")
    kinds = [[part["type"] for part in turn["content"]] for turn in sample["messages"]]
    assert kinds == [["text"], ["image", "image", "text"], ["text"]]
    assert [image["path"] for image in sample["images"]] == ["images/b.png", "images/a.png"]


BAD_SAMPLES = [
    (b"{", "line"),
    (b"\xff", "line"),
    (b"[" * 100_000, "line"),
    ([], "line"),
    ({}, "messages"),
    ({"messages": []}, "messages"),
    ({"messages": [QUESTION]}, "messages"),
    ({"messages": [ANSWER]}, "messages"),
    ({"messages": [QUESTION, {"role": "assistant", "content": ""}]}, "messages"),
    ({"messages": [{"role": "robot"}, ANSWER]}, "messages[0].role"),
    ({"messages": [QUESTION, {"role": "system", "content": "x"}, ANSWER]}, "messages[1].role"),
    ({"messages": [{"role": "user", "content": 5}, ANSWER]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": [{"type": "video"}]}, ANSWER]}, "messages[0].content[0].type"),
    ({"messages": [{"role": "user", "content": [{"type": "image"}]}, ANSWER]}, "messages[0].content[0].image"),
    ({"messages": [QUESTION, {"role": "assistant", "content": [IMAGE]}]}, "messages[1].content"),
    ({"messages": [QUESTION, {"role": "assistant", "content": "no idea"}]}, "messages[1].content"),
    ({"messages": [{"role": "user", "content": "\ud800"}, ANSWER]}, "messages[0].content[0].text"),
    ({"messages": [QUESTION, ANSWER], "extra": 1}, "extra"),
    ({"messages": [QUESTION, ANSWER], "user": 8}, "user"),
    ({"messages": [QUESTION, ANSWER], "id": ""}, "id"),
    ({"messages": [QUESTION, ANSWER], "step": "2"}, "step"),
    ({"messages": [QUESTION, ANSWER], "step": 10**18}, "step"),
    (b'{"step": ' + b"1" * 5000 + b"}", "line"),
    ({"messages": [QUESTION, ANSWER], "user": [[7]]}, "user"),
    ({"messages": [QUESTION, ANSWER], "id": "a\rb"}, "id"),
    ({"messages": [QUESTION, ANSWER], "episode": "a\0b"}, "episode"),
    ({"messages": [QUESTION, ANSWER], "id": "\ud800"}, "id"),
    ({"messages": [QUESTION, ANSWER], "\ud800": 1}, r"\ud800"),
    ({"messages": [QUESTION, ANSWER], "a\nb": 1}, r"a\nb"),
    ({"messages": [QUESTION, ANSWER], "": 1}, "''"),
    *(
        ({"messages": [{"role": "user", "content": [{**IMAGE, "image": path}]}, ANSWER]}, "image")
        for path in ("missing.png", "/etc/passwd", "../a.png", "", "images", "a\0b", "x" * 300, "pipe", "link.png")
    ),
]


@pytest.mark.parametrize(("bad", "field"), BAD_SAMPLES)
def test_a_bad_sample_is_named_by_file_line_and_field(prepare: Prepare, tmp_path: Path, bad: Any, field: str) -> None:
    with pytest.raises(UserError) as caught:
        prepare({"messages": [QUESTION, ANSWER]}, bad)
    assert f"{tmp_path / 'user_7.jsonl'}:2: {field}: " in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("bad", "field"), BAD_SAMPLES)
def test_a_bad_sample_can_be_skipped_and_is_counted(prepare: Prepare, bad: Any, field: str) -> None:
    manifest = prepare({"messages": [QUESTION, ANSWER]}, bad, on_bad_sample="skip")
    assert (manifest["samples"], manifest["skipped"]) == (1, 1)
    assert (manifest["skipped_samples"][0]["line"], manifest["skipped_samples"][0]["field"]) == (2, field)


def test_an_id_that_occurs_twice_is_refused(prepare: Prepare) -> None:
    sample = {"id": "a", "messages": [QUESTION, ANSWER]}
    with pytest.raises(UserError, match="2: id: 'a' was already used in line 1"):
        prepare(sample, sample)


def test_an_empty_file_and_a_missing_one_are_refused(prepare: Prepare, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no good sample"):
        prepare(b"")
    with pytest.raises(
        UserError, match=r"user 8 of the study has no raw data .user_<id>.jsonl.; found 1 users there: 7"
    ):
        prepare_one(tmp_path, "8", tmp_path / "x.jsonl", tmp_path / "x.json")


def test_samples_edited_by_hand_are_noticed_when_they_are_read(prepare: Prepare, tmp_path: Path) -> None:
    prepare({"messages": [QUESTION, ANSWER]})
    samples = tmp_path / "out" / "user_7.jsonl"
    samples.write_text(samples.read_text().replace("541.2", "541.3"))
    with pytest.raises(UserError, match="does not match"):
        read_user(tmp_path / "out" / "user_7.manifest.json")


def test_samples_that_are_no_samples_are_refused_with_their_line(tmp_path: Path) -> None:
    good = {"id": "a", "user": "7", "episode": "e", "step": 0, "messages": [], "images": [], "target": {}}
    for line, message in (
        (b"\xff", "not valid UTF-8"),
        (b"[" * 100_000, "user_7.jsonl:1: not valid JSON"),
        (b'{"id": ' + b"1" * 5000 + b"}", "user_7.jsonl:1: not valid JSON"),
        (json.dumps({**good, "id": ["a"]}).encode(), "this sample has no id"),
        (json.dumps({**good, "target": None, "step": "1"}).encode(), "this sample has no step, target"),
    ):
        (tmp_path / "user_7.jsonl").write_bytes(line + b"\n")
        with pytest.raises(UserError, match=message):
            read_samples(tmp_path / "user_7.jsonl", "7")


def test_every_image_of_a_good_sample_is_watched_and_no_other_path_is_followed(
    prepare: Prepare, tmp_path: Path
) -> None:
    # A carriage return is white space in JSON and ends no line.
    whole = json.dumps({"messages": [QUESTION, ANSWER]}).replace(", ", ",\r", 1).encode()
    outside = {
        "role": "user",
        "content": [{**IMAGE, "image": path} for path in ("/etc/passwd", "../x", "\ud800", "a\0")],
    }
    assert prepare(whole, {"messages": [outside]}, b"\xff", on_bad_sample="skip")["samples"] == 1
    assert MessagesReader(tmp_path).images("7") == {"images/a.png"}


def test_files_of_users_who_cannot_be_named_are_not_offered(tmp_path: Path) -> None:
    for name in (b"user_7.jsonl", b"user_\xff.jsonl", b"user_a b.jsonl", b"user_\x1b[2J.jsonl", b"user_.jsonl"):
        (tmp_path / os.fsdecode(name)).touch()
    assert MessagesReader(tmp_path).users() == ["7"]


@pytest.mark.parametrize(
    "change", [None, "recipe", "user", "state", "no state", "samples", "cut", "no samples", "manifest", "no manifest"]
)
def test_what_was_prepared_is_known_by_recipe_source_and_content(
    prepare: Prepare, tmp_path: Path, change: str | None
) -> None:
    prepare({"messages": [QUESTION, ANSWER]})
    samples, manifest = tmp_path / "out/user_7.jsonl", tmp_path / "out/user_7.manifest.json"
    prepare_user(PREPARE, tmp_path, "7", samples, manifest, "as it was")
    recipe = PREPARE.model_copy(update={"on_bad_sample": "skip"}) if change == "recipe" else PREPARE
    if change == "samples":
        samples.write_text(samples.read_text().replace("mail", "post"))
    elif change == "cut":
        samples.write_text("")
    elif change == "manifest":
        manifest.write_text(manifest.read_text().replace('"samples": 1', '"samples": 2'))
    elif change in ("no samples", "no manifest"):
        (samples if change == "no samples" else manifest).unlink()
    user, state = "8" if change == "user" else "7", {"state": "other", "no state": ""}.get(change or "", "as it was")
    assert is_prepared(recipe, user, samples, manifest, state) == (change is None)


def test_a_job_writes_the_files_of_changed_users_alone(prepare: Prepare, tmp_path: Path) -> None:
    prepare({"messages": [QUESTION, ANSWER]})
    (tmp_path / "user_8.jsonl").write_text((tmp_path / "user_7.jsonl").read_text())
    folder = tmp_path / "batch"

    def run(*arguments: str) -> dict[str, int]:
        """Prepare both users, and return the times of their files."""
        script = Path(__file__).parents[3] / "scripts/prepare.py"
        paths = [f"--{name}={folder}/user_{{user}}.{name}" for name in ("samples", "manifest", "user-log")]
        command = [sys.executable, str(script), "--recipe", PREPARE.text(), "--root", str(tmp_path), *paths]
        subprocess.run([*command, "--users", "7-8", *arguments], check=True, timeout=60)
        return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}

    before = run()
    os.utime(tmp_path / "user_8.jsonl", (1, 1))
    after = run()
    changed = {name for name, time in after.items() if before[name] != time}
    assert set(before) == set(after)
    assert changed == {"user_8.samples", "user_8.manifest", "user_8.user-log"}
    assert run() == after
    for how, arguments in (("stat", ()), ("never", ("--watch-images", "never"))):
        run(*arguments)
        state = RawData(tmp_path, MessagesReader(tmp_path), how).state("8")
        assert json.loads((folder / "user_8.manifest").read_text())["sources_state"] == state


def test_a_user_with_too_few_episodes_for_the_folds_is_not_prepared(tmp_path: Path) -> None:
    study = SyntheticStudy(tmp_path, users=["1", "2"], samples=4, episodes=2)
    study.write_raw("1")
    files = (tmp_path / "out/user_1.jsonl", tmp_path / "out/user_1.manifest.json")
    said = r"user_1.jsonl: user 1 has 2 episodes, which is too few for 3 folds"
    with pytest.raises(UserError, match=said):
        prepare_user(PREPARE, study.dataset, "1", *files, shared=Shared(folds=FoldSettings(count=3)))
    assert not files[1].exists()
    assert prepare_user(PREPARE, study.dataset, "1", *files, shared=Shared(folds=FoldSettings(count=2)))["samples"] == 4
    at_random = FoldSettings(count=3, by="random")
    bad = bad_users(PREPARE, study.dataset, ["1"], 1, {"1": FoldSettings(count=3)})
    assert list(bad) == ["1"]
    assert "too few for 3 folds" in bad["1"]
    assert bad_users(PREPARE, study.dataset, ["1"], 1, {"2": FoldSettings(count=3)}) == {}
    assert bad_users(PREPARE, study.dataset, ["1"], 1, {"1": at_random}) == {}

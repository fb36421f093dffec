"""Samples for other trainers: the same samples, texts and images, and nothing of an export that failed."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.support.auditing import with_changes
from tests.support.synthetic_study import SyntheticStudy
from usertune.core.errors import UserError
from usertune.core.hashing import digest_file
from usertune.core.manifest import read_result
from usertune.data.readers.catalogue import get_reader
from usertune.data.samples import Sample, read_user
from usertune.data.writers.catalogue import WRITERS
from usertune.data.writers.swift import SwiftWriter
from usertune.exchange.export_samples import export_samples
from usertune.exchange.new_folder import RECORD

OUT = Path("out/exported")
SPLITS = {"train": ["t1", "t2"], "validation": ["v1"], "test": ["1", "2", "10", "ana"]}


def rows(split: str, folder: Path = OUT) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / f"{split}.jsonl").read_text().splitlines()]


def parts_of(content: Any) -> list[dict[str, str]]:
    """Return the parts of a turn, from any of the formats."""
    if isinstance(content, str):
        pieces = [piece for piece in re.split("(<image>)", content) if piece]
        return [{"type": "image"} if piece == "<image>" else {"type": "text", "text": piece} for piece in pieces]
    return [{key: value for key, value in part.items() if value is not None} for part in content]


def turns_of(row: dict[str, Any]) -> list[dict[str, Any]]:
    turns = row["messages"] if "messages" in row else [*row["prompt"], *row["completion"]]
    return [{"role": turn["role"], "content": parts_of(turn["content"])} for turn in turns]


@pytest.mark.parametrize("kind", list(WRITERS))
@pytest.mark.parametrize("copied", [False, True], ids=["by path", "copied"])
def test_every_sample_comes_back_with_its_turns_and_images(complete: SyntheticStudy, kind: str, copied: bool) -> None:
    said = export_samples(complete.study, kind, OUT, copied)
    assert said.startswith("out/exported: 21 samples for ")
    for split, users in SPLITS.items():
        prepared = [sample for user in users for sample in read_user(f"data/user_{user}.manifest.json")[1]]
        found = rows(split)
        assert [turns_of(row) for row in found] == [sample["messages"] for sample in prepared]
        for row, sample in zip(found, prepared, strict=True):
            assert [row[key] for key in ("id", "user", "episode", "step")] == [
                sample[key]
                for key in ("id", "user", "episode", "step")  # type: ignore[literal-required]
            ]
            for path, image in zip(row["images"], sample["images"], strict=True):
                assert Path(path).is_absolute() is not copied
                assert digest_file(OUT / path) == image["sha256"]
    assert (OUT / "images").exists() is copied


def test_the_record_tells_what_was_exported(complete: SyntheticStudy) -> None:
    export_samples(complete.study, "swift", OUT)
    record = read_result(OUT / RECORD)
    assert (record["study"], record["format"]) == ("synthetic", "swift")
    train = record["splits"]["train"]
    assert (train["users"], train["samples"]) == (2, 6)
    assert train["sha256"] == record["files"]["train.jsonl"] == digest_file(OUT / "train.jsonl")
    assert train["prepared"]["t1"] == read_result("data/user_t1.manifest.json")["output"]
    assert "| train | 2 | 6 |" in (OUT / "README.md").read_text()


def test_llama_factory_finds_each_split_by_its_description(complete: SyntheticStudy) -> None:
    export_samples(complete.study, "llama-factory", OUT)
    described = json.loads((OUT / "dataset_info.json").read_text())
    assert list(described) == ["synthetic_train", "synthetic_validation", "synthetic_test"]
    for entry in described.values():
        assert (OUT / entry["file_name"]).is_file()
        assert entry["formatting"] == "sharegpt"
        row = json.loads((OUT / entry["file_name"]).read_text().splitlines()[0])
        assert set(entry["columns"].values()) <= row.keys()
        tags = entry["tags"]
        roles = {turn[tags["role_tag"]] for turn in row[entry["columns"]["messages"]]}
        assert roles == {tags["user_tag"], tags["assistant_tag"]}


def test_a_split_without_users_is_no_file(complete: SyntheticStudy) -> None:
    study = with_changes(complete, users={"train": "t1,t2", "test": complete.users})
    export_samples(study.study, "llama-factory", OUT)
    assert not (OUT / "validation.jsonl").exists()
    assert "validation" not in (OUT / "README.md").read_text() + (OUT / "dataset_info.json").read_text()


@pytest.mark.parametrize("kind", list(WRITERS))
def test_messages_of_an_export_can_be_read_as_a_study(complete: SyntheticStudy, kind: str, tmp_path: Path) -> None:
    # Only the images need another form: parts with a path.
    export_samples(complete.study, kind, OUT, copy_images=True)
    for user in SPLITS["train"]:
        lines = []
        for row in (row for row in rows("train") if row["user"] == user):
            images = iter(row["images"])
            turns = turns_of(row)
            for part in (part for turn in turns for part in turn["content"] if part["type"] == "image"):
                part["image"] = next(images)
            names = {key: row[key] for key in ("id", "user", "episode", "step")}
            lines.append(json.dumps({**names, "messages": turns}))
        (OUT / f"user_{user}.jsonl").write_text("\n".join(lines))
        again = [raw for _, raw in get_reader("messages", OUT).read(user)]
        before = [raw for _, raw in get_reader("messages", complete.dataset).read(user)]
        for raw, own in zip(again, before, strict=True):
            assert (raw.id, raw.episode, raw.step, raw.messages) == (own.id, own.episode, own.step, own.messages)  # type: ignore[union-attr]


def edit(complete: SyntheticStudy, user: str, old: str, new: str) -> None:
    """Edit a user's raw data, and prepare the user again."""
    path = complete.dataset / f"user_{user}.jsonl"
    path.write_text(path.read_text().replace(old, new))
    complete.make(f"data/user_{user}.manifest.json")


@pytest.mark.parametrize(
    ("kind", "word"),
    [("swift", "<cot-process>"), ("swift", "<start-image>")],
)
def test_a_text_that_the_trainer_would_replace_is_refused(complete: SyntheticStudy, kind: str, word: str) -> None:
    edit(complete, "t1", "Tap 'send'", f"Tap {word}")
    with pytest.raises(UserError, match=rf"^sample 't1/0' of user t1: its text contains {word}, which ms-swift replac"):
        export_samples(complete.study, kind, OUT)
    assert not Path("out").exists() or not any(Path("out").iterdir())
    export_samples(complete.study, "trl", OUT)
    assert word in (OUT / "train.jsonl").read_text()


def test_a_word_that_two_texts_form_together_is_refused(complete: SyntheticStudy) -> None:
    text = '{"type": "text", "text": "Tap \'send\' "}'
    edit(complete, "t1", text, '{"type": "text", "text": "<cot-"}, {"type": "text", "text": "process>"}')
    with pytest.raises(UserError, match="pieces of its text join to a word that ms-swift replaces"):
        export_samples(complete.study, "swift", OUT)


def test_llama_factory_gets_no_sample_that_it_would_leave_out(complete: SyntheticStudy) -> None:
    edit(complete, "t2", '"messages": [', '"messages": [{"role": "user", "content": "Look."}, ')
    with pytest.raises(UserError, match=r"^sample 't2/0' of user t2: its turns are user, user, assistant; LLaMA-"):
        export_samples(complete.study, "llama-factory", OUT)
    export_samples(complete.study, "swift", OUT)
    assert [turn["role"] for turn in rows("train")[-1]["messages"]] == ["user", "user", "assistant"]


def test_a_photo_that_is_stored_turned_is_copied_upright_or_refused(complete: SyntheticStudy) -> None:
    photo = complete.dataset / "images/t1_0.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(photo).resize((60, 20)).save(photo, exif=exif)
    complete.make("data/user_t1.manifest.json")
    assert read_user("data/user_t1.manifest.json")[1][0]["images"][0]["width"] == 20
    with pytest.raises(UserError, match=r"sample 't1/0' of user t1: .*t1_0\.png: the photo is stored turned .*--copy"):
        export_samples(complete.study, "trl", OUT)
    export_samples(complete.study, "trl", OUT, copy_images=True)
    with Image.open(OUT / rows("train")[0]["images"][0]) as copy:
        assert (copy.size, copy.getexif().get(0x0112)) == ((20, 60), None)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        ("data/user_t2.jsonl", "data/user_t2.manifest.json: data/user_t2.jsonl: the file was edited or cut short"),
        ("dataset/user_t2.jsonl", "data/user_t2.manifest.json: bytes, sizes or times of its raw data changed"),
        ("dataset/images/t2_1.png", "data/user_t2.manifest.json: bytes, sizes or times of its raw data changed"),
    ],
)
def test_a_modified_or_stale_user_is_refused(complete: SyntheticStudy, spoil: str, said: str) -> None:
    Path(spoil).write_bytes(Path(spoil).read_bytes() + b" ")
    with pytest.raises(UserError) as caught:
        export_samples(complete.study, "swift", OUT)
    assert str(caught.value).startswith(said)
    assert str(caught.value).endswith("make them by: snakemake check --profile local")
    assert not OUT.exists()


def test_users_who_are_not_prepared_are_counted(complete: SyntheticStudy) -> None:
    shutil.rmtree("data")
    with pytest.raises(UserError, match=r"it does not exist yet\n(.*\n){4}\.\.\. and 2 more\nthese results are not"):
        export_samples(complete.study, "swift", OUT)


def test_an_image_that_changes_while_it_is_exported_is_refused(complete: SyntheticStudy) -> None:
    study = with_changes(complete, dataset={"root": "dataset", "watch_images": "never"})
    study.make_all("prepare")
    (complete.dataset / "images/v1_2.png").write_bytes(b"other")
    with pytest.raises(UserError, match=r"^sample 'v1/2' of user v1: .*v1_2\.png: changed since its user's data were"):
        export_samples(study.study, "swift", OUT, copy_images=True)
    assert not OUT.exists()


def test_files_are_replaced_only_by_force_and_only_those_of_an_export(complete: SyntheticStudy) -> None:
    study = complete.study
    export_samples(study, "swift", OUT)
    with pytest.raises(UserError, match="the folder has files; name another one, or add --force"):
        export_samples(study, "trl", OUT)
    assert "messages" in rows("train")[0]
    export_samples(study, "trl", OUT, force=True)
    assert "prompt" in rows("train")[0]
    (OUT / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"'notes\.txt' is not of the earlier export; move it"):
        export_samples(study, "swift", OUT, force=True)
    assert "prompt" in rows("train")[0]
    with pytest.raises(UserError, match=r"--force replaces what usertune export wrote, and this folder has no valid"):
        export_samples(study, "swift", complete.dataset, force=True)
    with pytest.raises(UserError, match="a link or a file"):
        export_samples(study, "swift", Path("dataset/user_t1.jsonl"), force=True)
    with pytest.raises(UserError, match="a part of this path is a file"):
        export_samples(study, "swift", Path("dataset/user_t1.jsonl/out"))
    assert sorted(path.name for path in Path("out").iterdir()) == ["exported"]


def test_a_disk_that_fills_up_is_named_and_nothing_is_left(
    complete: SyntheticStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def record(self: SwiftWriter, sample: Sample, images: list[str]) -> dict[str, Any]:
        if sample["user"] == "v1":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return {}

    monkeypatch.setattr(SwiftWriter, "record", record)
    with pytest.raises(OSError, match=r"No space left on device: .*validation\.jsonl"):
        export_samples(complete.study, "swift", OUT)
    assert not any(Path("out").iterdir())


def test_a_folder_that_cannot_be_made_is_named(complete: SyntheticStudy) -> None:
    with pytest.raises(OSError, match="/proc/"):
        export_samples(complete.study, "swift", Path("/proc/exported"))


def test_a_killed_export_leaves_no_folder_and_the_next_one_cleans_up(complete: SyntheticStudy) -> None:
    program = (
        "import sys, time\n"
        "from usertune.data.writers.swift import SwiftWriter\n"
        "from usertune.exchange.new_folder import new_folder\n"
        "from pathlib import Path\n"
        "with new_folder(Path('out/exported'), False, {'study': 'x'}) as hidden:\n"
        "    (hidden / 'train.jsonl').write_text('half')\n"
        "    print('writing', flush=True)\n"
        "    time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert [path.name.startswith(".exported.") for path in Path("out").iterdir()] == [True]
    export_samples(complete.study, "swift", OUT)
    assert [path.name for path in Path("out").iterdir()] == ["exported"]


def test_of_two_exports_at_once_one_is_refused_and_the_other_whole(complete: SyntheticStudy) -> None:
    program = (
        "import sys, time\n"
        "from usertune.exchange.new_folder import new_folder\n"
        "from pathlib import Path\n"
        "with new_folder(Path('out/exported'), False, {'study': 'x'}) as hidden:\n"
        "    (hidden / 'train.jsonl').write_text('whole')\n"
        "    print('writing', flush=True)\n"
        "    sys.stdin.readline()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    export_samples(complete.study, "swift", OUT)
    _, errors = process.communicate("\n", timeout=60)
    assert "UserError" in errors
    assert "the folder has files" in errors
    assert len(rows("train")) == 6
    assert [path.name for path in Path("out").iterdir()] == ["exported"]


def test_the_reader_of_ms_swift_reads_an_export_to_the_same_samples(complete: SyntheticStudy) -> None:
    export_samples(complete.study, "swift", OUT, copy_images=True)
    options = {"files": "train.jsonl", "images": "", "user": "user"}
    reader = get_reader("swift", OUT, options)
    for user in SPLITS["train"]:
        again = [raw for _, raw in reader.read(user)]
        before = read_user(f"data/user_{user}.manifest.json")[1]
        assert [(raw.id, raw.messages) for raw in again] == [(own["id"], own["messages"]) for own in before]  # type: ignore[union-attr]

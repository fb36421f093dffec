"""The raw tree of FingerTip-20K is read, or reported with file, line and field."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.support.fingertip_tree import CLICK, write_episode, write_screenshot, write_users
from usertune.core.errors import UserError
from usertune.data.prepare import prepare_user
from usertune.data.raw_data import RawData, WatchImages
from usertune.data.reader import BadSampleError, RawSample, Reader, ScansFiles
from usertune.data.readers.catalogue import get_reader
from usertune.data.recipe import PrepareRecipe
from usertune.data.samples import Sample, read_user

FIRST = "20250309_220811"
SHOT = "1741498279844.jpg"


def reader_of(root: Path, **options: Any) -> Reader:
    return get_reader("fingertip", root, options)


def samples(root: Path, user: str = "3", **options: Any) -> list[RawSample]:
    found = [sample for _, sample in reader_of(root, **options).read(user)]
    assert all(isinstance(sample, RawSample) for sample in found), found
    return found  # type: ignore[return-value]


def problems(root: Path, user: str = "3", **options: Any) -> list[str]:
    """Return the problems of a user's samples, as messages show them."""
    return [
        f"{location.file.relative_to(root)}:{location.line}: {one.field}: {one}"
        for location, one in reader_of(root, **options).read(user)
        if isinstance(one, BadSampleError)
    ]


def prepared(
    root: Path, out: Path, user: str = "3", on_bad_sample: str = "error", **options: Any
) -> tuple[dict[str, Any], list[Sample]]:
    recipe = PrepareRecipe.model_validate(
        {
            "step": "prepare",
            "format": "fingertip",
            "options": options,
            "task": "grounding",
            "frame": "pixels",
            "on_bad_sample": on_bad_sample,
        }
    )
    out.mkdir(exist_ok=True)
    prepare_user(recipe, root, user, out / f"user_{user}.jsonl", out / f"user_{user}.manifest.json")
    return read_user(out / f"user_{user}.manifest.json")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "data"


def test_a_click_is_a_grounding_sample(root: Path, tmp_path: Path) -> None:
    write_episode(root / "3" / FIRST)
    _, (sample,) = prepared(root, tmp_path / "out")
    assert sample["id"] == f"{FIRST}-1741498279844"
    assert (sample["user"], sample["episode"], sample["step"]) == ("3", FIRST, 0)
    assert sample["images"][0]["path"] == f"3/{FIRST}/Screenshots/{SHOT}"
    assert sample["target"] == {"point": [500.0, 333.3]}
    question, answer = sample["messages"]
    assert question["content"] == [{"type": "image"}, {"type": "text", "text": "搜索"}]
    assert answer["content"][0]["text"] == "```referring\n搜索\n```\n```grounding\n[500, 333.3]\n```"
    assert sample["about"] == {
        "uid": "3",
        "app": "com.example.shop",
        "scenario": "在家",
        "intent": "买一双鞋",
        "time": "2025-03-09 22:08:11",
        "content": "搜索",
    }


def test_the_instruction_can_be_the_intent_of_the_episode(root: Path) -> None:
    write_episode(root / "3" / FIRST, [("1.jpg", CLICK), ("2.jpg", "click(coordinates=(1, 2), content='')")])
    for sample in samples(root, instruction="intent"):
        assert sample.messages[0]["content"][1] == {"type": "text", "text": "买一双鞋"}
    assert problems(root) == [
        f"3/{FIRST}/action.jsonl:2: content: the action says nothing of the element, so there is no instruction"
    ]


def test_every_action_is_a_sample_and_grounding_counts_those_it_does_not_ask_for(root: Path, tmp_path: Path) -> None:
    actions = [
        CLICK,
        "long_click(coordinates=(1, 2), content='x')",
        "type(text='鞋')",
        "scroll(coordinates=(1, 2), direction='up')",
        "press_back()",
        "press_home()",
        "press_recent()",
        "wait()",
        "finished()",
    ]
    write_episode(root / "3" / FIRST, [(f"{number}.jpg", action) for number, action in enumerate(actions)])
    found = samples(root)
    assert [sample.step for sample in found] == list(range(9))
    assert [sample.truth.action for sample in found if sample.truth] == [
        "click", "long_press", "type", "scroll", "press", "press", "press", "wait", "finish"
    ]  # fmt: skip
    assert found[4].messages[0]["content"][1] == {"type": "text", "text": "买一双鞋"}
    assert reader_of(root).count("3") == 9
    manifest, kept = prepared(root, tmp_path / "out")
    assert len(kept) == 1
    assert manifest["not_asked"] == {
        "finish": 1, "long_press": 1, "press": 3, "scroll": 1, "type": 1, "wait": 1
    }  # fmt: skip
    assert manifest["skipped"] == 0


@pytest.mark.parametrize("name", ["Screenshots", "screenshots", "Screenshots_1741498279844"])
@pytest.mark.parametrize("user", ["3", "3/3"])
def test_both_spellings_and_nested_folders_are_read(root: Path, user: str, name: str) -> None:
    write_episode(root / user / FIRST, screenshots=name)
    (sample,) = samples(root)
    assert sample.image_paths == [f"{user}/{FIRST}/{name}/{SHOT}"]
    assert reader_of(root).users() == ["3"]


def test_episodes_are_in_the_order_of_time_over_both_folders(root: Path) -> None:
    for folder, episode in (("3/3", "20250309_000002"), ("3", "20250309_000003"), ("3/3", "20250309_000001")):
        write_episode(root / folder / episode)
    assert [sample.episode[-1] for sample in samples(root)] == ["1", "2", "3"]


def test_an_episode_that_is_in_both_folders_is_used_once(root: Path, tmp_path: Path) -> None:
    write_episode(root / "3" / FIRST)
    write_episode(root / "3/3" / FIRST)
    manifest, kept = prepared(root, tmp_path / "out", on_bad_sample="skip")
    assert [sample["images"][0]["path"] for sample in kept] == [f"3/{FIRST}/Screenshots/{SHOT}"]
    (skipped,) = manifest["skipped_samples"]
    assert skipped["file"] == f"3/3/{FIRST}/action.jsonl"
    assert "was already used" in skipped["problem"]


def test_two_actions_on_one_screenshot_have_ids_of_their_own(root: Path) -> None:
    write_episode(root / "3" / FIRST, [(SHOT, CLICK), (SHOT, CLICK), ("5.jpg", CLICK), (SHOT, CLICK)])
    ids = [sample.id.removeprefix(f"{FIRST}-") for sample in samples(root)]
    assert ids == ["1741498279844", "1741498279844-2", "5", "1741498279844-3"]


def test_ids_with_gaps_are_renumbered_in_their_order_if_the_study_says_so(root: Path, tmp_path: Path) -> None:
    write_users(root, [1, 3, 10, 4])
    assert reader_of(root).users() == ["1", "3", "4", "10"]
    assert reader_of(root, renumber=True).users() == ["1", "2", "3", "4"]
    manifest, (sample,) = prepared(root, tmp_path / "out", "4", renumber=True)
    assert (manifest["user"], manifest["raw_id"]) == ("4", "10")
    assert (sample["user"], sample["about"]["uid"]) == ("4", "10")
    assert sample["images"][0]["path"].startswith("10/")
    assert prepared(root, tmp_path / "out", "4")[0]["raw_id"] == "4"


def test_other_files_and_folders_are_no_data(root: Path) -> None:
    write_episode(root / "3" / FIRST)
    for name in (".DS_Store", "README.md", "3/.DS_Store", "3/notes.txt", f"3/{FIRST}/Screenshots/.DS_Store"):
        (root / name).write_bytes(b"\0")
    for name in ("5", "6/6", ".git/20250309_000000", "3/.20250309_000000", "3/notes", "__MACOSX/3/20250309_000000"):
        (root / name).mkdir(parents=True)
    assert reader_of(root).users() == ["3"]
    assert len(samples(root)) == 1
    with pytest.raises(
        UserError, match=r"user 5 of the study has no raw data \(<uid>/<YYYYMMDD_HHMMSS>/action.jsonl\)"
    ):
        prepared(root, root.parent / "out", "5")


def test_a_folder_with_another_name_that_holds_actions_is_an_episode(root: Path) -> None:
    write_episode(root / "3" / f"{FIRST} (copy)")
    assert [sample.episode for sample in samples(root)] == [f"{FIRST} (copy)"]


@pytest.mark.parametrize("name", ["007", "ü", "-x", "a b", "1-3", "1,2", "x" * 65])
def test_a_folder_of_episodes_without_a_users_name_is_refused(root: Path, name: str) -> None:
    write_episode(root / name / FIRST)
    with pytest.raises(UserError, match=r"holds episodes, but this is no user id .*; rename it") as caught:
        reader_of(root).users()
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["\udcff", "a\nb", "a\x1b[31mb", "a\u2028b"])
def test_names_with_control_characters_or_broken_unicode_are_refused(root: Path, name: str) -> None:
    write_episode(root / name / FIRST)
    with pytest.raises(UserError, match="holds a line break, a control character or broken Unicode; rename") as caught:
        reader_of(root).users()
    assert str(caught.value).isprintable()
    (root / name).rename(root / "3")
    (root / "3" / FIRST).rename(root / "3" / name)
    with pytest.raises(UserError, match="holds a line break, a control character or broken Unicode; rename") as caught:
        reader_of(root).users()
    assert str(caught.value).isprintable()
    (root / "3" / name).rename(root / "3" / FIRST)
    (root / "3" / FIRST / "Screenshots").rename(root / "3" / FIRST / f"Screenshots{name}")
    (said,) = problems(root)
    assert said.endswith(f"screenshot: '{SHOT}' is in no folder of screenshots here")
    assert raw_data(root).state("3")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"1.jpg": "click(coor', "line: not valid JSON"),
        ("[1]", "line: expected a JSON object with one key, the name of a screenshot; found list"),
        ("{}", "line: expected a JSON object with one key, the name of a screenshot; found 0 keys"),
        ('{"1.jpg": "wait()", "2.jpg": "wait()"}', "line: expected a JSON object with one key"),
        ('{"1.jpg": "wait()", "1.jpg": "wait()"}', "line: expected a JSON object with one key"),
        ('{"1.jpg": ["wait()"]}', "action: a text is needed, found list"),
        ('{"1.jpg": "tap()"}', "action: 'tap()' is not an action of this format"),
        ('{"1": "wait()"}', "screenshot: '1' is not the name of a screenshot"),
        ('{"../1.jpg": "wait()"}', "screenshot: '../1.jpg' is not the name of a screenshot"),
        ('{"/etc/1.jpg": "wait()"}', "screenshot: '/etc/1.jpg' is not the name of a screenshot"),
        ('{"a\\n.jpg": "wait()"}', r"screenshot: 'a\n.jpg' is not the name of a screenshot"),
        ('{"\\ud83d.jpg": "wait()"}', r"screenshot: '\ud83d.jpg' is not the name of a screenshot"),
        ('{"gone.jpg": "wait()"}', "screenshot: 'gone.jpg' is in no folder of screenshots here"),
        ('{"1.jpg": "type(text=\'\\ud83d\')"}', "text: the text holds half of a surrogate pair"),
        ('{"1.jpg": "click(coordinates=(1, 2), content=\'<image>\')"}', "content: '<image>' is in the text"),
        ("[" * 100_000, "line: not valid JSON"),
    ],
)
def test_a_bad_line_is_reported_with_its_field_and_the_others_are_read(root: Path, line: str, problem: str) -> None:
    content = b'\xef\xbb\xbf{"1.jpg": "wait()"}\r\n\r\n' + line.encode() + b'\n{"1.jpg": "wait()"}'
    episode = write_episode(root / "3" / FIRST, content)
    write_screenshot(episode / "Screenshots" / "1.jpg")
    (said,) = problems(root)
    assert said.startswith(f"3/{FIRST}/action.jsonl:3: {problem}")
    assert len(said) < 500
    said.encode()
    assert [sample.step for _, sample in reader_of(root).read("3") if isinstance(sample, RawSample)] == [0, 2]
    assert reader_of(root).count("3") == 3


@pytest.mark.parametrize(
    ("content", "problem"),
    [(b"", "the file holds no action"), (b"\n \r\n", "the file holds no action"), (None, "the file is missing")],
)
def test_an_episode_without_actions_is_reported(root: Path, content: bytes | None, problem: str) -> None:
    write_episode(root / "3" / "20250309_000000")
    episode = write_episode(root / "3" / FIRST, content or b"")
    if content is None:
        (episode / "action.jsonl").unlink()
    assert problems(root) == [f"3/{FIRST}/action.jsonl:1: action.jsonl: {problem}"]
    assert reader_of(root).count("3") == 2


@pytest.mark.parametrize(
    ("survey", "problem"),
    [
        (None, "the file is missing"),
        (b"", "not valid JSON"),
        (b'{"app": "x"', "not valid JSON"),
        (b"[]", "expected a JSON object, found list"),
        (b'{"app": ["x"]}', "app: a text is needed, found list"),
        (b'{"app": "\\ud83d"}', "the text holds half of a surrogate pair"),
        (b"\xff\xff", "not valid JSON"),
        (b"9" * 5000, "not valid JSON"),
    ],
)
def test_each_action_of_an_episode_with_a_bad_survey_is_reported(
    root: Path, survey: bytes | None, problem: str
) -> None:
    write_episode(root / "3" / FIRST, [("1.jpg", CLICK), ("2.jpg", CLICK)], survey)
    said = problems(root)
    assert len(said) == 2
    for number, one in enumerate(said, start=1):
        assert one.startswith(f"3/{FIRST}/action.jsonl:{number}: survey_result.json: {problem}")


def test_a_survey_may_lack_keys_until_they_are_used(root: Path) -> None:
    write_episode(root / "3" / FIRST, survey={"app": None, "scenario": "", "time": 1741498279844})
    (sample,) = samples(root)
    assert sample.about == {"uid": "3", "time": "1741498279844", "content": "搜索"}
    assert problems(root, instruction="intent") == [
        f"3/{FIRST}/action.jsonl:1: intent: survey_result.json has no intentDescription, so there is no instruction"
    ]


def test_bad_screenshots_are_reported(root: Path, tmp_path: Path) -> None:
    names = ["good.jpg", "cut.jpg", "gone.jpg", "empty.jpg", "text.jpg", "loop.jpg", "folder.jpg"]
    episode = write_episode(root / "3" / FIRST, [(name, CLICK) for name in names])
    folder = episode / "Screenshots"
    (folder / "cut.jpg").write_bytes((folder / "cut.jpg").read_bytes()[:400])
    for name in names[2:]:
        (folder / name).unlink()
    (folder / "empty.jpg").touch()
    (folder / "text.jpg").write_text("a text")
    (folder / "loop.jpg").symlink_to("loop.jpg")
    (folder / "folder.jpg").mkdir()
    manifest, kept = prepared(root, tmp_path / "out", on_bad_sample="skip")
    assert len(kept) == 1
    assert [one["line"] for one in manifest["skipped_samples"]] == [2, 3, 4, 5, 6, 7]
    assert {one["field"] for one in manifest["skipped_samples"]} == {"image", "screenshot"}
    with pytest.raises(UserError, match=rf"3/{FIRST}/action.jsonl:2: image: .* cannot be decoded"):
        prepared(root, tmp_path / "out")


def test_a_click_outside_its_screenshot_and_another_frame_are_reported(root: Path, tmp_path: Path) -> None:
    inside = [(f"{number}.jpg", f"click(coordinates=({number}, {number}), content='x')") for number in range(20)]
    write_episode(root / "3" / FIRST, [*inside, ("99.jpg", "click(coordinates=(55, 1), content='x')")])
    with pytest.raises(UserError, match=rf"3/{FIRST}/action.jsonl:21: action: the point"):
        prepared(root, tmp_path / "out")
    far = [(f"{number}.jpg", f"click(coordinates=({number}00, 900), content='x')") for number in range(20)]
    write_episode(root / "4" / FIRST, far)
    with pytest.raises(UserError, match=r"the targets of user 4 are not in dataset\.frame: pixels"):
        prepared(root, tmp_path / "out", "4", on_bad_sample="skip")


def test_symbolic_links_are_followed(root: Path, tmp_path: Path) -> None:
    elsewhere = write_episode(tmp_path / "elsewhere" / FIRST)
    (root / "3").mkdir(parents=True)
    (root / "3" / FIRST).symlink_to(elsewhere)
    (root / "4").symlink_to(tmp_path / "elsewhere")
    (root / "5").symlink_to("nowhere")
    (root / "loop").symlink_to("loop")
    (root / "3" / "20250309_000000").symlink_to(root)
    assert reader_of(root).users() == ["3", "4"]
    assert len(samples(root, "4")) == 1
    assert [one.partition(":1: ")[2] for one in problems(root)] == ["action.jsonl: the file is missing"]


def test_a_pipe_is_not_read(root: Path) -> None:
    for name in ("action.jsonl", "survey_result.json"):
        episode = write_episode(root / "3" / f"20250309_00000{len(name) % 10}")
        (episode / name).unlink()
        os.mkfifo(episode / name)
    assert all(one.endswith(": this is not a file") for one in problems(root))
    assert len(problems(root)) == 2
    assert len(reader_of(root).sources("3")) == 2


def test_a_read_only_tree_is_prepared(root: Path, tmp_path: Path) -> None:
    write_users(root, [3, 4])
    folders = [root, *(path for path in root.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    before = sorted(root.rglob("*"))
    try:
        assert prepared(root, tmp_path / "out")[0]["samples"] == 1
        assert sorted(root.rglob("*")) == before
    finally:
        for folder in folders:
            folder.chmod(0o755)


def raw_data(root: Path, watch_images: WatchImages = "stat") -> RawData:
    return RawData(root, reader_of(root), watch_images)


@pytest.mark.parametrize(
    ("name", "watched"),
    [
        ("action.jsonl", {"stat", "content", "never"}),
        ("survey_result.json", {"stat", "content", "never"}),
        (f"Screenshots/{SHOT}", {"stat"}),
        ("Screenshots/1741498279844.xml", set()),
    ],
)
def test_planning_sees_what_changed(root: Path, name: str, watched: set[str]) -> None:
    episode = write_episode(root / "3" / FIRST)
    before = {how: raw_data(root, how).state("3") for how in ("stat", "content", "never")}
    assert {how for how, state in before.items() if raw_data(root, how).state("3") != state} == set()
    os.utime(episode / name, (1, 1))
    assert {how for how, state in before.items() if raw_data(root, how).state("3") != state} == watched


def test_planning_sees_new_and_removed_files(root: Path) -> None:
    episode = write_episode(root / "3" / FIRST)
    states = [raw_data(root).state("3")]
    write_screenshot(episode / "Screenshots" / "2.jpg")
    states.append(raw_data(root).state("3"))
    (episode / "Screenshots" / SHOT).unlink()
    states.append(raw_data(root).state("3"))
    write_episode(root / "3" / "20250309_000000")
    states.append(raw_data(root).state("3"))
    assert len(set(states)) == 4


def test_planning_opens_no_file(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_users(root, [3, 4], episodes=3)
    reader = reader_of(root)

    def refuse(path: Path, *_: Any) -> bytes:
        raise AssertionError(f"{path} was opened")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert isinstance(reader, ScansFiles)
    files = reader.scan("3")
    assert [len(files.sources), len(files.images)] == [6, 3]
    assert [file.path for file in files.sources] == sorted(str(path.relative_to(root)) for path in reader.sources("3"))

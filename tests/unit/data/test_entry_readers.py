"""What is particular to each format of JSON and JSON Lines, and how their samples are found in the files."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.calls import PREPARE
from tests.support.datasets import LAYOUTS, Layout, draw_screens, packed
from usertune.core.errors import UserError
from usertune.core.users import parse_users
from usertune.data import json_entries
from usertune.data.json_entries import entries_of, read_entry
from usertune.data.prepare import check_user
from usertune.data.reader import BadSampleError, RawSample
from usertune.data.readers.catalogue import get_reader
from usertune.data.recipe import PrepareRecipe
from usertune.data.samples import Sample
from usertune.data.user_of import user_id
from usertune.tasks.truth import Truth

JSON = st.recursive(
    st.none() | st.integers(-(10**30), 10**30) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.text(), JSON, max_size=3)


@given(st.data(), st.integers(1, 50), st.booleans(), st.sampled_from([None, 0, 3]))
def test_every_sample_of_a_list_is_found_again_at_its_place(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, block: int, ascii_only: bool, indent: int | None
) -> None:
    """Blocks of a few bytes cut samples, numbers and letters of several bytes anywhere."""
    lists = data.draw(st.lists(st.lists(OBJECTS, max_size=3), max_size=3))
    path = tmp_path_factory.mktemp("lists") / "a.json"
    path.write_text(json.dumps(lists, ensure_ascii=ascii_only, indent=indent), "utf-8", "surrogatepass")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_entries, "BLOCK", block)
        found = list(entries_of(path))
    wanted = [(group, at, value) for group, one in enumerate(lists, 1) for at, value in enumerate(one)]
    assert [(entry.group, entry.position, entry.value) for entry in found] == wanted
    assert [entry.number for entry in found] == list(range(1, len(wanted) + 1))
    with path.open("rb") as file:
        assert [read_entry(file, entry.start, entry.length, entry.item) for entry in found] == [
            value for _, _, value in wanted
        ]


@given(st.text() | st.integers() | st.floats())
def test_any_name_becomes_a_safe_id_or_is_refused_and_no_two_share_one(value: Any) -> None:
    try:
        found = user_id(value)
    except ValueError:
        return
    assert parse_users(found) == [found]
    assert user_id(found) == found
    assert user_id(f"{value}x") != found


def test_names_that_no_path_could_hold_are_mapped() -> None:
    assert user_id(7) == user_id("7") == user_id(7.0) == "7"
    assert user_id("alice") == "alice"
    for name in ("Google Chrome", "../x", "a/b", "1-3", "1,2", "007", "微信", "a\n", "x" * 100):
        assert re.fullmatch(r"[A-Za-z0-9_]{1,40}-[0-9a-f]{8}", user_id(name)), name


def checked(layout: Layout, root: Path, samples: Any, user: str = "all", **recipe: Any) -> list[Sample]:
    """Return the samples of a file with the given content."""
    draw_screens(root / "images", "1")
    path = layout.path(root)
    layout.dump(path, samples)
    options = {**layout.options, "user": user, **recipe.pop("options", {})}
    settings = {**PREPARE.as_json(), **layout.dataset, "options": options, **recipe}
    return check_user(PrepareRecipe.model_validate(settings), root, user).samples


def texts(sample: Sample) -> list[list[str]]:
    """Return the parts of each turn; an image is <>."""
    return [[part.get("text", "<>") for part in turn["content"]] for turn in sample["messages"]]


def qwen(question: str, *images: str, answer: str = "[500, 250]") -> dict[str, Any]:
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"image": [f"images/user_1/{name}.png" for name in images], "conversations": turns}


def test_images_of_qwen_json_are_put_where_they_are_named(tmp_path: Path) -> None:
    samples = [qwen("<image> a <image>\nb", "1", "2"), qwen("Where?", "3"), qwen("Where?")]
    first, second, third = checked(LAYOUTS["qwen"], tmp_path, samples)
    assert texts(first)[0] == ["<>", "a", "<>", "b"]
    assert [image["path"] for image in first["images"]] == ["images/user_1/1.png", "images/user_1/2.png"]
    assert texts(second)[0] == ["<>", "Where?"]
    assert texts(third)[0] == ["Where?"]
    assert [sample["id"] for sample in (first, second)] == ["train-1", "train-2"]


@pytest.mark.parametrize(
    ("sample", "problem"),
    [
        (qwen("<image> <image>", "1"), "image: 1 images, but the texts have 2 times <image>"),
        (qwen("<image>", "1", "2"), "image: 2 images, but the texts have 1 times <image>"),
        (qwen("<image>"), "image: 0 images, but the texts have 1 times <image>"),
        (qwen("<video>", "1"), r"conversations\[0\].value: '<video>' is in the text"),
        (qwen("a", "1", answer="nowhere"), r"conversations\[1\].value: .*no unambiguous point"),
        ({**qwen("a"), "video": "a.mp4"}, "video: videos are not supported"),
        ({"conversations": [{"from": "robot", "value": "a"}]}, r"conversations\[0\].from: 'robot' is not known"),
        ({"conversations": [{"from": "human", "value": 5}]}, r"conversations\[0\].value: a text is needed"),
        ({"conversations": [{"from": "human", "value": "a"}]}, "conversations: the last turn must be"),
    ],
)
def test_a_bad_sample_of_qwen_json_is_named_by_its_own_fields(
    tmp_path: Path, sample: dict[str, Any], problem: str
) -> None:
    with pytest.raises(UserError, match=f"train.json:2: {problem}"):
        checked(LAYOUTS["qwen"], tmp_path, [qwen("ok", "1"), sample])


@pytest.mark.parametrize("name", ["qwen", "qwen-lines"])
def test_packed_samples_are_read_one_by_one(tmp_path: Path, name: str) -> None:
    samples = checked(LAYOUTS[name], tmp_path, packed([qwen(f"{number}", "1") for number in range(3)]))
    assert [texts(sample)[0][1] for sample in samples] == ["0", "1", "2"]
    assert len({sample["id"] for sample in samples}) == 3


def swift(question: str, answer: str = "<bbox>", images: int = 1, **objects: Any) -> dict[str, Any]:
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    paths = [f"images/user_1/{number}.png" for number in range(1, images + 1)]
    return {"messages": turns, "images": paths, "objects": objects}


def test_objects_of_swift_are_written_into_the_texts_in_0_1000(tmp_path: Path) -> None:
    samples = [
        swift("<image><ref-object> at <bbox>?", ref=["the [box 0]"], bbox=[[20, 40, 40, 80], [50, 100]]),
        swift("<image>Where?", bbox=[[0.25, 0.25]], bbox_type="norm1"),
        swift("<image><image>Where?", images=2, bbox=[[50, 100]], image_id=[1]),
        swift("<image>Where?", answer="[250, 250]"),
    ]
    found = checked(LAYOUTS["swift"], tmp_path, samples)
    assert texts(found[0])[0] == ["<>", "the [box 0] at [100, 100, 200, 200]?"]
    assert [texts(sample)[1] for sample in found] == [["[250, 250]"]] * 4
    assert all(sample["target"]["point"] == [250, 250] for sample in found)


@pytest.mark.parametrize(
    ("sample", "problem"),
    [
        (swift("a <bbox>", bbox=[[1, 2]]), "objects.bbox: 1 of them, but the texts have 2 times <bbox>"),
        (swift("<ref-object>", bbox=[[1, 2]]), "objects.ref: 0 of them, but the texts have 1 times <ref-object>"),
        (swift("<ref-object>", ref=["<image>"], bbox=[[1, 2]]), r"objects.ref\[0\]: '<image>' is in the text"),
        (swift("a", bbox=[[1, 2, 3]]), r"objects.bbox\[0\]: 2 or 4 numbers are needed"),
        (swift("a", bbox=[[1, 2]], bbox_type="norm"), "objects.bbox_type: 'norm' is not known"),
        (swift("a", bbox=[[1, 2]], image_id=[1]), r"objects.image_id\[0\]: 1 is not the number of an image"),
        ({**swift("a", bbox=[[1, 2]]), "videos": ["a.mp4"]}, "videos: videos are not supported"),
    ],
)
def test_a_bad_sample_of_swift_is_named_by_its_own_fields(tmp_path: Path, sample: dict[str, Any], problem: str) -> None:
    with pytest.raises(UserError, match=f"train.jsonl:2: {problem}"):
        checked(LAYOUTS["swift"], tmp_path, [swift("ok", bbox=[[50, 100]]), sample])


def test_boxes_of_swift_in_another_frame_than_they_state_are_reported(tmp_path: Path) -> None:
    samples = [swift("a", bbox=[[0.1 * number, 0.3]]) for number in range(1, 6)]
    with pytest.raises(UserError, match="not in the frame that the data state, pixels: all 5 targets lie within 0-1"):
        checked(LAYOUTS["swift"], tmp_path, samples, on_bad_sample="skip")
    outside = [swift("a", bbox=[[50, 100]])] * 20 + [swift("a", bbox=[[500, 100]])]
    with pytest.raises(UserError, match=r"train.jsonl:21: objects.bbox\[0\]: the point \[500, 100\] lies outside"):
        checked(LAYOUTS["swift"], tmp_path, outside)


def test_screenspot_needs_to_know_what_its_boxes_are(tmp_path: Path) -> None:
    layout = LAYOUTS["screenspot"]
    layout.write(tmp_path)
    reader = get_reader("screenspot", tmp_path, {"images": layout.images})
    with pytest.raises(UserError, match=r"dataset.options.box is missing: say whether a box is xywh"):
        list(reader.read("all"))


def test_boxes_of_screenspot_and_what_is_known_of_samples_are_kept(tmp_path: Path) -> None:
    for name in ("screenspot", "screenspot-hub", "screenspot-pro"):
        layout = LAYOUTS[name]
        layout.write(tmp_path / name)
        recipe = PrepareRecipe.model_validate({**PREPARE.as_json(), **layout.dataset})
        first = check_user(recipe, tmp_path / name, layout.users[0]).samples[0]
        assert first["target"]["box"] == pytest.approx([200, 225, 300, 275]), name
        assert {"data_type", "application"} & set(first["about"])


def test_every_action_of_aitw_is_read_from_its_subset_and_episode(tmp_path: Path) -> None:
    base = {"img_filename": "a", "goal": "open the mail", "type_text": "", "touch": [0.5, 0.5], "lift": [0.5, 0.5]}
    steps = [
        {**base, "action_type_id": 4, "action_type_text": "click", "touch": [0.2, 0.4], "lift": [0.4, 0.4]},
        {**base, "action_type_id": 4, "action_type_text": "scroll down", "lift": [0.5, 0.1]},
        {**base, "action_type_id": 4, "action_type_text": "scroll left", "lift": [0.9, 0.4]},
        {**base, "action_type_id": 3, "action_type_text": "type", "type_text": "hi"},
        *({**base, "action_type_id": number} for number in (5, 6, 7, 10, 11)),
        {**base, "action_type_id": 99},
    ]
    (tmp_path / "aitw_data_test.json").write_text(json.dumps({"general": [steps[:3], steps[3:]], "single": [[base]]}))
    reader = get_reader("aitw", tmp_path, {"images": "images"})
    assert (reader.count("all"), set(reader.images("all"))) == (11, {"images/a.png"})
    found = [sample for _, sample in reader.read("all")]
    read = [sample for sample in found if isinstance(sample, RawSample)]
    assert [sample.truth for sample in read] == [
        Truth("click", point=(pytest.approx(0.3), 0.4)),  # type: ignore[arg-type]
        Truth("scroll", point=(0.5, 0.5), direction="up"),
        Truth("scroll", point=(0.5, 0.5), direction="right"),
        Truth("type", text="hi"),
        *(Truth("press", key=key) for key in ("back", "home", "enter")),
        Truth("finish"),
        Truth("finish", key="impossible"),
    ]
    assert [(sample.episode, sample.step) for sample in read[2:4]] == [
        ("aitw_data_test-general-1", 2),
        ("aitw_data_test-general-2", 0),
    ]
    assert {sample.about["subset"] for sample in read} == {"general"}
    assert [problem.field for problem in found if isinstance(problem, BadSampleError)] == ["action_type_id"] * 2


ANDROID: dict[str, Any] = {
    "episode_id": 7,
    "goal": "send the mail",
    "screenshots": [f"{number}.png" for number in range(12)],
    "step_instructions": [f"do {number}" for number in range(11)],
    "actions": [
        json.dumps({"action_type": "open_app", "app_name": "Gmail"}),
        {"action_type": "click", "x": 540, "y": 210},
        {"action_type": "long_press", "x": 1.5, "y": 0},
        {"action_type": "scroll", "direction": "down"},
        {"action_type": "scroll", "direction": "left"},
        {"action_type": "input_text", "text": "hi"},
        {"action_type": "type_text", "text": "you", "x": 1, "y": 2},
        {"action_type": "navigate_back"},
        {"action_type": "navigate_home"},
        {"action_type": "wait"},
        {"action_type": "status", "goal_status": "infeasible"},
    ],
}


def raw_samples(root: Path, entries: Any, **options: Any) -> list[RawSample | BadSampleError]:
    """Return the samples of the first user of a file of AndroidControl, good and bad."""
    (root / "episodes.json").write_text(json.dumps(entries))
    reader = get_reader("androidcontrol", root, options)
    (user,) = reader.users()
    found = [sample for _, sample in reader.read(user)]
    assert reader.count(user) == len(found)
    return found


def test_every_action_of_an_episode_of_androidcontrol_is_a_sample(tmp_path: Path) -> None:
    found = raw_samples(tmp_path, [ANDROID], images="images", user="app")
    read = [sample for sample in found if isinstance(sample, RawSample)]
    assert [sample.truth for sample in read] == [
        Truth("open_app", text="Gmail"),
        Truth("click", point=(540, 210)),
        Truth("long_press", point=(1.5, 0)),
        # The finger moves against the view.
        Truth("scroll", direction="up"),
        Truth("scroll", direction="right"),
        Truth("type", text="hi"),
        Truth("type", text="you"),
        Truth("press", key="back"),
        Truth("press", key="home"),
        Truth("wait"),
        Truth("finish", key="impossible"),
    ]
    assert [(sample.id, sample.episode, sample.step) for sample in read] == [(f"7-{n}", "7", n) for n in range(11)]
    assert [sample.image_paths for sample in read] == [[f"images/{number}.png"] for number in range(11)]
    assert [sample.messages[0]["content"][1]["text"] for sample in read] == ANDROID["step_instructions"]
    # The app is the one that the episode opens. The last screenshot shows the end and is no input.
    assert all(sample.about == {"app": "Gmail", "goal": "send the mail"} for sample in read)
    reader = get_reader("androidcontrol", tmp_path, {"images": "images", "user": "app"})
    assert set(reader.images("Gmail")) == {f"images/{number}.png" for number in range(11)}


def test_the_task_action_learns_the_steps_of_androidcontrol_in_its_own_words(tmp_path: Path) -> None:
    screens = [f"user_1/{number}.png" for number in (1, 2, 3, 1)]
    actions = [ANDROID["actions"][0], {"action_type": "click", "x": 50, "y": 300}, ANDROID["actions"][3]]
    entry = {**ANDROID, "screenshots": screens, "actions": actions, "step_instructions": ["a", "b", "c"]}
    samples = checked(LAYOUTS["androidcontrol"], tmp_path, [entry], task="action")
    assert [json.loads(texts(sample)[-1][0]) for sample in samples] == [
        {"action": "open", "text": "Gmail"},
        # Pixels of a screen of 200 x 400.
        {"action": "click", "coordinate": [250, 750]},
        {"action": "swipe", "direction": "up"},
    ]
    # The task grounding asks for the click alone.
    (click,) = checked(LAYOUTS["androidcontrol"], tmp_path, [entry])
    assert (click["id"], click["target"]["point"]) == ("7-1", [250, 750])


def test_androidcontrol_asks_for_the_goal_and_scrolls_by_the_finger_if_told(tmp_path: Path) -> None:
    entry = {key: value for key, value in ANDROID.items() if key != "step_instructions"}
    found = raw_samples(tmp_path, [entry], instruction="goal", scroll="finger")
    read = [sample for sample in found if isinstance(sample, RawSample)]
    assert {sample.messages[0]["content"][1]["text"] for sample in read} == {"send the mail"}
    assert [sample.truth.direction for sample in read[3:5] if sample.truth] == ["down", "left"]


def test_keys_of_androidcontrol_can_have_other_names(tmp_path: Path) -> None:
    step = {"ep": "e", "at": 4, "task": "t", "low": "tap", "img": "a.png", "act": {"action_type": "wait"}, "pkg": "x y"}
    names = {"episode_id": "ep", "step": "at", "goal": "task", "step_instruction": "low", "screenshot": "img"}
    (found,) = raw_samples(tmp_path, [step], keys={**names, "action": "act", "app": "pkg"}, user="pkg")
    assert isinstance(found, RawSample)
    assert (found.id, found.episode, found.step, found.truth) == ("e-4", "e", 4, Truth("wait"))
    assert found.image_paths == ["a.png"]
    assert (found.about["app"], found.about["goal"]) == ("x y", "t")
    with pytest.raises(UserError, match=r"dataset.options of the format androidcontrol: keys.image"):
        get_reader("androidcontrol", tmp_path, {"keys": {"image": "img"}})


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"actions": []}, "actions"),
        ({"actions": "x"}, "actions"),
        ({"screenshots": ["a.png"]}, "screenshots"),
        ({"screenshots": None}, "screenshots"),
        ({"screenshots": [None] * 12}, "screenshots[0]"),
        ({"step_instructions": ["a"]}, "step_instructions"),
        ({"step_instructions": [""] * 11}, "step_instructions[0]"),
        ({"episode_id": [1]}, "episode_id"),
        ({"id": "x" * 200}, "id"),
        ({"id": [1]}, "id"),
        ({"goal": []}, "goal"),
        ({"actions": [5] * 11}, "actions[0]"),
        ({"actions": ["{"] * 11}, "actions[0]"),
        ({"actions": [{"action_type": "fly"}] * 11}, "actions[0].action_type"),
        ({"actions": [{"action_type": ["click"]}] * 11}, "actions[0].action_type"),
        ({"actions": [{"action_type": "click", "x": 1}] * 11}, "actions[0].x, y"),
        ({"actions": [{"action_type": "click", "x": True, "y": 1}] * 11}, "actions[0].x, y"),
        ({"actions": [{"action_type": "scroll", "direction": "Up"}] * 11}, "actions[0].direction"),
        ({"actions": [{"action_type": "scroll", "direction": []}] * 11}, "actions[0].direction"),
        ({"actions": [{"action_type": "input_text"}] * 11}, "actions[0].text"),
        ({"actions": [{"action_type": "open_app", "text": "a"}] * 11}, "actions[0].app_name"),
        ({"actions": [{"action_type": "status"}] * 11}, "actions[0].goal_status"),
    ],
)
def test_a_bad_episode_of_androidcontrol_is_named_by_its_field(
    tmp_path: Path, changed: dict[str, Any], field: str
) -> None:
    first = raw_samples(tmp_path, [{**ANDROID, **changed}])[0]
    assert isinstance(first, BadSampleError)
    assert first.field == field


def test_one_bad_action_leaves_the_other_steps_of_its_episode(tmp_path: Path) -> None:
    actions = [*ANDROID["actions"][:10], {"action_type": "fly"}]
    *good, bad = raw_samples(tmp_path, [{**ANDROID, "actions": actions}, {**ANDROID, "episode_id": 8}])[:11]
    assert all(isinstance(sample, RawSample) for sample in good)
    assert isinstance(bad, BadSampleError)


def test_an_episode_that_names_no_app_is_a_bad_sample_of_every_app(tmp_path: Path) -> None:
    entries = [ANDROID, {**ANDROID, "episode_id": 8, "actions": ANDROID["actions"][1:]}]
    *_, last = raw_samples(tmp_path, entries, user="app")
    assert isinstance(last, BadSampleError)
    assert last.field == "app"


def test_one_file_of_messages_keeps_listed_keys_and_refuses_others(tmp_path: Path) -> None:
    layout = LAYOUTS["messages-table"]
    layout.write(tmp_path)
    recipe = PrepareRecipe.model_validate({**PREPARE.as_json(), **layout.dataset})
    assert check_user(recipe, tmp_path, "2").samples[0]["about"] == {"app": "Mail"}
    strict = recipe.model_copy(update={"options": {"file": layout.file}})
    with pytest.raises(UserError, match=r"samples.jsonl:1: app: unknown key; .*add it to dataset.options.about"):
        check_user(strict, tmp_path, "1")


def test_a_file_of_many_users_is_looked_through_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = LAYOUTS["messages-table"]
    layout.write(tmp_path)
    lines = [json.loads(line) for line in layout.path(tmp_path).read_text().splitlines()]
    layout.dump(layout.path(tmp_path), [{**line, "user": user} for user in range(50) for line in lines])
    looks = []

    def counted(path: Path, parts: bool = False) -> Any:
        looks.append(path)
        return entries_of(path, parts)

    monkeypatch.setattr("usertune.data.entry_reader.entries_of", counted)
    reader = get_reader(layout.format, tmp_path, layout.options)
    for user in reader.users():
        assert (reader.count(user), len(list(reader.read(user)))) == (6, 6)
        assert len(reader.images(user)) == 6
    assert len(looks) == 1


@pytest.mark.parametrize("options", [{"images": "/x"}, {"images": "../x"}, {"files": "/etc/*"}, {"files": ["../*"]}])
def test_options_cannot_lead_out_of_the_root(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"dataset.options of the format qwen: "):
        get_reader("qwen", tmp_path, options)

"""Actions of raw data become answers and targets in 0-1000, written by the task; other actions are counted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from usertune.core.errors import UserError
from usertune.data import prepare
from usertune.data.frames import convert_truth
from usertune.data.reader import BadSampleError, Location, NoOptions, RawSample
from usertune.data.recipe import PrepareRecipe
from usertune.data.turns import text_of
from usertune.tasks.grounding import GroundingTask
from usertune.tasks.truth import Truth

SIZE = (1080, 2400)


class Given:
    """A reader of one user whose samples a test gives."""

    looks_for = "samples"
    Options = NoOptions

    def __init__(self, root: Path, *samples: RawSample) -> None:
        self.root, self.raw = root, samples

    def users(self) -> list[str]:
        return ["7"]

    def sources(self, user: str) -> list[Path]:
        return [self.root / "screen.png"]

    def images(self, user: str) -> set[str]:
        return {"screen.png"}

    def count(self, user: str) -> int:
        return len(self.raw)

    def read(self, user: str) -> Iterator[tuple[Location, RawSample | BadSampleError]]:
        for number, sample in enumerate(self.raw, start=1):
            yield Location(self.root / "actions", number), sample


def done(truth: Truth, name: str = "a", **about: str | int) -> RawSample:
    content: Any = [{"type": "image"}, {"type": "text", "text": "Open the mail"}]
    return RawSample(name, name, 0, [{"role": "user", "content": content}], ["screen.png"], truth=truth, about=about)


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    Image.new("RGB", SIZE, "red").save(tmp_path / "screen.png")

    def run(*samples: RawSample, **recipe: Any) -> prepare.Checked:
        monkeypatch.setattr(prepare, "get_reader", lambda *_: Given(tmp_path, *samples))
        settings = {"step": "prepare", "task": "grounding", "frame": "pixels", **recipe}
        return prepare.check_user(PrepareRecipe.model_validate(settings), tmp_path, "7")

    return run


def test_a_click_becomes_an_answer_and_a_target_in_0_to_1000(check: Any) -> None:
    truth = Truth(point=(336, 1267), box=(216, 1200, 432, 1320), element="Mail")
    (sample,) = check(done(truth, app="Mail", opened=3)).samples
    assert text_of(sample["messages"][-1]) == "```referring\nMail\n```\n```grounding\n[311.1, 527.9]\n```"
    assert sample["target"] == {"point": [311.1, 527.9], "box": [200, 500, 400, 550]}
    assert sample["about"] == {"app": "Mail", "opened": 3}


def test_a_box_alone_is_answered_by_its_centre(check: Any) -> None:
    (sample,) = check(done(Truth(box=(0, 0, 216, 480)))).samples
    assert sample["target"] == {"point": [100, 100], "box": [0, 0, 200, 200]}
    assert text_of(sample["messages"][-1]) == "```grounding\n[100, 100]\n```"


def test_actions_that_the_task_does_not_ask_for_are_counted_and_their_images_stay_closed(check: Any) -> None:
    unseen = done(Truth("scroll", point=(5, 5), direction="up"), "b")
    unseen.image_paths = ["missing.png"]
    checked = check(done(Truth(point=(5, 5))), unseen, done(Truth("wait"), "c"), done(Truth("wait"), "d"))
    assert [sample["id"] for sample in checked.samples] == ["a"]
    assert checked.not_asked == {"scroll": 1, "wait": 2}
    assert not checked.problems


def test_a_user_with_other_actions_only_is_an_error_that_counts_them(check: Any) -> None:
    with pytest.raises(UserError, match=r"no good sample of user 7 .*task grounding does not ask for 1 wait"):
        check(done(Truth("wait")))


@pytest.mark.parametrize(
    ("truth", "problem"),
    [
        (Truth(), "neither a point nor a box"),
        (Truth(point=(1081, 5)), r"the point \[1081, 5\] lies outside the image of 1080 x 2400 pixels"),
        (Truth(box=(0, 0, 1081, 5)), r"right bottom corner \[1081, 5\] lies outside"),
        (Truth(box=(9, 0, 8, 5)), "is not left, top, right, bottom"),
        (Truth(point=(float("nan"), 5)), "lies outside"),
        (Truth(point=(5, float("inf"))), "lies outside"),
    ],
)
def test_an_action_that_cannot_be_used_is_reported_by_file_and_number(check: Any, truth: Truth, problem: str) -> None:
    with pytest.raises(UserError, match=f"actions:2: action: .*{problem}"):
        check(done(Truth(point=(5, 5)), "good"), done(truth))


def test_clicks_in_another_frame_than_declared_are_reported(check: Any) -> None:
    with pytest.raises(UserError, match=r"not in dataset.frame: pixels.*lie within 0-1.*set dataset.frame: relative_1"):
        check(*(done(Truth(point=(0.3, index / 20)), f"a{index}") for index in range(20)))


def test_the_prompt_of_the_study_uses_what_is_known_of_the_sample(check: Any) -> None:
    prompt = {"system": "You use {about.app}.", "user": "In {about.app}: {text} Braces {stay}."}
    (sample,) = check(done(Truth(point=(5, 5)), app="Mail {text}"), prompt=prompt).samples
    assert text_of(sample["messages"][0]) == "You use Mail {text}."
    assert text_of(sample["messages"][1]) == "In Mail {text}: Open the mail Braces {stay}."


@pytest.mark.parametrize(
    ("about", "problem"),
    [
        ({}, r"about: the prompt of the study uses \{about.app\}, which this sample lacks; nothing else is known"),
        ({"intent": "x"}, "which this sample lacks; it has intent"),
        ({"app": "a <image> b"}, "about.app: .*<image>.* is in the text"),
    ],
)
def test_a_prompt_that_does_not_fit_a_sample_is_reported(check: Any, about: dict[str, str], problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        check(done(Truth(point=(5, 5)), **about), prompt={"user": "{about.app}: {text}"})


@given(st.integers(1, 6000), st.integers(1, 6000), st.lists(st.floats(0, 1), min_size=4, max_size=4), st.booleans())
def test_a_converted_box_keeps_its_order_and_its_centre_is_the_point_of_the_answer(
    width: int, height: int, shares: list[float], pixels: bool
) -> None:
    (left, right), (top, bottom) = sorted(shares[:2]), sorted(shares[2:])
    extent = (width, height) if pixels else (1, 1)
    box = (left * extent[0], top * extent[1], right * extent[0], bottom * extent[1])
    found = convert_truth(Truth(box=box), "pixels" if pixels else "relative_1", (width, height))
    assert found.box == pytest.approx([left * 1000, top * 1000, right * 1000, bottom * 1000], abs=0.051)
    assert found.box[0] <= found.box[2]
    assert found.box[1] <= found.box[3]
    task = GroundingTask()
    target = task.target_from_truth(found)
    assert task.read_target(target)[:2] == pytest.approx(
        found.place, abs=0.51 if max(found.place or (0, 0)) <= 1 else 0.051
    )

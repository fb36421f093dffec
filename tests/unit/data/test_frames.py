"""Coordinate frames: targets and trained answers are converted, and a wrong declaration is reported."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.support.calls import prepare_one
from usertune.core.errors import UserError
from usertune.data.frames import Reading, convert_answer, frame_problem, looks_like_fraction, read_point
from usertune.data.samples import read_samples
from usertune.tasks.grounding import GroundingTask

PHONE = (1080, 2400)
SCALES = {"relative_1000": (1000, 1000), "pixels": PHONE, "relative_1": (1, 1)}
PARSE = GroundingTask().parse
Point = tuple[float, float]
Prepare = Callable[..., tuple[dict[str, Any], list[Any]]]


def block(*numbers: float, referring: str = "the icon 'Send 2'") -> str:
    return f"```referring\n{referring}\n```\n```grounding\n{list(numbers)}\n```"


def set_of(points: list[Point], size: tuple[int, int] | None = PHONE) -> list[Reading]:
    return [Reading(line, point, size) for line, point in enumerate(points, start=1)]


def anywhere(number: int, seed: int) -> list[Point]:
    """Points of a user who taps anywhere, as shares of the screen."""
    random_ = random.Random(seed)
    return [(random_.random(), random_.random()) for _ in range(number)]


def in_frame(points: list[Point], width: float, height: float, digits: int = 0) -> list[Point]:
    return [(round(x * width, digits), round(y * height, digits)) for x, y in points]


# ---- conversion


@pytest.mark.parametrize(
    ("frame", "numbers", "expected"),
    [
        ("relative_1", [0.3115, 0.5412], "[311.5, 541.2]"),
        ("relative_1", [1, 0], "[1000, 0]"),
        ("relative_1", [0.25, 0.5, 0.75, 1], "[250, 500, 750, 1000]"),
        ("pixels", [540, 1200], "[500, 500]"),
        ("pixels", [336, 1267], "[311.1, 527.9]"),
        ("pixels", [1080, 2400], "[1000, 1000]"),
        ("pixels", [1, 1], "[1, 0]"),
        ("pixels", [108, 240, 216, 480], "[100, 100, 200, 200]"),
    ],
)
def test_an_answer_is_written_in_0_to_1000(frame: str, numbers: list[float], expected: str) -> None:
    text = block(*numbers)
    point = read_point(text, PARSE, frame)
    assert point is not None
    converted = convert_answer(text, point, frame, PHONE)
    assert converted == f"```referring\nthe icon 'Send 2'\n```\n```grounding\n{expected}\n```"


@given(st.integers(1, 6000), st.integers(1, 6000), st.floats(0, 1), st.floats(0, 1), st.booleans())
def test_a_converted_answer_parses_to_its_point(width: int, height: int, x: float, y: float, pixels: bool) -> None:
    frame, size = ("pixels", (width, height)) if pixels else ("relative_1", (1, 1))
    x, y = round(x * size[0], 3), round(y * size[1], 3)
    text = block(x, y)
    point = read_point(text, PARSE, frame)
    assert point == pytest.approx((x, y), abs=1e-6)
    converted = convert_answer(text, point, frame, size)
    parsed = PARSE(converted)
    assert parsed is not None
    assert not looks_like_fraction(parsed)
    assert parsed == pytest.approx((x / size[0] * 1000, y / size[1] * 1000), abs=0.5 if max(parsed) <= 1 else 0.051)


@pytest.mark.parametrize(
    ("frame", "numbers", "size", "said"),
    [
        ("pixels", (1081, 5), PHONE, r"\[1081, 5\] lies outside the image of 1080 x 2400 pixels"),
        ("pixels", (-1, 5), PHONE, "outside the image"),
        ("relative_1", (0.5, 1.01), PHONE, "outside 0-1"),
        ("pixels", (5, 5), None, "no image"),
    ],
)
def test_a_point_outside_is_refused(frame: str, numbers: Point, size: tuple[int, int] | None, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        convert_answer(block(*numbers), numbers, frame, size)


# ---- judging a complete set

WRONG = {
    # declared, what the data are, how many samples show it, what is said
    "fractions": ("relative_1000", (1, 1, 4), PHONE, 1, "relative_1"),
    "fractions among pixels": ("pixels", (1, 1, 4), PHONE, 1, "relative_1"),
    "pixels of a phone": ("relative_1000", (*PHONE, 0), PHONE, 30, "pixels"),
    "pixels of a tablet": ("relative_1000", (1280, 800, 0), (1280, 800), 60, "pixels"),
    "pixels of small images": ("relative_1000", (224, 448, 0), (224, 448), 60, "pixels"),
    "pixels of larger images": ("relative_1000", (*PHONE, 0), (540, 1200), 30, "another size"),
    "pixels without images": ("relative_1000", (*PHONE, 0), None, 30, "another size"),
    "percentages": ("relative_1000", (100, 100, 1), PHONE, 40, "percentages"),
    "percentages for pixels": ("pixels", (100, 100, 1), PHONE, 40, "percentages"),
    "0-1000 for 0-1": ("relative_1", (1000, 1000, 0), PHONE, 1, "relative_1000"),
    "pixels for 0-1": ("relative_1", (*PHONE, 0), PHONE, 30, "pixels"),
    "pixels of small images for 0-1": ("relative_1", (224, 448, 0), (224, 448), 60, "pixels"),
    "percentages for 0-1": ("relative_1", (100, 100, 1), PHONE, 40, "percentages"),
    "0-1000 for pixels": ("pixels", (1000, 1000, 0), PHONE, 80, "relative_1000"),
    "0-1000 for pixels of small images": ("pixels", (1000, 1000, 0), (540, 960), 30, "relative_1000"),
    "pixels of other images": ("pixels", (*PHONE, 0), (540, 1200), 30, "another size"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_set_in_another_frame_is_refused_and_the_frame_named(name: str) -> None:
    declared, (width, height, digits), size, enough, said = WRONG[name]
    for seed in range(20):
        for number in (enough, 2 * enough, 500):
            points = in_frame(anywhere(number, seed), width, height, digits)
            problem = frame_problem(set_of(points, size), declared)
            assert problem is not None, (seed, number)
            assert said in problem
            if not problem.endswith(("percentages: multiply them by 10 (relative_1000)", "scale them to the images")):
                assert f"set dataset.frame: {said}" in problem


@pytest.mark.parametrize(("frame", "scale"), SCALES.items())
@given(number=st.integers(1, 300), seed=st.integers(0, 10**6))
def test_users_who_tap_anywhere_pass(frame: str, scale: tuple[int, int], number: int, seed: int) -> None:
    points = in_frame(anywhere(number, seed), *scale, digits=3 if frame == "relative_1" else 0)
    assert frame_problem(set_of(points), frame) is None


@given(st.integers(1, 300), st.integers(0, 10**6), st.sampled_from([PHONE, (224, 448), (540, 960), None]))
def test_users_who_tap_one_corner_pass(number: int, seed: int, size: tuple[int, int] | None) -> None:
    # The back arrows and menus of many apps, in 0-1000.
    points = [(30 + x * 40, 25 + y * 40) for x, y in anywhere(number, seed)]
    assert frame_problem(set_of([(round(x), round(y)) for x, y in points], size), "relative_1000") is None


@given(st.lists(st.tuples(st.integers(2, 1000), st.integers(2, 1000)), min_size=1, max_size=3))
def test_few_samples_pass(points: list[Point]) -> None:
    for size in (PHONE, (1280, 800), (224, 448)):
        assert frame_problem(set_of(points, size), "relative_1000") is None


@pytest.mark.parametrize("points", [[(0, 0)], [(1, 1)], [(0, 0), (1, 1), (0, 1)], [(500, 0.5)], [(0, 999.5)]])
def test_a_corner_of_the_screen_alone_passes(points: list[Point]) -> None:
    for frame in ("relative_1000", "pixels"):
        assert frame_problem(set_of(points), frame) is None


def test_a_sample_without_an_image_hides_no_wrong_frame() -> None:
    for declared, scale, size in (("relative_1000", (224, 448), (224, 448)), ("pixels", (1000, 1000), PHONE)):
        readings = set_of(in_frame(anywhere(100, 2), *scale), size)
        readings[0] = readings[0]._replace(size=None)
        assert frame_problem(readings, declared) is not None


def test_slips_are_bad_samples_and_no_other_frame() -> None:
    good = in_frame(anywhere(50, 1), 1000, 1000)
    assert frame_problem(set_of([*good, (5000, 3), (1200, 7)]), "relative_1000") is None
    assert frame_problem(set_of([*good, (0.5, 0.5), (0.25, 1)]), "relative_1000") is None
    assert "8 of 58 targets lie beyond 1000" in str(
        frame_problem(set_of([*good, *[(1080.0, 2000.0 + n) for n in range(8)]]), "relative_1000")
    )


# ---- through the preparation of a user


@pytest.fixture
def prepare(tmp_path: Path) -> Prepare:
    """Prepare user 7 from answers, each with its image."""
    Image.new("RGB", PHONE, "red").save(tmp_path / "a.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (2400, 1080), "red").save(tmp_path / "rotated.jpg", exif=exif)
    Image.new("RGB", (500, 500), "red").save(tmp_path / "square.png")

    def run(*answers: Any, frame: str | None = None, on_bad_sample: str = "error", image: str = "a.png") -> Any:
        lines = []
        for answer in answers:
            messages = answer if isinstance(answer, list) else [ask(image), {"role": "assistant", "content": answer}]
            lines.append(json.dumps({"messages": messages}))
        (tmp_path / "user_7.jsonl").write_text("\n".join(lines))
        recipe = {"on_bad_sample": on_bad_sample} | ({"frame": frame} if frame else {})
        samples = tmp_path / "out" / "user_7.jsonl"
        manifest = prepare_one(tmp_path, "7", samples, tmp_path / "out" / "user_7.manifest.json", **recipe)
        return manifest, read_samples(samples, "7")

    return run


def ask(image: str | None, text: str = "Where?") -> dict[str, Any]:
    parts: list[dict[str, Any]] = [{"type": "image", "image": image}] if image else []
    return {"role": "user", "content": [*parts, {"type": "text", "text": text}]}


def answer_of(sample: Any, turn: int = -1) -> str:
    return "".join(part["text"] for part in sample["messages"][turn]["content"])


@pytest.mark.parametrize("image", ["a.png", "rotated.jpg"])
def test_pixels_are_those_of_the_upright_image(prepare: Prepare, image: str) -> None:
    _, samples = prepare(block(540, 1200), block(108, 2400), frame="pixels", image=image)
    assert [sample["target"] for sample in samples] == [{"point": [500, 500]}, {"point": [100, 1000]}]
    assert answer_of(samples[1]).endswith("```grounding\n[100, 1000]\n```")


@pytest.mark.parametrize("frame", ["pixels", "relative_1", "relative_1000"])
def test_the_trained_answer_parses_to_the_target_and_the_three_frames_agree(prepare: Prepare, frame: str) -> None:
    scale = SCALES[frame]
    points = [(round(x, 2), round(y, 2)) for x, y in anywhere(30, 3)]
    _, samples = prepare(*[block(round(x * scale[0], 2), round(y * scale[1], 2)) for x, y in points], frame=frame)
    for (x, y), sample in zip(points, samples, strict=True):
        assert sample["target"]["point"] == pytest.approx([x * 1000, y * 1000], abs=0.051)
        assert list(PARSE(answer_of(sample)) or ()) == sample["target"]["point"]
        assert answer_of(sample).startswith("```referring\nthe icon 'Send 2'\n```\n")


def test_earlier_answers_are_converted_by_their_own_screens(prepare: Prepare) -> None:
    talk = [
        *(ask("square.png"), {"role": "assistant", "content": block(250, 500)}),
        *(ask(None, "Tell me why."), {"role": "assistant", "content": "It looked right."}),
        *(ask("a.png"), {"role": "assistant", "content": block(270, 600)}),
    ]
    _, (sample,) = prepare(talk, frame="pixels")
    assert answer_of(sample, 1).endswith("[500, 1000]\n```")
    assert answer_of(sample, 3) == "It looked right."
    assert sample["target"] == {"point": [250, 250]}


def test_other_forms_of_an_answer_are_written_as_a_block(prepare: Prepare) -> None:
    _, samples = prepare("(540, 1200)", '{"x": 540, "y": 1200}', "[108, 240, 972, 2160]", frame="pixels")
    assert [sample["target"] for sample in samples] == [{"point": [500, 500]}] * 3
    assert [answer_of(sample) for sample in samples] == [
        *["```grounding\n[500, 500]\n```"] * 2,
        "```grounding\n[100, 100, 900, 900]\n```",
    ]


def test_without_a_frame_answers_stay_as_they_are(prepare: Prepare) -> None:
    _, (sample,) = prepare("Tap (540, 120) please")
    assert (answer_of(sample), sample["target"]) == ("Tap (540, 120) please", {"point": [540, 120]})


@pytest.mark.parametrize("on_bad_sample", ["error", "skip"])
def test_a_whole_set_in_another_frame_is_an_error_whatever_is_done_with_bad_samples(
    prepare: Prepare, on_bad_sample: str
) -> None:
    pixels = in_frame(anywhere(30, 5), *PHONE)
    assert sum(y <= 1000 for _, y in pixels) > 5
    with pytest.raises(UserError, match=r"user_7.jsonl: the targets of user 7 .*set dataset.frame: pixels") as caught:
        prepare(*[block(*point) for point in pixels], on_bad_sample=on_bad_sample)
    assert "dataset.frame: relative_1000" in str(caught.value)
    with pytest.raises(
        UserError, match=r"all 1 targets lie within 0-1.*\[0.1, 0.1\] in line 1.*dataset.frame: relative_1"
    ):
        prepare(block(0.1, 0.1), on_bad_sample=on_bad_sample)
    with pytest.raises(UserError, match=r"all 2 targets lie within 0-1.*set dataset.frame: relative_1"):
        prepare(block(0.1, 0.1), block(1, 1), frame="pixels", on_bad_sample=on_bad_sample)


def test_a_single_fraction_among_others_is_a_bad_sample(prepare: Prepare) -> None:
    good = [block(*point) for point in in_frame(anywhere(20, 6), 1000, 1000)]
    with pytest.raises(UserError, match=r"user_7.jsonl:21: messages\[1\].content: .*0\.1"):
        prepare(*good, block(0.1, 0.1))
    manifest, _ = prepare(*good, block(0.1, 0.1), on_bad_sample="skip")
    assert [item["line"] for item in manifest["skipped_samples"]] == [21]
    manifest, _ = prepare(block(0, 0), block(1, 1))
    assert manifest["samples"] == 2

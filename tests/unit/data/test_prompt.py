"""The study's prompt is added to every sample; nothing else in the sample changes."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.support.calls import prepare_one
from usertune.data.prompt import put_prompt
from usertune.data.reader import RawSample
from usertune.data.readers.messages import parse_line
from usertune.data.samples import Sample, Turn, read_user, request_digest

IMAGE = {"type": "image", "image": "images/a.png"}
ANSWER = {"role": "assistant", "content": "```grounding\n[311.5, 541.2]\n```"}
WORDS = st.text("ab {}text\n", max_size=12)


def text(words: str) -> dict[str, str]:
    return {"type": "text", "text": words}


def user(*parts: dict[str, str]) -> dict[str, Any]:
    return {"role": "user", "content": list(parts)}


def prompted(turns: list[dict[str, Any]], **prompt: Any) -> list[Turn]:
    """Return the turns before the answer, with a prompt around them."""
    sample = parse_line(json.dumps({"messages": [*turns, ANSWER]}), "7", 1)
    before = copy.deepcopy(sample)
    put_prompt(sample, **prompt)
    assert sample.messages[-1] == before.messages[-1]
    assert replaced(sample, messages=[]) == replaced(before, messages=[])
    return sample.messages[:-1]


def replaced(sample: RawSample, messages: list[Turn]) -> RawSample:
    return RawSample(sample.id, sample.episode, sample.step, messages, sample.image_paths, sample.numbers)


QUESTION = user(IMAGE, text("Where is mail?"))


def test_the_user_text_goes_around_that_of_the_sample() -> None:
    (turn,) = prompted([QUESTION], user="Look closely. {text} Answer with a point.")
    assert turn == {
        "role": "user",
        "content": [{"type": "image"}, text("Look closely. Where is mail? Answer with a point.")],
    }


def test_it_goes_around_all_texts_of_the_turn() -> None:
    (turn,) = prompted([user(text("one"), IMAGE, text("two"), text("three"))], user="<{text}>")
    assert [part.get("text") for part in turn["content"]] == ["<one", None, "two", "three>"]


def test_a_turn_without_text_gets_one_after_its_images() -> None:
    (turn,) = prompted([user(IMAGE)], user="What is {text}here?")
    assert turn["content"] == [{"type": "image"}, text("What is here?")]
    assert prompted([user(IMAGE)], user="{text}")[0]["content"] == [{"type": "image"}]


def test_only_the_turn_that_asks_for_the_answer_changes() -> None:
    earlier = [user(text("first")), {"role": "assistant", "content": "no"}, user(text("second"))]
    turns = prompted(earlier, user="-{text}-")
    assert [turn["content"][0]["text"] for turn in turns] == ["first", "no", "-second-"]


def test_braces_in_a_sample_stay_as_they_are() -> None:
    assert prompted([user(text("{text} {0} %s"))], user="{text}!")[0]["content"] == [text("{text} {0} %s!")]


def test_the_system_text_replaces_that_of_the_sample_and_keeps_its_image() -> None:
    own = {"role": "system", "content": [text("Be brief."), {**IMAGE, "image": "images/b.png"}]}
    turns = prompted([own, QUESTION], system="Be exact.")
    assert turns[0] == {"role": "system", "content": [text("Be exact.")]}
    assert [turn["role"] for turn in turns] == ["system", "user"]
    assert [part["type"] for part in turns[1]["content"]] == ["image", "image", "text"]
    assert prompted([QUESTION], system="Be exact.")[0] == turns[0]


def test_an_image_of_a_system_turn_before_the_answer_becomes_a_user_turn() -> None:
    """The samples of the reference experiment: a system turn with the image, then the answer."""
    own = {"role": "system", "content": [IMAGE, text("Point at what is tapped next.")]}
    assert prompted([own]) == [
        {"role": "system", "content": [text("Point at what is tapped next.")]},
        {"role": "user", "content": [{"type": "image"}]},
    ]
    assert prompted([own], user="{text}Answer with a point.")[1]["content"] == [
        {"type": "image"},
        text("Answer with a point."),
    ]
    assert prompted([own], system="Be exact.")[0]["content"] == [text("Be exact.")]
    # A system turn without any text is no turn.
    assert [turn["role"] for turn in prompted([{"role": "system", "content": [IMAGE]}])] == ["user"]
    earlier = [own, {"role": "assistant", "content": "Here."}, user(text("And now?"))]
    assert [turn["role"] for turn in prompted(earlier)] == ["system", "user", "assistant", "user"]


@pytest.mark.parametrize("prompt", [{}, {"system": None}, {"system": None, "user": "{text}"}])
def test_without_a_prompt_a_sample_stays_as_it_is(prompt: dict[str, str | None]) -> None:
    system = {"role": "system", "content": [text("Be brief.")]}
    for turns in ([QUESTION], [system, QUESTION], [user(IMAGE)], [user(text("a"), text("b"))]):
        assert prompted(turns, **prompt) == prompted(turns)
        assert [turn["role"] for turn in prompted(turns)] == [turn["role"] for turn in turns]


@given(st.lists(WORDS | st.none(), min_size=1, max_size=4), WORDS, WORDS)
def test_texts_are_kept_in_order_between_what_comes_before_and_after(
    words: list[str | None], before: str, after: str
) -> None:
    before, after = before.replace("{text}", ""), after.replace("{text}", "")
    parts = [IMAGE if word is None else text(word) for word in words]
    (turn,) = prompted([user(*parts)], user=f"{before}{{text}}{after}")
    joined = "".join(part.get("text", "") for part in turn["content"])
    assert joined == before + "".join(word or "" for word in words) + after
    kinds = [part["type"] for part in turn["content"]]
    added = ["text"] if kinds.count("text") > sum(word is not None for word in words) else []
    assert kinds == [part["type"] for part in parts] + added


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """User 7 with two samples; the second has a system turn."""
    (tmp_path / "images").mkdir()
    Image.new("RGB", (96, 160), "red").save(tmp_path / "images" / "a.png")
    system = {"role": "system", "content": "Be brief."}
    samples = [{"messages": [QUESTION, ANSWER]}, {"messages": [system, QUESTION, ANSWER]}]
    (tmp_path / "user_7.jsonl").write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    return tmp_path


def prepared(dataset: Path, prompt: dict[str, str | None] | None) -> tuple[dict[str, Any], list[Sample]]:
    recipe = {} if prompt is None else {"prompt": prompt}
    out = dataset / "out"
    prepare_one(dataset, "7", out / "user_7.jsonl", out / "user_7.manifest.json", **recipe)
    return read_user(out / "user_7.manifest.json")


def test_prepared_samples_have_the_prompt_and_are_other_requests(dataset: Path) -> None:
    plain, before = prepared(dataset, None)
    manifest, after = prepared(dataset, {"system": "Be exact.", "user": "Please: {text}"})
    assert manifest["fingerprint"] != plain["fingerprint"]
    for sample, old in zip(after, before, strict=True):
        assert [turn["role"] for turn in sample["messages"]] == ["system", "user", "assistant"]
        assert sample["messages"][0]["content"] == [text("Be exact.")]
        assert sample["messages"][1]["content"] == [{"type": "image"}, text("Please: Where is mail?")]
        unchanged = ("id", "user", "episode", "step", "images", "target")
        assert [sample[key] for key in unchanged] == [old[key] for key in unchanged]  # type: ignore[literal-required]
        assert request_digest(sample) != request_digest(old)
    assert request_digest(after[0]) == request_digest(after[1])


def test_a_prompt_that_says_nothing_leaves_the_same_samples(dataset: Path) -> None:
    plain, before = prepared(dataset, None)
    manifest, after = prepared(dataset, {"system": None, "user": "{text}"})
    assert after == before
    assert manifest["files"] == plain["files"]

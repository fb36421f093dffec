"""History in prompts: which samples it has, in which order, and that nothing of the question's fold is among them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.synthetic_study import BASE, SyntheticStudy
from usertune.checks.estimates.samples import Lengths, SampleSize
from usertune.checks.freshness import Freshness
from usertune.checks.stored import count_stored, only_to_collect
from usertune.core.errors import UserError
from usertune.core.manifest import read_result
from usertune.data.folds import FoldSettings, folds_of
from usertune.data.samples import Sample, request_digest
from usertune.inference.context import with_context
from usertune.inference.recipe import ContextSettings, PredictRecipe
from usertune.models.recipe import Pixels

FOLDS = FoldSettings(count=3, by="episode", seed=0)
BY_TIME = FoldSettings(count=2, by="time", seed=0)


def sample(identity: str, episode: str, user: str = "7", system: str = "", text: str = "") -> Sample:
    first: list[Any] = [{"role": "system", "content": [{"type": "text", "text": system}]}] if system else []
    return {
        "id": identity,
        "user": user,
        "episode": episode,
        "step": 0,
        "messages": [
            *first,
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text or f"Q {identity}"}]},
            {"role": "assistant", "content": [{"type": "text", "text": f"A {identity}"}]},
        ],
        "images": [{"path": f"{identity}.png", "sha256": f"image of {text or identity}", "width": 9, "height": 9}],
        "target": {"point": [1, 2]},
    }


def of_sizes(sizes: list[int], user: str = "7") -> list[Sample]:
    names = [(episode, step) for episode, size in enumerate(sizes) for step in range(size)]
    return [
        sample(f"{episode}.{step}", f"e{episode}", user, text=f"Q {user} {episode}.{step}") for episode, step in names
    ]


def settings(**keys: Any) -> ContextSettings:
    usual = {"episodes": 2, "of": "same_user", "samples": 3, "images": True, "folds": FOLDS}
    return ContextSettings.model_validate({**usual, **keys})


def said(asked: Sample) -> list[str]:
    """Return the texts of a prompt."""
    return ["".join(part.get("text", "") for part in turn["content"]) for turn in asked["messages"][:-1]]


def history(asked: Sample) -> list[str]:
    """Return the ids of the samples in a prompt, from their answers."""
    return [text.removeprefix("A ") for text in said(asked) if text.startswith("A ")]


@given(
    st.lists(st.integers(1, 4), min_size=3, max_size=9),
    st.integers(1, 4),
    st.integers(0, 5),
    st.sampled_from(["episode", "time"]),
)
def test_nothing_of_the_fold_or_the_episode_of_the_question_is_in_its_prompt(
    sizes: list[int], episodes: int, more: int, by: Any
) -> None:
    samples = of_sizes(sizes)
    folds = FoldSettings(count=3, by=by, seed=1)
    fold_of = folds_of(samples, folds)
    asked = with_context(samples, settings(episodes=episodes, samples=episodes + more, folds=folds))
    assert [item["id"] for item in asked] == [item["id"] for item in samples]
    for own, prompt in zip(samples, asked, strict=True):
        told = history(prompt)
        assert told
        assert not {name for name in told if fold_of[name] == fold_of[own["id"]]}
        found = [item for item in samples if item["id"] in told]
        # In the order of time, each once, of as many episodes and samples as asked for, if there are so many.
        assert [item["id"] for item in found] == told
        others = [item for item in samples if fold_of[item["id"]] != fold_of[own["id"]]]
        assert len({item["episode"] for item in found}) == min(episodes, len({item["episode"] for item in others}))
        assert len(told) <= episodes + more
        # The question comes last, with all its turns and images, and the answer is not in the prompt.
        assert prompt["messages"][-len(own["messages"]) :] == own["messages"]
        assert prompt["images"][-1] == own["images"][-1]
        assert len(prompt["images"]) == len(told) + 1
        assert f"A {own['id']}" not in said(prompt)


def test_the_newest_episodes_before_the_question_come_first_then_the_nearest_after_it() -> None:
    samples = of_sizes([1] * 6)
    asked = {item["id"]: history(item) for item in with_context(samples, settings(samples=2, folds=BY_TIME))}
    # Folds: episodes 0-2 and 3-5.
    assert asked["4.0"] == ["1.0", "2.0"]
    assert asked["1.0"] == ["3.0", "4.0"]
    three = FoldSettings(count=3, by="time", seed=0)
    asked = {item["id"]: history(item) for item in with_context(samples, settings(samples=2, folds=three))}
    # Folds: 0-1, 2-3 and 4-5.
    assert asked["2.0"] == ["0.0", "1.0"]
    asked = {item["id"]: history(item) for item in with_context(samples, settings(episodes=3, samples=3, folds=three))}
    assert asked["2.0"] == ["0.0", "1.0", "4.0"]


def test_each_episode_gives_its_last_samples_in_turn() -> None:
    samples = of_sizes([5, 1, 5, 1])
    asked = {item["id"]: history(item) for item in with_context(samples, settings(samples=5, folds=BY_TIME))}
    # The episode 1 has one sample, so the episode 0 gives four.
    assert asked["2.0"] == ["0.1", "0.2", "0.3", "0.4", "1.0"]


def test_another_users_history_has_no_copy_and_depends_on_the_episode_alone() -> None:
    own, other = of_sizes([2, 2]), of_sizes([1] * 8, "8")
    other.append({**own[0], "id": "copy", "user": "8", "episode": "e9"})
    strange = settings(of="other_user", folds=None)
    asked = with_context(own, strange, other)
    assert all("copy" not in said(item) and len(history(item)) == 2 for item in asked)
    assert history(asked[0]) == history(asked[1])
    assert with_context(own, strange, other) == asked
    assert any(history(first) != history(asked[0]) for first in with_context(of_sizes([1] * 9), strange, other))


def test_without_images_only_words_are_told() -> None:
    asked = with_context(of_sizes([1, 1, 1]), settings(images=False))
    for item in asked:
        assert len(item["images"]) == 1
        parts = [part["type"] for turn in item["messages"] for part in turn["content"]]
        assert parts.count("image") == 1
        assert len(history(item)) == 2


def test_a_system_turn_of_all_stays_first_and_different_ones_join_their_questions() -> None:
    shared = [sample(f"{n}", f"e{n}", system="Click.") for n in range(3)]
    for item in with_context(shared, settings()):
        assert [turn["role"] for turn in item["messages"]].count("system") == 1
        assert said(item)[0] == "Click."
    different = [sample(f"{n}", f"e{n}", system=f"S {n}") for n in range(3)]
    for item in with_context(different, settings()):
        assert "system" not in {turn["role"] for turn in item["messages"]}
        assert said(item)[-1] == f"S {item['id']}\nQ {item['id']}"
        assert all(f"S {name}\nQ {name}" in said(item) for name in history(item))


def test_an_edit_changes_the_requests_of_those_questions_that_are_told_it() -> None:
    samples = of_sizes([1] * 6)
    edited = [*samples[:2], sample("2.0", "e2", text="another"), *samples[3:]]
    three = settings(samples=2, folds=FoldSettings(count=3, by="time", seed=0))
    before, after = (with_context(some, three) for some in (samples, edited))
    told = {item["id"] for item in before if "2.0" in history(item)}
    changed = {old["id"] for old, new in zip(before, after, strict=True) if request_digest(old) != request_digest(new)}
    assert changed == {*told, "2.0"}
    # Those of the same fold are not told it.
    assert told == {"0.0", "1.0", "4.0", "5.0"}


def test_no_other_episode_is_an_error_with_what_to_do() -> None:
    samples = [sample(f"{n}", "one") for n in range(4)]
    at_random = settings(folds=FoldSettings(count=2, by="random", seed=0))
    with pytest.raises(UserError, match=r"sample '0' of user 7: there is no other episode for its context"):
        with_context(samples, at_random)


def test_the_store_knows_requests_with_history_and_the_namespace_is_that_of_the_model() -> None:
    plain = PredictRecipe(step="predict", max_new_tokens=9, pixels=Pixels(), dtype="float32")
    told = PredictRecipe(**plain.as_json(), context=settings(), context_users={"1": "2"})
    assert plain.generation() == told.generation() == plain.as_json()


def test_planning_counts_stored_answers_with_history_and_one_edit_asks_what_it_changes(tmp_path: Path) -> None:
    changes = {"folds": {"count": 3, "by": "time"}}
    experiments = ["history", "stranger", "vanilla"]
    study = SyntheticStudy(tmp_path, users=["1", "2"], samples=6, episodes=6, experiments=experiments, changes=changes)
    for user in study.study.all_users:
        study.write_raw(user)
        # Without copies of another user's samples.
        raw = study.dataset / f"user_{user}.jsonl"
        raw.write_text(raw.read_text().replace("Tap 'send' ", f"Tap '{user}' "))
    shutil.copytree(BASE, tmp_path / "base")
    study.make_all("prepare", "base_model", "predict")
    for name in experiments:
        assert len(read_result(study.predictions(name))["predictions"]) == 12
    folders = {read_result(study.predictions(name))["store_folder"] for name in experiments}
    assert len(folders) == 1, "one model"
    for name in experiments:
        study.predictions(name).unlink()
    freshness = Freshness(study.study, study.recipes)
    assert {result.experiment for result in only_to_collect(freshness)} == set(experiments)
    raw = study.dataset / "user_2.jsonl"
    raw.write_text(raw.read_text().replace("Tap '2' ", "Tap 'mail' ", 1))
    study.make("data/user_2.manifest.json")
    freshness = Freshness(study.study, study.recipes)
    missing = {
        name: [
            count_stored(
                freshness, study.results[path.relative_to(tmp_path).as_posix()], f"data/user_{user}.manifest.json"
            )[1]
            for user in ("1", "2")
        ]
        for name, path in ((name, study.predictions(name)) for name in experiments)
    }
    assert missing["vanilla"] == [0, 1]
    # User 1 is told of nobody; user 2's edited sample is told to some of the user's other questions.
    assert missing["history"][0] == 0
    assert 1 < missing["history"][1] < 6
    # Each is told of the other.
    assert missing["stranger"][1] == 1
    assert 0 < missing["stranger"][0] < 6


def test_personal_models_can_be_told_history_too(tmp_path: Path) -> None:
    changes = {"folds": {"count": 2}}
    study = SyntheticStudy(tmp_path, users=["1"], samples=4, episodes=4, experiments=["told"], changes=changes)
    for user in study.study.all_users:
        study.write_raw(user)
    shutil.copytree(BASE, tmp_path / "base")
    study.make_all("prepare", "base_model", "train_folds", "predict")
    assert len(read_result(study.predictions("told"))["predictions"]) == 4
    study.predictions("told").unlink()
    freshness = Freshness(study.study, study.recipes)
    path = study.predictions("told").relative_to(tmp_path).as_posix()
    assert count_stored(freshness, study.results[path], "data/user_1.manifest.json") == (4, 0)


def test_estimates_know_the_longer_prompts() -> None:
    class Shape:
        image_tokens = staticmethod(lambda width, height: width * height)

    sizes = (SampleSize(((10, 10),), 2, 100, 10), SampleSize(((20, 10),), 2, 400, 10))
    lengths = Lengths(2, sizes, (100, 200), (100 + 2 + 35, 200 + 2 + 110), (5, 5), 0.25, True)
    longer = lengths.with_history(Shape(), 2, images=True)  # type: ignore[arg-type]
    # Both samples, and the longer one once more.
    assert longer.image_tokens == (400, 500)
    # Two tokens around each image, five for each turn, a quarter of a token for each byte.
    assert longer.tokens == (400 + 6 + 30 + 150, 500 + 6 + 30 + 225)
    words = lengths.with_history(Shape(), 2, images=False)  # type: ignore[arg-type]
    assert words.image_tokens == (100, 200)
    assert words.tokens[1] == longer.tokens[1] - 300 - 4
    assert longer.answers == (5, 5)

"""Folds of a user's samples: every sample is in one fold, whole episodes stay together, and edits move little."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from usertune.core.errors import UserError
from usertune.data.folds import FoldSettings, episodes_in_time, folds_of, limited, require_apart, training_part
from usertune.data.samples import Sample

KINDS = ("episode", "random", "time")


def sample(identity: str, episode: str, text: str = "", image: str = "", time: Any = None) -> Sample:
    about: dict[str, Any] = {} if time is None else {"about": {"time": time}}
    return {
        "id": identity,
        "user": "7",
        "episode": episode,
        "step": 0,
        "messages": [
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text or identity}]},
            {"role": "assistant", "content": [{"type": "text", "text": "[1, 2]"}]},
        ],
        "images": [{"path": "a.png", "sha256": image or f"image of {identity}", "width": 9, "height": 9}],
        "target": {"point": [1, 2]},
        **about,
    }


def samples_of(sizes: list[int]) -> list[Sample]:
    """Samples of episodes of these sizes."""
    return [sample(f"{episode}/{step}", f"e{episode}") for episode, size in enumerate(sizes) for step in range(size)]


def settings_of(**keys: Any) -> FoldSettings:
    return FoldSettings.model_validate(keys)


SIZES = st.lists(st.integers(1, 4), min_size=2, max_size=30)
SETTINGS = st.builds(settings_of, count=st.integers(2, 6), by=st.sampled_from(KINDS), seed=st.integers(0, 3))


@given(SIZES, SETTINGS)
def test_every_sample_is_in_one_fold_and_folds_are_balanced(sizes: list[int], settings: FoldSettings) -> None:
    samples = samples_of(sizes)
    units = len(samples) if settings.by == "random" else len(sizes)
    assume(units >= settings.count)
    found = folds_of(samples, settings)
    assert list(found) == [item["id"] for item in samples]
    episode_of = {item["id"]: item["id"] if settings.by == "random" else item["episode"] for item in samples}
    folds = {episode_of[name]: fold for name, fold in found.items()}
    assert all(folds[episode_of[name]] == fold for name, fold in found.items())
    counts = Counter(folds.values())
    assert set(counts) == set(range(1, settings.count + 1))
    assert max(counts.values()) - min(counts.values()) <= 1


@given(SIZES, SETTINGS, st.randoms())
def test_the_order_of_samples_has_no_effect_unless_it_is_the_only_time(
    sizes: list[int], settings: FoldSettings, chance: random.Random
) -> None:
    samples = samples_of(sizes)
    if settings.by == "time":
        samples = [sample(item["id"], item["episode"], time=int(item["episode"][1:])) for item in samples]
    assume((len(samples) if settings.by == "random" else len(sizes)) >= settings.count)
    shuffled = chance.sample(samples, len(samples))
    assert folds_of(shuffled, settings) == folds_of(samples, settings)


@given(SIZES, SETTINGS, st.data())
def test_an_edit_moves_no_other_sample_and_a_new_episode_at_most_one_across_each_cut(
    sizes: list[int], settings: FoldSettings, data: st.DataObject
) -> None:
    samples = samples_of(sizes)
    assume((len(samples) if settings.by == "random" else len(sizes)) >= settings.count)
    before = folds_of(samples, settings)
    place = data.draw(st.integers(0, len(samples) - 1))
    old = samples[place]
    edited = [*samples[:place], sample(old["id"], old["episode"], "another question"), *samples[place + 1 :]]
    assert folds_of(edited, settings) == before
    if settings.by != "random":
        longer = folds_of([*samples, sample("new", old["episode"])], settings)
        assert longer == {**before, "new": before[old["id"]]}
    after = folds_of([*samples, sample("new", "new")], settings)
    moved = {
        item["id"] if settings.by == "random" else item["episode"]
        for item in samples
        if after[item["id"]] != before[item["id"]]
    }
    assert len(moved) <= settings.count - 1


def test_the_folds_are_those_of_earlier_releases() -> None:
    # Every personal model depends on them.
    samples = samples_of([1] * 6)
    assert list(folds_of(samples, settings_of(count=3, by="episode", seed=0)).values()) == EPISODE_FOLDS
    assert list(folds_of(samples, settings_of(count=3, by="episode", seed=1)).values()) != EPISODE_FOLDS
    other = [{**item, "user": "8"} for item in samples]
    assert list(folds_of(other, settings_of(count=3, by="episode", seed=0)).values()) != EPISODE_FOLDS  # type: ignore[arg-type]


EPISODE_FOLDS = [1, 3, 1, 3, 2, 2]


def test_folds_by_time_are_consecutive_episodes_in_the_order_of_their_times_or_of_the_data() -> None:
    by_time = settings_of(count=2, by="time")
    undated = samples_of([1, 1, 2, 1])
    assert list(folds_of(undated, by_time).values()) == [1, 1, 2, 2, 2]
    for times in (
        ["2025-10-01", "2025-03-09T10:00:00", "2025-03-09 10:00:01", "2024-12-31T23:00:00-05:00"],
        [1e3, 200, 300.5, 100],
        ["1000", "200", "300.5", "1e2"],
        ["20251301", "9", "10", "8"],
    ):
        dated = [sample(f"{n}", f"e{n}", time=time) for n, time in enumerate(times)]
        assert episodes_in_time(dated) == ["e3", "e1", "e2", "e0"], times
        assert folds_of(dated, by_time) == {"3": 1, "1": 1, "2": 2, "0": 2}
    for times in (["2025-10-01", "yesterday"], ["2025-10-01", 5], ["9", "nan"], [9, None]):
        unclear = [sample(f"{n}", f"e{n}", time=time) for n, time in enumerate(times)]
        assert episodes_in_time(unclear) == ["e0", "e1"], times


def test_an_episode_counts_from_its_earliest_sample() -> None:
    dated = [sample("a", "late", time=5), sample("b", "early", time=9), sample("c", "early", time=1)]
    assert episodes_in_time(dated) == ["early", "late"]


@pytest.mark.parametrize(
    ("sizes", "by", "said"),
    [
        (
            [5, 5],
            "episode",
            "user 7 has 2 episodes, which is too few for 3 folds.*set folds.count to 2 or less.*random",
        ),
        ([9], "time", "user 7 has 1 episode, .*use more data of the user.*leave the user out of the study"),
        ([1, 1], "random", "user 7 has 2 samples, .*set folds.count to 2 or less, or leave the user out"),
    ],
)
def test_a_user_with_too_few_episodes_is_named_with_what_to_do(sizes: list[int], by: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        folds_of(samples_of(sizes), settings_of(count=3, by=by))


def test_folds_are_of_one_user() -> None:
    other: Sample = {**sample("b", "e"), "user": "8"}
    with pytest.raises(ValueError, match="of 2"):
        folds_of([sample("a", "e"), other], settings_of())


@given(SIZES, SETTINGS)
def test_a_training_sees_all_other_folds_and_nothing_of_its_own(sizes: list[int], settings: FoldSettings) -> None:
    samples = samples_of(sizes)
    assume((len(samples) if settings.by == "random" else len(sizes)) >= settings.count)
    fold_of = folds_of(samples, settings)
    for fold in range(1, settings.count + 1):
        part = training_part(samples, fold_of, fold)
        assert part.samples == [item for item in samples if fold_of[item["id"]] != fold]
        assert part.copies_left_out == 0
        require_apart(part.samples, [item for item in samples if fold_of[item["id"]] == fold], settings)


def copies() -> dict[str, Sample]:
    """Copies of the sample ``test``, in other episodes."""
    test = sample("test", "e0", "Where is the mail?", "screen")
    same_request: Sample = {**test, "id": "request", "episode": "e1", "target": {"point": [5, 5]}}
    turns = sample("turns", "e2", "Where  is the\nmail?", "screen")
    turns["messages"].insert(0, {"role": "system", "content": [turns["messages"][0]["content"].pop(0)]})
    return {"test": test, "request": same_request, "turns": turns}


def test_copies_of_test_samples_are_left_out_of_the_training_and_counted() -> None:
    planted = copies()
    others = [
        sample("image", "e3", "Where is the clock?", "screen"),
        sample("text", "e4", "Where is the mail?", "other"),
    ]
    samples = [*planted.values(), *others]
    fold_of = {item["id"]: 1 if item["id"] == "test" else 2 for item in samples}
    part = training_part(samples, fold_of, 1)
    # The same screenshot with another question, and the same question on another screenshot, are no copies.
    assert [item["id"] for item in part.samples] == ["image", "text"]
    assert part.copies_left_out == 2
    with pytest.raises(UserError, match=r"user 7, fold 1: no sample is left for training, because all 2 samples"):
        training_part(list(planted.values()), fold_of, 1)


@pytest.mark.parametrize("name", ["test", "request", "turns", "neighbour"])
def test_a_training_that_sees_a_test_sample_its_copy_or_its_episode_is_stopped(name: str) -> None:
    planted = copies()
    seen = {**planted, "neighbour": sample("neighbour", "e0")}[name]
    by_episode, at_random = settings_of(), settings_of(by="random")
    with pytest.raises(RuntimeError, match=f"training sample '{name}' of user 7"):
        require_apart([sample("fine", "e9"), seen], [planted["test"]], by_episode)
    if name == "neighbour":
        require_apart([seen], [planted["test"]], at_random)
    else:
        with pytest.raises(RuntimeError, match=f"training sample '{name}'"):
            require_apart([seen], [planted["test"]], at_random)


@given(SIZES, st.integers(0, 3), st.data())
def test_fewer_samples_are_a_part_of_more_and_take_whole_episodes_first(
    sizes: list[int], seed: int, data: st.DataObject
) -> None:
    samples = samples_of(sizes)
    more = data.draw(st.integers(1, len(samples)))
    fewer = data.draw(st.integers(1, more))
    large, small = limited(samples, more, seed), limited(samples, fewer, seed)
    assert (len(large), len(small)) == (more, fewer)
    ids = [item["id"] for item in large]
    assert {item["id"] for item in small} <= set(ids)
    assert ids == [item["id"] for item in samples if item["id"] in ids]
    totals = Counter(item["episode"] for item in samples)
    cut = [episode for episode, count in Counter(item["episode"] for item in large).items() if count < totals[episode]]
    assert len(cut) <= 1


def test_all_samples_are_chosen_without_a_number_or_with_a_larger_one() -> None:
    samples = samples_of([2, 3])
    assert limited(samples, None, 0) == limited(samples, 5, 0) == limited(samples, 99, 0) == samples


def test_which_samples_are_chosen_does_not_follow_the_folds() -> None:
    # With the order of the folds, a small part would come from the first folds alone.
    samples = samples_of([1] * 60)
    fold_of = folds_of(samples, settings_of(count=3, seed=0))
    chosen = Counter(fold_of[item["id"]] for item in limited(samples, 20, 0))
    assert set(chosen) == {1, 2, 3}

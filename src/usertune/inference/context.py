"""History in the prompt: answered samples of other episodes, put before the question. Does not import torch.

What a model could learn of a user by training it can also be shown. The samples are never of the fold or the episode of
the question, nor copies of samples of the fold, so they are among those that a training for this fold would see.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from usertune.core.errors import UserError
from usertune.core.hashing import digest
from usertune.data.folds import copies_of, episodes_in_time, folds_of, training_part
from usertune.data.samples import Part, Sample, Turn
from usertune.inference.recipe import ContextSettings, PredictRecipe

Episodes = Mapping[str, Sequence[Sample]]


def with_context(
    samples: Sequence[Sample], settings: ContextSettings | None, other: Sequence[Sample] | None = None
) -> list[Sample]:
    """Return the samples of one user as they are asked: with history before the question, if the settings have any.

    Of the same user, the episodes before the question's are taken, the newest first, then those after it, the nearest
    first, so that all questions have equally much history. Of another user, a digest of the episodes' names decides.
    Each episode gives its last samples, in turn until there are enough. History is told in the order of time.

    Args:
        samples: all samples of the user.
        settings: what the history is; None: there is none.
        other: all samples of the other user, for ``of: other_user``.

    Raises:
        UserError: there is no sample for the history of a question, or too few for the folds.
    """
    if settings is None:
        return list(samples)
    if settings.of == "same_user":
        return _of_same_user(samples, settings)
    assert other is not None
    copies = copies_of(samples)
    episodes = _by_episode([sample for sample in other if not copies(sample)])
    found: dict[str, list[Sample]] = {}
    for sample in samples:
        episode = sample["episode"]
        if episode not in found:
            ranks = {name: digest(["context", sample["user"], episode, name]) for name in episodes}
            found[episode] = _chosen(settings, episodes, sorted(ranks, key=ranks.__getitem__), sample)
    return [_asked(sample, found[sample["episode"]], settings.images) for sample in samples]


def asked_as(
    samples: Sequence[Sample],
    recipe: PredictRecipe,
    user: str,
    others: Mapping[str, tuple[Mapping[str, Any], Sequence[Sample]]],
) -> list[Sample]:
    """Return the samples of a user as a recipe asks them, see `with_context`.

    Args:
        samples: all samples of the user.
        recipe: settings of generation.
        user: the user.
        others: manifest and samples of each other user whose samples are in prompts.

    Raises:
        UserError: see `with_context`, or the samples of the other user were not given.
    """
    other = recipe.context_users.get(user)
    if other is not None and other not in others:
        raise UserError(f"the prepared samples of user {other} are needed for the context of user {user}")
    return with_context(samples, recipe.context, None if other is None else others[other][1])


def _of_same_user(samples: Sequence[Sample], settings: ContextSettings) -> list[Sample]:
    assert settings.folds is not None
    fold_of = folds_of(samples, settings.folds)
    time = {episode: place for place, episode in enumerate(episodes_in_time(samples))}
    parts = {fold: _by_episode(training_part(samples, fold_of, fold).samples) for fold in sorted(set(fold_of.values()))}
    found: dict[tuple[int, str], list[Sample]] = {}
    for sample in samples:
        fold, asked = fold_of[sample["id"]], sample["episode"]
        if (fold, asked) not in found:
            others = sorted((name for name in parts[fold] if name != asked), key=time.__getitem__)
            before = [name for name in others if time[name] < time[asked]]
            order = [*before[::-1], *others[len(before) :]]
            found[fold, asked] = _chosen(settings, parts[fold], order, sample)
    return [_asked(sample, found[fold_of[sample["id"]], sample["episode"]], settings.images) for sample in samples]


def _by_episode(samples: Sequence[Sample]) -> Episodes:
    """Return the samples by episode, both in the order of time."""
    found: dict[str, list[Sample]] = {episode: [] for episode in episodes_in_time(samples)}
    for sample in samples:
        found[sample["episode"]].append(sample)
    return found


def _chosen(settings: ContextSettings, episodes: Episodes, order: Sequence[str], sample: Sample) -> list[Sample]:
    """Return the history of a question: samples of the first episodes in an order, told in the order of time."""
    names = order[: settings.episodes]
    if not names:
        raise UserError(
            f"sample {sample['id']!r} of user {sample['user']}: there is no other episode for its context (context.of: "
            f"{settings.of}); use more data, or leave the user out of the study"
        )
    taken = dict.fromkeys(names, 0)
    while (left := settings.samples - sum(taken.values())) > 0:
        waiting = [name for name in names if taken[name] < len(episodes[name])][:left]
        if not waiting:
            break
        for name in waiting:
            taken[name] += 1
    return [one for name, own in episodes.items() if taken.get(name) for one in own[len(own) - taken[name] :]]


def _asked(sample: Sample, history: Sequence[Sample], images: bool) -> Sample:
    """Return a sample with history before its own turns.

    A system turn that all of them have stays the first turn. If the system turns differ, each is put at the beginning
    of its sample's first question, since a conversation has one system turn.
    """
    shared = len({_system_text(one) for one in (sample, *history)}) == 1
    turns = [turn for turn in sample["messages"] if turn["role"] == "system"] if shared else []
    for one in history:
        turns += _turns(one, images, with_system=not shared)
    turns += _turns(sample, True, with_system=not shared)
    before = [image for one in history for image in one["images"]] if images else []
    return {**sample, "messages": turns, "images": [*before, *sample["images"]]}


def _system_text(sample: Sample) -> str:
    turns = (turn for turn in sample["messages"] if turn["role"] == "system")
    return "".join(part.get("text", "") for turn in turns for part in turn["content"])


def _turns(sample: Sample, images: bool, with_system: bool) -> list[Turn]:
    system = _system_text(sample) if with_system else ""
    turns: list[Turn] = []
    for turn in sample["messages"]:
        if turn["role"] == "system":
            continue
        content: list[Part] = [part for part in turn["content"] if images or part["type"] != "image"]
        if system and turn["role"] == "user":
            content, system = [{"type": "text", "text": f"{system}\n"}, *content], ""
        turns.append({"role": turn["role"], "content": content})
    return turns

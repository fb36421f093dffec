"""Training keys that experiments take from the study's section `training`, and from other experiments by `like`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from usertune.study.files import merge
from usertune.study.renamed_keys import with_new_keys
from usertune.study.schema.experiment import has_training_keys

# If newer keys set one of the two warm-up keys, the other one of older keys is ignored.
_OTHER_WARMUP = {"warmup_steps": "warmup", "warmup": "warmup_steps"}


def with_shared_training(raw: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return a study, as written, in which every trained experiment has all training keys that are set for it.

    Returns:
        The study, and a message for each old name of a key.
    """
    training, experiments = raw.get("training"), raw["experiments"]
    shared, messages = with_new_keys(training if isinstance(training, dict) else {})
    filled = {}
    for name, experiment in experiments.items():
        if has_training_keys(experiment):
            found, more = _training_of(experiments, name)
            messages += more
            if found is not None:
                experiment = {**experiment, "training": _over(shared, found)}
        filled[name] = experiment
    own = {"training": shared} if isinstance(training, dict) else {}
    return {**raw, **own, "experiments": filled}, messages


def like_problem(experiments: Mapping[str, Any], name: str) -> str | None:
    """Return what is wrong with the key `like` of an experiment; None if nothing is.

    Args:
        experiments: name -> experiment with its key ``like`` and property ``training``.
        name: name of the experiment.
    """
    seen = [name]
    while (other := experiments[seen[-1]].like) is not None:
        if other not in experiments:
            return f"no experiment is named {other}; use one of: {', '.join(experiments)}"
        if other in seen:
            return f"{' -> '.join([*seen, other])} is a circle; one of them must not have the key"
        if experiments[other].training is None:
            return f"experiment {other} has no training keys, because it is not trained"
        seen.append(other)
    return None


def _training_of(experiments: Mapping[str, Any], name: str) -> tuple[dict[str, Any] | None, list[str]]:
    """Return the training keys of an experiment over those of the experiments that it is like; None if malformed."""
    messages: list[str] = []
    found: dict[str, Any] = {}
    seen: set[str] = set()
    while isinstance(experiment := experiments.get(name), dict) and name not in seen:
        seen.add(name)
        own = experiment.get("training")
        if own is not None and not isinstance(own, dict):
            return None, messages
        own, more = with_new_keys(own or {})
        messages += more
        found = _over(own, found)
        like = experiment.get("like")
        if not isinstance(like, str):
            break
        name = like
    return found, messages


def _over(older: dict[str, Any], newer: dict[str, Any]) -> dict[str, Any]:
    hidden = {_OTHER_WARMUP[key] for key in newer if key in _OTHER_WARMUP and newer[key] is not None}
    return merge({key: value for key, value in older.items() if key not in hidden}, newer)

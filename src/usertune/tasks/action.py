"""Action: what to do next on a screen, and where.

The expected answer is one JSON object in the words of Qwen's ``mobile_use`` tool, with coordinates from 0 to 1000::

    {"action": "click", "coordinate": [512, 304]}        {"action": "system_button", "button": "Back"}
    {"action": "long_press", "coordinate": [512, 304]}   {"action": "open", "text": "Maps"}
    {"action": "type", "text": "two tickets"}            {"action": "wait"}
    {"action": "swipe", "direction": "up"}               {"action": "terminate", "status": "success"}

``direction`` is where the finger moves. (Qwen gives the two ends of a swipe, which most datasets do not have.) A final
answer is ``{"action": "answer", "text": ...}``. `usertune.tasks.actions.read` has the other styles that are read.
"""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Mapping
from typing import Any

from rapidfuzz.distance import Levenshtein

from usertune.tasks.actions.read import FORMS, REASONS, read_action
from usertune.tasks.actions.verbs import IMPOSSIBLE
from usertune.tasks.metrics import AtThresholds, Metric, threshold_label
from usertune.tasks.task import Marks, Task
from usertune.tasks.truth import (
    ACTIONS,
    CLICK,
    DECIMALS,
    DIRECTIONS,
    FINISH,
    LONG_PRESS,
    OPEN_APP,
    PRESS,
    SCALE,
    SCROLL,
    TYPE,
    Box,
    Point,
    Truth,
)

PROMPT = """\
What is the next action on this screen for: {text}
Answer with one JSON object and nothing else. Coordinates are from 0 to 1000 on each axis. One of:
{"action": "click", "coordinate": [x, y]}
{"action": "long_press", "coordinate": [x, y]}
{"action": "type", "text": "..."}
{"action": "swipe", "direction": "up", "down", "left" or "right", where the finger moves}
{"action": "system_button", "button": "Back", "Home", "Recent" or "Enter"}
{"action": "open", "text": "name of the app"}
{"action": "wait"}
{"action": "terminate", "status": "success" or "failure"}"""
TAPS = (CLICK, LONG_PRESS)


def same_type(answer: Truth, target: Truth) -> int:
    """Return 1 for the right kind of action, else 0; giving up is another kind than finishing."""
    return int(answer.action == target.action and (target.action != FINISH or answer.key == target.key))


def tapped(answer: Truth, target: Truth, threshold: float) -> int:
    """Return 1 for a tap of the right kind within the threshold of the target, or in the element's box, else 0.

    Android in the Wild (Rawles et al. 2023, arXiv:2307.10088, section 4.1): within 14 % of the screen, or in the same
    element. AITW enlarges the boxes of elements; here they are taken as they are.
    """
    if answer.action != target.action or answer.point is None or target.place is None:
        return 0
    x, y = answer.point
    if target.box is not None and target.box[0] <= x <= target.box[2] and target.box[1] <= y <= target.box[3]:
        return 1
    return int(math.dist(answer.point, target.place) <= threshold)


def scrolled(answer: Truth, target: Truth) -> int:
    """Return 1 for a scroll in the right direction, else 0."""
    return int(answer.action == SCROLL and answer.direction == target.direction)


def similarity(answer: Truth, target: Truth) -> float:
    """Return the similarity of the typed texts, 0 to 1: 1 - edit distance / length of the longer, normalised texts."""
    if answer.action != TYPE:
        return 0.0
    return Levenshtein.normalized_similarity(normalised(answer.text or ""), normalised(target.text or ""))


def step_success(answer: Truth, target: Truth, threshold: float) -> int:
    """Return 1 where the kind of action and its argument are right, else 0.

    AndroidControl (Li et al. 2024, arXiv:2406.03679, section 5.1): taps by `tapped`, scrolls by direction, typed texts
    and names of apps equal after `normalised`, keys equal; wait and finish have no argument.
    """
    if not same_type(answer, target):
        return 0
    match target.action:
        case "click" | "long_press":
            return tapped(answer, target, threshold)
        case "scroll":
            return scrolled(answer, target)
        case "type" | "open_app":
            return int(normalised(answer.text or "") == normalised(target.text or ""))
        case "press":
            return int(answer.key == target.key)
    return 1


def normalised(text: str) -> str:
    """Return a text in Unicode's compatibility form (NFKC), without regard to case and to kinds of white space."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _within(title: str) -> AtThresholds:
    return AtThresholds(title=f"{title} at {{}}", condition="taps within {} of the target or in its box")


METRICS = (
    Metric(
        "step_success",
        title="step success",
        column="step_right",
        measure=step_success,
        unit="%",
        unparsed=0,
        bounds=(0, 1),
        at=_within("step success"),
    ),
    Metric(
        "type_accuracy",
        title="type accuracy",
        column="type_right",
        measure=same_type,
        unit="%",
        unparsed=0,
        bounds=(0, 1),
    ),
    Metric(
        "tap_accuracy",
        title="tap accuracy",
        column="tap_right",
        measure=tapped,
        unit="%",
        unparsed=0,
        bounds=(0, 1),
        at=_within("tap accuracy"),
        applies=lambda target: target.action in TAPS,
        over="samples with a tap",
    ),
    Metric(
        "scroll_accuracy",
        title="scroll direction",
        column="scroll_right",
        measure=scrolled,
        unit="%",
        unparsed=0,
        bounds=(0, 1),
        applies=lambda target: target.action == SCROLL,
        over="samples with a scroll",
    ),
    Metric(
        "typed_similarity",
        title="typed text similarity",
        column="typed_similarity",
        measure=similarity,
        unit="%",
        unparsed=0,
        bounds=(0, 1),
        applies=lambda target: target.action == TYPE,
        over="samples with typed text",
    ),
    Metric(
        "episode_success",
        title="episode success",
        column="episode_right",
        measure=step_success,
        unit="%",
        unparsed=0,
        bounds=(0, 1),
        at=_within("episode success"),
        episode=min,
    ),
)


class ActionTask(Task):
    """What to do next: reads actions and measures their kind and their argument."""

    name = "action"
    metrics = METRICS
    forms = FORMS
    reasons = REASONS
    answers_are_actions = True
    asks_for_clicks = True

    def clicked(self, target: Truth) -> Point | None:
        """Return the point of a click, or None if the target is another action."""
        return target.place if target.action == CLICK else None

    def truth_of(self, text: str) -> Truth:
        """Return the action that an answer names.

        Raises:
            ValueError: there is none; the message says why.
        """
        action, form = read_action(text)
        if action is None:
            raise ValueError(f"the answer {text[:80]!r} has no action: {self.reason_in_words(form)}")
        return action

    def target_from_answer(self, text: str) -> dict[str, Any]:
        """Return the target of a data sample from its answer turn.

        Raises:
            ValueError: the answer has no action, or its point lies outside 0-1000.
        """
        truth = self.truth_of(text)
        if truth.point is not None and not all(0 <= value <= SCALE for value in truth.point):
            raise ValueError(f"the answer's point {list(truth.point)} lies outside 0-{SCALE}")
        return self.target_from_truth(truth)

    def answer(self, truth: Truth) -> str:
        """Return the JSON object for an action; see the module.

        Raises:
            ValueError: the action is not known, or lacks its argument.
        """
        found: dict[str, Any]
        match truth.action:
            case "click" | "long_press" if truth.place is not None:
                found = {"action": truth.action, "coordinate": [_short(value) for value in truth.place]}
            case "type" if truth.text:
                found = {"action": "type", "text": truth.text}
            case "scroll" if truth.direction in DIRECTIONS:
                found = {"action": "swipe", "direction": truth.direction}
            case "press" if truth.key:
                found = {"action": "system_button", "button": truth.key.capitalize()}
            case "open_app" if truth.text:
                found = {"action": "open", "text": truth.text}
            case "wait":
                found = {"action": "wait"}
            case "finish" if truth.text and truth.key != IMPOSSIBLE:
                found = {"action": "answer", "text": truth.text}
            case "finish":
                found = {"action": "terminate", "status": "failure" if truth.key == IMPOSSIBLE else "success"}
            case _:
                raise ValueError(_lacking(truth))
        return json.dumps(found, ensure_ascii=False)

    def target_from_truth(self, truth: Truth) -> dict[str, Any]:
        """Return the target of a data sample: what is known of its action, without what is not.

        Raises:
            ValueError: see `answer`.
        """
        self.answer(truth)
        found: dict[str, Any] = {"action": truth.action}
        if truth.action in TAPS and truth.place is not None:
            found["point"] = [_short(value) for value in truth.place]
            if truth.box is not None:
                found["box"] = [_short(value) for value in truth.box]
        argument = {TYPE: "text", OPEN_APP: "text", FINISH: "text", SCROLL: "direction", PRESS: "key"}
        if (name := argument.get(truth.action)) and getattr(truth, name):
            found[name] = getattr(truth, name)
        return {**found, "key": IMPOSSIBLE} if truth.action == FINISH and truth.key == IMPOSSIBLE else found

    def read_target(self, target: Mapping[str, Any]) -> Truth:
        """Return a sample's target; one of grounding, a point without an action, is a click.

        Raises:
            ValueError: it is not a target of this task.
        """
        try:
            point, box = target.get("point"), target.get("box")
            truth = Truth(
                target.get("action", CLICK),
                point=_point(point) if point is not None else None,
                box=_box(box) if box is not None else None,
                **{name: target[name] for name in ("text", "direction", "key") if isinstance(target.get(name), str)},
            )
            self.answer(truth)
        except (AttributeError, TypeError, ValueError) as error:
            raise ValueError(f'the target is {target!r}; expected {{"action": ..., ...}} ({error})') from None
        return truth

    def read(self, text: str, ended: bool = True) -> tuple[Truth | None, str]:
        """Return the action that an answer names and its form, or None and the reason why it is unparsed."""
        action, form = read_action(text)
        if not ended and action is not None and read_action(f"{text}0")[0] != action:
            return None, "cut_off"
        return action, form

    def parse(self, text: str) -> Point | None:
        """Return the point of the action that an answer names, or None."""
        action = read_action(text)[0]
        return action.point if action else None

    def details(self, answer: Truth | None, target: Truth) -> dict[str, Any]:
        """Return the kinds of the two actions and their points."""
        x, y = (answer.point if answer else None) or (None, None)
        target_x, target_y = target.place or (None, None)
        where = {"x": x, "y": y, "target_x": target_x, "target_y": target_y}
        return {"action": answer.action if answer else None, "target_action": target.action, **where}

    def note(self, threshold: float) -> str:
        """Return the sentence that explains the metrics below a table."""
        return (
            "A step is right if the kind of action and its argument are: a tap within "
            f"{threshold_label(threshold)} of the target (0-1000) or in its box, a scroll's direction, an equal text, "
            "key or app; an episode, if all its steps are. Answers that could not be parsed are wrong."
        )

    def outcome(self, row: Mapping[str, Any], threshold: float) -> str:
        """Return what came of one answer, in words."""
        if not row["parsed"]:
            return f"not parsed ({row['form']}), wrong"
        right = row[f"step_right_{threshold_label(threshold)}"]
        return f"{row['action']} for {row['target_action']}: {'right' if right else 'wrong'}"

    def marks(self, row: Mapping[str, Any], target: Truth, threshold: float) -> Marks | None:
        """Return what is drawn of one answer: for targets with a place only."""
        if target.place is None:
            return None
        point = row["x"], row["y"]
        shown = row["parsed"] and all(0 <= value <= SCALE for value in point)
        return Marks(target.place, point if shown else None, threshold, target.box)

    def marks_note(self, threshold: float) -> str:
        """Return the sentence that explains the marks."""
        return (
            f"The cross is the target of a tap; the dashed line is the distance of {threshold_label(threshold)} within "
            "which a tap is right. Where the data has the box of the element, it is drawn too."
        )


def _lacking(truth: Truth) -> str:
    if truth.action not in ACTIONS:
        return f"{truth.action!r} is no action; the actions are {', '.join(ACTIONS)}"
    needed = {SCROLL: "a direction", TYPE: "a text", OPEN_APP: "a text", PRESS: "a key"}
    return f"the action {truth.action} lacks {needed.get(truth.action, 'its point')}"


def _short(value: float) -> float:
    rounded = round(value, DECIMALS)
    return int(rounded) if rounded == int(rounded) else rounded


def _finite(values: Any, count: int) -> list[float]:
    numbers = [float(value) for value in values]
    if len(numbers) != count or not all(map(math.isfinite, numbers)):
        raise ValueError(f"{count} finite numbers are needed")
    return numbers


def _point(values: Any) -> Point:
    x, y = _finite(values, 2)
    return x, y


def _box(values: Any) -> Box:
    left, top, right, bottom = _finite(values, 4)
    return left, top, right, bottom

"""Reader for AndroidControl as JSON or JSON Lines: episodes, or single steps, with screenshots in files.

An entry is an episode with the fields of the original's records, or one step as in the evaluation data of UGround::

    {"episode_id": 7, "goal": "Send the mail", "screenshots": ["7/0.png", "7/1.png", "7/2.png"],
     "step_instructions": ["Open Mail", "Tap Send"],
     "actions": [{"action_type": "open_app", "app_name": "Mail"}, {"action_type": "click", "x": 540, "y": 210}]}

    {"episode_id": 7, "step": 1, "goal": "Send the mail", "step_instruction": "Tap Send", "screenshot": "7/1.png",
     "action": {"action_type": "click", "x": 540, "y": 210}}

Fields: https://github.com/google-research/google-research/blob/master/android_control/README.md and
https://github.com/OSU-NLP-Group/UGround/tree/main/offline_evaluation/AndroidControl. An action lies between two
screenshots, so an episode has one screenshot more; the last one shows its end and belongs to no sample. Other fields,
such as accessibility trees, are ignored.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from usertune.core.errors import shown
from usertune.data.entry_reader import EntryOptions, EntryReader, Place, numbers
from usertune.data.json_entries import parsed
from usertune.data.reader import BadSampleError, RawSample
from usertune.data.recognise import Found
from usertune.data.turns import checked_name, checked_text, question
from usertune.tasks.actions.verbs import IMPOSSIBLE, OPPOSITE
from usertune.tasks.truth import CLICK, FINISH, LONG_PRESS, OPEN_APP, PRESS, SCROLL, TYPE, WAIT, Truth

FRAME = "pixels"
BARE = True

Key = Literal[
    "episode_id",
    "goal",
    "actions",
    "screenshots",
    "step_instructions",
    "action",
    "screenshot",
    "step_instruction",
    "step",
    "app",
]
TAPS = {"click": CLICK, "long_press": LONG_PRESS}
# UGround joins a click and what is typed after it into type_text.
TYPED = ("input_text", "type", "type_text")
KEYS = {"navigate_back": "back", "navigate_home": "home"}
STATUS = {"successful": None, "complete": None, "infeasible": IMPOSSIBLE}
KINDS = (*TAPS, "scroll", "open_app", *TYPED, *KEYS, "wait", "status")
LARGEST_STEP = 10**18 - 1


class AndroidControlOptions(EntryOptions):
    """Options of ``dataset.format: androidcontrol``."""

    instruction: Literal["step", "goal"] = "step"
    """What a sample asks for: the instruction of its step, or the goal of its episode."""
    scroll: Literal["view", "finger"] = "view"
    """What the direction of a scroll moves: the view, as in AndroidControl (``down`` shows what is below), or the
    finger."""
    keys: dict[Key, str] = {}  # noqa: RUF012 (pydantic copies it)
    """Names of keys that the data call otherwise, such as ``{screenshot: image_path}``."""


class _Field(NamedTuple):
    """A value of an entry and its place there, for messages."""

    where: str
    value: Any


class _Step(NamedTuple):
    """One step of an episode."""

    number: int
    screenshot: _Field
    instruction: _Field
    action: _Field


class AndroidControlReader(EntryReader):
    """Reads episodes and steps of AndroidControl, see `usertune.data.reader.Reader`."""

    Options = AndroidControlOptions
    options: AndroidControlOptions

    @classmethod
    def recognise(cls, source: Path) -> Found | None:
        """Return what a file or folder holds in this format, see `usertune.data.recognise`."""
        if found := cls(source).recognised():
            return found
        found = cls(source, AndroidControlOptions(instruction="goal")).recognised()
        return found and replace(found, options={**found.options, "instruction": "goal"})

    def steps(self, entry: Mapping[str, Any]) -> int | None:
        """Return the number of an episode's actions; 1 for one without any, which is a bad sample."""
        actions = entry.get(self._key("actions"))
        return max(1, len(actions)) if isinstance(actions, list) else None

    def completed(self, entry: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return an entry with ``app``: the app that its episode opens first, unless it has the key."""
        actions = entry.get(self._key("actions"))
        if self._key("app") in entry or not isinstance(actions, list):
            return entry
        for action in map(_parsed, actions):
            if isinstance(action, dict) and action.get("action_type") == "open_app":
                name = action.get("app_name")
                return {**entry, self._key("app"): name} if isinstance(name, str) and name else entry
        return entry

    def image_names(self, entry: Mapping[str, Any]) -> Iterable[Any]:
        """Return the screenshots on which something is done."""
        if self._key("actions") not in entry:
            return [entry.get(self._key("screenshot"))]
        screenshots = entry.get(self._key("screenshots"))
        return screenshots[: self.steps(entry)] if isinstance(screenshots, list) else []

    def sample(self, entry: Mapping[str, Any], place: Place) -> RawSample:
        """Return one step."""
        is_episode = self._key("actions") in entry
        step = (self._step_of_episode if is_episode else self._single_step)(entry, place.position)
        episode = checked_name(entry, self._key("episode_id"), place.name)
        name = checked_name(entry, "id", episode if is_episode else f"{episode}-{step.number}")
        if is_episode:
            name = checked_name({"id": f"{name}-{step.number}"}, "id", name)
        about = self.about(entry, [self._key("app"), self._key("goal")])
        known: Key
        for known in ("app", "goal"):
            if self._key(known) in about:
                about[known] = about.pop(self._key(known))
        return RawSample(
            name,
            episode,
            step.number,
            question(step.instruction.value, step.instruction.where),
            [self.in_images(checked_text(step.screenshot.value, step.screenshot.where))],
            truth=self._truth(step.action),
            about=about,
        )

    def _step_of_episode(self, entry: Mapping[str, Any], number: int) -> _Step:
        actions, screenshots = self._list(entry, "actions"), self._list(entry, "screenshots")
        if not actions:
            raise BadSampleError(self._key("actions"), "an episode without actions has no samples")
        # The screenshot of the end can be left out.
        if len(screenshots) - len(actions) not in (0, 1):
            problem = f"{len(screenshots)} screenshots do not fit {len(actions)} actions"
            raise BadSampleError(self._key("screenshots"), problem)
        instruction = self._field(entry, "goal")
        if self.options.instruction == "step":
            instructions = self._list(entry, "step_instructions")
            if len(instructions) != len(actions):
                problem = f"{len(instructions)} instructions do not fit {len(actions)} actions"
                raise BadSampleError(self._key("step_instructions"), problem)
            instruction = _Field(f"{self._key('step_instructions')}[{number}]", instructions[number])
        return _Step(
            number,
            _Field(f"{self._key('screenshots')}[{number}]", screenshots[number]),
            instruction,
            _Field(f"{self._key('actions')}[{number}]", actions[number]),
        )

    def _single_step(self, entry: Mapping[str, Any], position: int) -> _Step:
        key = self._key("step")
        number = entry.get(key, position)
        if isinstance(number, bool) or not isinstance(number, int) or abs(number) > LARGEST_STEP:
            raise BadSampleError(key, f"{shown(number)} is not an integer of at most 18 digits")
        instruction = self._field(entry, "goal" if self.options.instruction == "goal" else "step_instruction")
        return _Step(number, self._field(entry, "screenshot"), instruction, self._field(entry, "action"))

    def _truth(self, field: _Field) -> Truth:
        """Return what was done in a step; a point is in the frame of the data."""
        action = _parsed(field.value)
        if not isinstance(action, dict):
            raise BadSampleError(field.where, f"an action is a JSON object, found {shown(field.value)}")
        kind = action.get("action_type")
        at = {name: f"{field.where}.{name}" for name in ("x, y", "text", "app_name", "direction", "goal_status")}
        match kind:
            case "click" | "long_press":
                x, y = numbers([action.get("x"), action.get("y")], at["x, y"], [2])
                return Truth(TAPS[kind], point=(x, y))
            case "input_text" | "type" | "type_text":
                return Truth(TYPE, text=checked_text(action.get("text"), at["text"]))
            case "open_app":
                return Truth(OPEN_APP, text=checked_text(action.get("app_name"), at["app_name"]))
            case "scroll":
                said = _one_of(action.get("direction"), OPPOSITE, at["direction"])
                return Truth(SCROLL, direction=OPPOSITE[said] if self.options.scroll == "view" else said)
            case "navigate_back" | "navigate_home":
                return Truth(PRESS, key=KEYS[kind])
            case "wait":
                return Truth(WAIT)
            case "status":
                return Truth(FINISH, key=STATUS[_one_of(action.get("goal_status"), STATUS, at["goal_status"])])
        raise BadSampleError(f"{field.where}.action_type", f"{shown(kind)} is not known; use one of {', '.join(KINDS)}")

    def _field(self, entry: Mapping[str, Any], key: Key) -> _Field:
        return _Field(self._key(key), entry.get(self._key(key)))

    def _list(self, entry: Mapping[str, Any], key: Key) -> list[Any]:
        value = entry.get(self._key(key))
        if not isinstance(value, list):
            raise BadSampleError(self._key(key), f"a list is needed, found {type(value).__name__}")
        return value

    def _key(self, key: Key) -> str:
        return self.options.keys.get(key, key)


def _parsed(action: Any) -> Any:
    """Return an action, which records hold as the text of a JSON object; None for a text that is no JSON."""
    if not isinstance(action, str):
        return action
    try:
        return parsed(action)
    except BadSampleError:
        return None


def _one_of(value: Any, words: Iterable[str], where: str) -> str:
    allowed = list(words)
    if not isinstance(value, str) or value not in allowed:
        raise BadSampleError(where, f"{shown(value)} is not known; use one of {', '.join(allowed)}")
    return value

"""Turns in role/content messages, as many formats of raw data hold them: checked, and with images by path."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from usertune.core.errors import shown
from usertune.data.prompt import placeholder_problem
from usertune.data.reader import BadSampleError, RawSample
from usertune.data.samples import Part, Turn

ROLES = ("system", "user", "assistant")
LONGEST_NAME = 200


def text_of(turn: Turn) -> str:
    """Return the texts of a turn as one."""
    return "".join(part.get("text", "") for part in turn["content"])


def read_turns(raw: Any, sample: RawSample) -> None:
    """Check a list of turns and add them to a sample, with their numbers in the list and the paths of their images.

    Images in a system turn are moved to the user turn that follows, because the chat template drops them there. Where
    the answer follows at once, they become a user turn of their own. A system turn without any text is left out.

    Args:
        raw: ``[{"role": "user", "content": ...}, ...]``, where a content is a text or a list of parts
            ``{"type": "text", "text": ...}`` and ``{"type": "image", "image": path}`` (or ``"path"``).
        sample: what the turns are added to.

    Raises:
        BadSampleError: the turns are not such a conversation, which ends in the assistant's answer.
    """
    if not isinstance(raw, list) or not raw:
        raise BadSampleError("messages", "a list of turns is needed")
    waiting: list[Part] = []
    for index, turn in enumerate(raw):
        where = f"messages[{index}]"
        if not isinstance(turn, dict) or turn.get("role") not in ROLES:
            raise BadSampleError(f"{where}.role", f"a turn needs a role, one of {', '.join(ROLES)}")
        role = turn["role"]
        if role == "system" and index > 0:
            raise BadSampleError(f"{where}.role", "a system turn may only be the first turn")
        parts = list(_read_parts(turn.get("content"), where, sample))
        images = [part for part in parts if part["type"] == "image"]
        if role == "assistant" and images:
            raise BadSampleError(f"{where}.content", "an assistant turn cannot hold images")
        if role == "system":
            waiting, parts = images, [part for part in parts if part["type"] == "text"]
            if images and not parts:
                continue
        elif role == "user":
            parts, waiting = waiting + parts, []
        elif waiting:
            sample.messages.append({"role": "user", "content": waiting})
            sample.numbers.append(0)
            waiting = []
        sample.messages.append({"role": role, "content": parts})
        sample.numbers.append(index)
    if not sample.messages or sample.messages[-1]["role"] != "assistant":
        raise BadSampleError("messages", "the last turn must be the assistant's answer")
    if not any(turn["role"] == "user" for turn in sample.messages):
        raise BadSampleError("messages", "a user turn is needed before the answer")
    if not text_of(sample.messages[-1]).strip():
        raise BadSampleError("messages", "the answer is empty")


def _read_parts(content: Any, where: str, sample: RawSample) -> Iterator[Part]:
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    if not isinstance(content, list):
        raise BadSampleError(f"{where}.content", "a text or a list of parts is needed")
    for index, part in enumerate(content):
        place = f"{where}.content[{index}]"
        if not isinstance(part, dict):
            raise BadSampleError(place, "a part is an object with a type, text or image")
        if part.get("type") == "text":
            text = checked_text(part.get("text"), f"{place}.text")
            if problem := placeholder_problem(text):
                raise BadSampleError(f"{place}.text", problem)
            yield {"type": "text", "text": text}
        elif part.get("type") == "image":
            sample.image_paths.append(checked_text(part.get("image", part.get("path")), f"{place}.image"))
            yield {"type": "image"}
        else:
            raise BadSampleError(f"{place}.type", f"{shown(part.get('type'))} is not known; use text or image")


def checked_name(raw: Mapping[str, Any], key: str, default: str) -> str:
    """Return the name that a raw sample has under a key, as text.

    Raises:
        BadSampleError: it is not a name.
    """
    value = raw.get(key, default)
    if isinstance(value, bool) or not isinstance(value, str | int) or not 0 < len(str(value)) <= LONGEST_NAME:
        raise BadSampleError(key, f"{shown(value)} is not a name of 1 to {LONGEST_NAME} characters")
    if {"\r", "\0"} & set(str(value)):
        raise BadSampleError(key, f"{shown(value)} holds a carriage return or NUL, which would be lost in tables")
    return checked_text(str(value), key)


def checked_text(value: Any, where: str) -> str:
    """Return a text of a raw sample; ``where`` names it.

    Raises:
        BadSampleError: it is not a text that UTF-8 can express.
    """
    if not isinstance(value, str):
        raise BadSampleError(where, f"a text is needed, found {type(value).__name__}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise BadSampleError(where, "the text holds half of a surrogate pair, which UTF-8 cannot express") from None
    return value

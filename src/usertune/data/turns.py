"""Read turns in role/content messages, which many formats of raw data have."""

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
    """Return the texts of a turn, joined."""
    return "".join(part.get("text", "") for part in turn["content"])


def read_turns(raw: Any, sample: RawSample) -> None:
    """Check a list of turns and add them to a sample, with their indices in the list and their image paths.

    Images in a system turn move to the user turn that follows, because the chat template drops them in a system turn.
    If an answer follows directly, they become a user turn of their own. A system turn without text is dropped.

    Args:
        raw: ``[{"role": "user", "content": ...}, ...]``; a content is a text or a list of parts
            ``{"type": "text", "text": ...}`` and ``{"type": "image", "image": path}`` (or ``"path"``).
        sample: the sample to extend.

    Raises:
        BadSampleError: the turns do not have this form, or are not a conversation that ends in the assistant's answer.
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


def question(text: Any, key: str, images: int = 1) -> list[Turn]:
    """Return the turn of a bare instruction, after its images.

    Args:
        text: the instruction.
        key: its key in the sample, for the error.
        images: number of images.

    Raises:
        BadSampleError: the instruction is no text, is empty, or holds a placeholder of another format.
    """
    words = checked_text(text, key)
    if not words.strip():
        raise BadSampleError(key, "the text is empty")
    if problem := placeholder_problem(words):
        raise BadSampleError(key, problem)
    pictures: list[Part] = [{"type": "image"}] * images
    return [{"role": "user", "content": [*pictures, {"type": "text", "text": words}]}]


def _read_parts(content: Any, where: str, sample: RawSample) -> Iterator[Part]:
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    if not isinstance(content, list):
        raise BadSampleError(f"{where}.content", "a text or a list of parts is needed")
    for index, part in enumerate(content):
        part_path = f"{where}.content[{index}]"
        if not isinstance(part, dict):
            raise BadSampleError(part_path, "a part is an object with a type, text or image")
        if part.get("type") == "text":
            text = checked_text(part.get("text"), f"{part_path}.text")
            if problem := placeholder_problem(text):
                raise BadSampleError(f"{part_path}.text", problem)
            yield {"type": "text", "text": text}
        elif part.get("type") == "image":
            sample.image_paths.append(checked_text(part.get("image", part.get("path")), f"{part_path}.image"))
            yield {"type": "image"}
        else:
            raise BadSampleError(f"{part_path}.type", f"{shown(part.get('type'))} is not known; use text or image")


def checked_name(raw: Mapping[str, Any], key: str, default: str) -> str:
    """Return the name under a key of a raw sample, as text; ``default`` if the key is missing.

    Raises:
        BadSampleError: the value is not a name of 1 to `LONGEST_NAME` characters.
    """
    value = raw.get(key, default)
    if isinstance(value, bool) or not isinstance(value, str | int) or not 0 < len(str(value)) <= LONGEST_NAME:
        raise BadSampleError(key, f"{shown(value)} is not a name of 1 to {LONGEST_NAME} characters")
    if {"\r", "\0"} & set(str(value)):
        raise BadSampleError(key, f"{shown(value)} holds a carriage return or NUL, which tables would lose")
    return checked_text(str(value), key)


def checked_text(value: Any, where: str) -> str:
    """Return a text of a raw sample, after a check; ``where`` is its path in the sample, for the error.

    Raises:
        BadSampleError: the value is not a text, or UTF-8 cannot express it.
    """
    if not isinstance(value, str):
        raise BadSampleError(where, f"a text is needed, found {type(value).__name__}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise BadSampleError(where, "the text holds half of a surrogate pair, which UTF-8 cannot express") from None
    return value

"""Put the images of a sample where ``<image>`` stands in its texts, as Qwen, LLaVA and ms-swift JSON have it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from usertune.core.errors import shown
from usertune.data.reader import BadSampleError
from usertune.data.turns import checked_text

IMAGE = "<image>"


def texts_of_turns(
    raw: Any, field: str, role_key: str, text_key: str, roles: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    """Yield role and text of each turn of a sample.

    Args:
        raw: the list of turns.
        field: where the sample has it, for errors.
        role_key: the key of a turn's role.
        text_key: the key of a turn's text.
        roles: role in the data -> role in messages.

    Raises:
        BadSampleError: there is no turn, or a turn does not have this form.
    """
    if not isinstance(raw, list) or not raw:
        raise BadSampleError(field, "a list of turns is needed")
    for index, turn in enumerate(raw):
        where = f"{field}[{index}]"
        role = turn.get(role_key) if isinstance(turn, dict) else None
        if not isinstance(role, str) or role not in roles:
            raise BadSampleError(f"{where}.{role_key}", f"{shown(role)} is not known; use one of {', '.join(roles)}")
        yield roles[role], checked_text(turn.get(text_key), f"{where}.{text_key}")


def with_images(turns: Sequence[tuple[str, str]], images: Sequence[str], key: str, strip: bool) -> list[dict[str, Any]]:
    """Return turns in role/content messages, as `usertune.data.turns.read_turns` reads them.

    Without any ``<image>``, the images come first in the first user turn, as in ms-swift; Qwen's own program refuses
    such a sample, and LLaVA's would not show the images.

    Args:
        turns: role and text of each turn.
        images: the paths of the images, in the order in which they are shown.
        key: the key of the images, for errors.
        strip: whether white space around the pieces of a user's text is removed, as Qwen's own program does.

    Raises:
        BadSampleError: there are not as many ``<image>`` as images.
    """
    count = sum(text.count(IMAGE) for role, text in turns if role != "assistant")
    if count not in (0, len(images)):
        raise BadSampleError(key, f"{len(images)} images, but the texts have {count} times {IMAGE}")
    first = next((index for index, (role, _) in enumerate(turns) if role == "user"), 0)
    waiting = iter(images)
    messages = []
    for index, (role, text) in enumerate(turns):
        content: list[dict[str, str]] = []
        if not count and index == first:
            content += ({"type": "image", "image": path} for path in waiting)
        pieces = text.split(IMAGE) if role != "assistant" else [text]
        for number, piece in enumerate(pieces):
            if number:
                content.append({"type": "image", "image": next(waiting)})
            words = piece.strip() if strip and role == "user" else piece
            if words:
                content.append({"type": "text", "text": words})
        messages.append({"role": role, "content": content})
    return messages


def listed(value: Any, key: str) -> list[str]:
    """Return the image paths of a sample: a text, a list of texts, or nothing.

    Raises:
        BadSampleError: it is something else.
    """
    found = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise BadSampleError(key, "a path or a list of paths is needed")
    return found

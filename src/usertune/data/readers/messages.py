"""Reader for a folder of ``user_<id>.jsonl``: one sample a line, in role/content messages.

A line looks like this (``id``, ``episode`` and ``step`` may be left out)::

    {"id": "7-0012", "episode": "7-e03", "step": 2, "messages": [
      {"role": "user", "content": [{"type": "image", "image": "images/user_7/0012.png"},
                                   {"type": "text", "text": "Where is the mail icon?"}]},
      {"role": "assistant", "content": "...the answer..."}]}

``content`` is a text or a list of parts; an image part names its file under ``image`` or ``path``, relative to
the dataset's root. The conversation ends with the answer turn; earlier assistant turns are context in
prediction, and are trained on like the last one.
"""

from __future__ import annotations

import codecs
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from usertune.core.errors import UserError, shown
from usertune.core.files import other_unicode
from usertune.core.users import format_users, sort_key
from usertune.data.samples import Part, Turn, path_problem

ROLES = ("system", "user", "assistant")
SAMPLE_KEYS = frozenset({"id", "episode", "step", "user", "messages"})
# Stands in the study's prompt for the text of a sample.
PROMPT_TEXT = "{text}"
LARGEST_STEP = 10**18 - 1
LONGEST_NAME = 200
# Of LLaVA and Qwen JSON, of ms-swift, of Qwen3-VL's chat template, and of Qwen-VL.
_PLACEHOLDER = re.compile(
    r"<(?:image|video|audio|image_pad|video_pad|ref-object|bbox|ImageHere|IMG_CONTEXT)>"
    r"|<\|(?:image_pad|video_pad|vision_start|vision_end|vision_pad|image)\|>|<img>[^<\n]*</img>"
)
_FILE = re.compile(r"user_([A-Za-z0-9_.-]+)\.jsonl")


class BadSampleError(ValueError):
    """A raw sample does not pass the checks; ``field`` says where in the sample."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(problem)
        self.field = field


@dataclass
class RawSample:
    """One line of a raw file, with images by path and not yet opened.

    ``numbers`` are the places that the turns have in the raw file, for messages.
    """

    id: str
    episode: str
    step: int
    messages: list[Turn]
    image_paths: list[str] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)


def user_file(root: str | Path, user: str) -> Path:
    """Return the raw file of a user."""
    return Path(root) / f"user_{user}.jsonl"


def available_users(root: str | Path) -> list[str]:
    """Return the users who have a raw file, numbers first."""
    found = (_FILE.fullmatch(path.name) for path in Path(root).iterdir())
    return sorted((match[1] for match in found if match), key=sort_key)


def describe_available(root: str | Path) -> str:
    """Return a phrase that says which users a dataset has."""
    users = available_users(root)
    return f"found {len(users)} users there: {format_users(users)}" if users else "found no user_<id>.jsonl there"


def raw_lines(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the 1-based numbers and bytes of a raw file's lines that are not blank.

    Lines end at a line feed and at nothing else; a carriage return before it is white space to JSON. A byte order
    mark is left out wherever a line begins with one, since files with one are also joined.

    Raises:
        UserError: the file is UTF-16 or UTF-32.
    """
    if other := other_unicode(content):
        raise UserError(f"the file is {other}; save it as UTF-8")
    for number, line in enumerate(content.split(b"\n"), start=1):
        line = line.removeprefix(codecs.BOM_UTF8)
        if line.strip():
            yield number, line


def parse_line(line: bytes | str, user: str, number: int) -> RawSample:
    """Parse and check one line of a raw file (1-based ``number``), without opening its images.

    Images in a system turn are moved to the user turn that follows, because the chat template drops them there. Where
    the answer follows at once, they become a user turn of their own. A system turn without any text is left out.

    Raises:
        BadSampleError: the line does not follow the format of this module.
    """
    try:
        raw = json.loads(line if isinstance(line, str) else line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise BadSampleError("line", f"not valid UTF-8 (save the file as UTF-8): {error}") from None
    # A ValueError that is no JSONDecodeError is a number of more digits than Python reads.
    except (ValueError, RecursionError) as error:
        raise BadSampleError("line", f"not valid JSON: {error}") from None
    if not isinstance(raw, dict):
        raise BadSampleError("line", f"expected a JSON object, found {type(raw).__name__}")
    unknown = sorted(set(raw) - SAMPLE_KEYS)
    if unknown:
        raise BadSampleError(
            shown(unknown[0])[1:-1] or "''", f"unknown key; the keys are {', '.join(sorted(SAMPLE_KEYS))}"
        )
    if "user" in raw and not (isinstance(raw["user"], str | int) and str(raw["user"]) == user):
        raise BadSampleError("user", f"{shown(raw['user'])} in the file of user {user}")
    sample_id = _name(raw, "id", f"{user}-line-{number}")
    step = raw.get("step", 0)
    if isinstance(step, bool) or not isinstance(step, int) or abs(step) > LARGEST_STEP:
        raise BadSampleError("step", f"{shown(step)} is not an integer of at most 18 digits")
    sample = RawSample(sample_id, _name(raw, "episode", sample_id), step, [])
    _read_turns(raw.get("messages"), sample)
    return sample


def put_prompt(sample: RawSample, prompt: Mapping[str, str | None]) -> None:
    """Put the study's prompt around a sample, in place.

    Args:
        sample: the sample; its last user turn is the one that asks for the answer.
        prompt: ``system``, the text of the system turn (None or missing: the sample's own), and ``user``, a text in
            which ``{text}`` stands for the texts of the last user turn.
    """
    if prompt.get("system") is not None:
        turns = [turn for turn in sample.messages if turn["role"] != "system"]
        sample.messages = [{"role": "system", "content": [{"type": "text", "text": prompt["system"] or ""}]}, *turns]
    before, _, after = (prompt.get("user") or PROMPT_TEXT).partition(PROMPT_TEXT)
    asking = next(turn for turn in reversed(sample.messages) if turn["role"] == "user")
    texts = [part for part in asking["content"] if part["type"] == "text"]
    if not texts and (before or after):
        texts = [{"type": "text", "text": ""}]
        asking["content"].extend(texts)
    if texts:
        texts[0]["text"] = before + texts[0]["text"]
        texts[-1]["text"] += after


def placeholder_problem(text: str) -> str | None:
    """Say that a text holds a placeholder which another program would have replaced; None if it does not.

    Here images are parts of their own, so a model would read the placeholder as text.
    """
    if not (found := _PLACEHOLDER.search(text)):
        return None
    return (
        f"{shown(found[0])} is in the text, where other programs put an image or an object in its place; here a model "
        'would read it as text. Give an image as a part {"type": "image", "image": PATH} and leave the placeholder '
        "out (if these characters are meant, write them otherwise, as &lt;image&gt;)"
    )


def text_of(turn: Turn) -> str:
    """Return the texts of a turn as one."""
    return "".join(part.get("text", "") for part in turn["content"])


def image_references(path: Path) -> set[str]:
    """Return the image paths that a raw file names, as far as its lines can be parsed and paths can be images'."""
    references: set[str] = set()
    # A file that cannot be read as a whole is reported when its user is prepared.
    with suppress(UserError):
        for _, line in raw_lines(path.read_bytes()):
            try:
                turns = json.loads(line.decode("utf-8"))["messages"]
                parts = [part for turn in turns for part in turn["content"] if isinstance(part, dict)]
                named = {part[key] for part in parts for key in ("image", "path") if isinstance(part.get(key), str)}
            except (ValueError, KeyError, TypeError, RecursionError):
                continue
            references.update(reference for reference in named if not path_problem(reference))
    return references


def image_stats(root: str | Path, user: str) -> list[tuple[str, int, int]]:
    """Return (path, size in bytes, modification time in ns) of the images a user's raw file names, sorted.

    A missing image has size and time -1. Each folder is scanned once for all users.
    """
    stats = []
    for reference in sorted(image_references(user_file(root, user))):
        path = Path(root) / reference
        size, modified = _scan_folder(str(path.parent)).get(path.name, (-1, -1))
        stats.append((reference, size, modified))
    return stats


@cache
def _scan_folder(folder: str) -> dict[str, tuple[int, int]]:
    found = {}
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            # A link that leads nowhere is one missing image, not a folder of missing images.
            with suppress(OSError):
                stat = entry.stat()
                found[entry.name] = (stat.st_size, stat.st_mtime_ns)
    return found


def _read_turns(raw: Any, sample: RawSample) -> None:
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
            text = _text(part.get("text"), f"{place}.text")
            if problem := placeholder_problem(text):
                raise BadSampleError(f"{place}.text", problem)
            yield {"type": "text", "text": text}
        elif part.get("type") == "image":
            sample.image_paths.append(_text(part.get("image", part.get("path")), f"{place}.image"))
            yield {"type": "image"}
        else:
            raise BadSampleError(f"{place}.type", f"{shown(part.get('type'))} is not known; use text or image")


def _name(raw: dict[str, Any], key: str, default: str) -> str:
    value = raw.get(key, default)
    if isinstance(value, bool) or not isinstance(value, str | int) or not 0 < len(str(value)) <= LONGEST_NAME:
        raise BadSampleError(key, f"{shown(value)} is not a name of 1 to {LONGEST_NAME} characters")
    if {"\r", "\0"} & set(str(value)):
        raise BadSampleError(key, f"{shown(value)} holds a carriage return or NUL, which would be lost in tables")
    return _text(str(value), key)


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise BadSampleError(where, f"a text is needed, found {type(value).__name__}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise BadSampleError(where, "the text holds half of a surrogate pair, which UTF-8 cannot express") from None
    return value

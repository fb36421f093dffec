"""Reader for the raw tree of FingerTip-20K: a folder per user and episode.

The layout, as in the dataset's README; some users' folders hold a second one of the same name::

    <uid>[/<uid>]/<YYYYMMDD_HHMMSS>/
        action.jsonl          {"1741498279844.jpg": "click(coordinates=(336, 1267), content='...')"}, one action a line
        survey_result.json    {"user_id", "time", "scenario", "app", "intentDescription"}
        Screenshots/          1741498279844.jpg, ...; also spelled screenshots

Each action is a sample: its screenshot, an instruction, and the action (`usertune.data.action_calls`) as the answer.
"""

from __future__ import annotations

import codecs
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from usertune.core.errors import UserError, shown
from usertune.core.files import decode_text
from usertune.core.recipe import Settings
from usertune.core.users import parse_users, sort_key
from usertune.data.action_calls import parse_call
from usertune.data.prompt import placeholder_problem
from usertune.data.reader import BadSampleError, FileState, Location, RawSample, UserFiles
from usertune.data.recognise import Found
from usertune.data.samples import About, Part, path_problem
from usertune.data.turns import checked_name, checked_text
from usertune.tasks.truth import CLICK, LONG_PRESS

FRAME = "pixels"
BARE = True

ACTIONS, SURVEY = "action.jsonl", "survey_result.json"
SCREENSHOTS = "screenshot"
IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
MAX_BYTES = 1 << 26
# Most names, for speed.
_USUAL_IMAGE = re.compile(r"[0-9]{1,20}\.jpg")
_EPISODE = re.compile(r"[0-9]{8}_[0-9]{6}")
# Key of the survey -> key of a sample's `about`.
_ABOUT = {"app": "app", "scenario": "scenario", "intentDescription": "intent", "time": "time"}


class FingerTipOptions(Settings):
    """The keys of ``dataset.options``."""

    instruction: Literal["content", "intent"] = "content"
    """What a sample asks for: the content of the touched element, or the intent of the episode. Actions without an
    element always have the intent."""
    renumber: bool = False
    """Whether the users are 1 to N, in the order of the ids in the data, which have gaps."""


class FingerTipReader:
    """Reads the raw tree, see `usertune.data.reader.Reader`."""

    looks_for = f"<uid>/<YYYYMMDD_HHMMSS>/{ACTIONS}"
    Options = FingerTipOptions

    def __init__(self, root: Path, options: FingerTipOptions) -> None:
        self.root, self.options = root, options
        # As text: planning joins paths for every folder.
        self._root = str(root)

    @classmethod
    def recognise(cls, source: Path) -> Found | None:
        """Return what a folder holds in this format, see `usertune.data.recognise`."""
        found = (path for depth in ("*/*/", "*/*/*/") for path in source.glob(depth + ACTIONS))
        first = next((path for path in found if _EPISODE.fullmatch(path.parent.name)), None)
        if first is None:
            return None
        return Found(source, f"{first.relative_to(source).as_posix()}: the raw tree of FingerTip-20K", frame=FRAME)

    def users(self) -> list[str]:
        """Return the users who have an episode, numbers first.

        Raises:
            UserError: a folder with episodes has a name that is no user id, or an episode's name cannot be in a path.
        """
        return list(self._folders)

    def raw_id(self, user: str) -> str:
        """Return the id that a user has in the data."""
        return self._folders[user]

    def sources(self, user: str) -> list[Path]:
        """Return the files with actions and surveys of the user's episodes."""
        files = (self.root / episode / name for episode in self._episodes(user) for name in (ACTIONS, SURVEY))
        return [file for file in files if _answers(file.is_file)]

    def images(self, user: str) -> set[str]:
        """Return the user's screenshots, whether or not an action names them."""
        return {image.path for image in self.scan(user).images}

    def scan(self, user: str) -> UserFiles:
        """Return size and time of the user's files; each folder is listed once, and no file is opened."""
        sources: list[FileState] = []
        images: list[FileState] = []
        for episode in self._episodes(user):
            for entry in self._list(episode):
                if entry.name in (ACTIONS, SURVEY):
                    sources += _states(episode, [entry])
                elif _holds_screenshots(entry):
                    folder = f"{episode}/{entry.name}"
                    images += _states(folder, [file for file in self._list(folder) if _is_image(file.name)])
        return UserFiles(sorted(sources), sorted(images))

    def count(self, user: str) -> int:
        """Return how many actions the user's files hold; an episode without any counts as one."""
        return sum(max(self._count(episode), 1) for episode in self._episodes(user))

    def _count(self, episode: str) -> int:
        try:
            return sum(bool(line.strip()) for line in self._lines(episode))
        except BadSampleError:
            return 0

    def read(self, user: str) -> Iterator[tuple[Location, RawSample | BadSampleError]]:
        """Yield the user's actions, episode by episode, in the order of their files."""
        for episode in self._episodes(user):
            file = self.root / episode / ACTIONS
            try:
                lines = [(number, line) for number, line in enumerate(self._lines(episode), start=1) if line.strip()]
                if not lines:
                    raise BadSampleError(ACTIONS, "the file holds no action")
            except BadSampleError as problem:
                yield Location(file, 1), problem
                continue
            samples = self._episode(user, episode, [line for _, line in lines])
            yield from zip((Location(file, number) for number, _ in lines), samples, strict=True)

    def _episode(self, user: str, episode: str, lines: list[bytes]) -> Iterator[RawSample | BadSampleError]:
        """Yield the sample of each line, or its problem."""
        try:
            survey: About | BadSampleError = self._survey(user, episode)
        except BadSampleError as problem:
            survey = problem
        screenshots = self._screenshots(episode)
        actions: Counter[str] = Counter()
        for step, line in enumerate(lines):
            try:
                screenshot, call = _parse_line(line)
                actions[screenshot] += 1
                if isinstance(survey, BadSampleError):
                    raise survey
                sample = self._sample(call, survey)
                sample.step, sample.episode = step, episode.rpartition("/")[2]
                checked_name({"episode": sample.episode}, "episode", "")
                # A second action on one screenshot needs an id of its own.
                again = f"-{actions[screenshot]}" if actions[screenshot] > 1 else ""
                sample.id = checked_name({}, "screenshot", f"{sample.episode}-{Path(screenshot).stem}{again}")
                if screenshot not in screenshots:
                    raise BadSampleError("screenshot", f"{shown(screenshot)} is in no folder of screenshots here")
                sample.image_paths.append(screenshots[screenshot])
                yield sample
            except BadSampleError as problem:
                yield problem

    def _sample(self, call: str, survey: About) -> RawSample:
        """Return the sample of one action, still without name and screenshot.

        Raises:
            BadSampleError: the action has another form, or there is no instruction.
        """
        try:
            truth = parse_call(call)
        except ValueError as error:
            raise BadSampleError("action", str(error)) from None
        for field, text in (("content", truth.element), ("text", truth.text), ("key", truth.key)):
            if text is not None:
                _require_plain(text, field)
        about = {**survey, **({"content": truth.element} if truth.element else {})}
        if self.options.instruction == "content" and truth.action in (CLICK, LONG_PRESS):
            text = truth.element or ""
            if not text.strip():
                raise BadSampleError("content", "the action says nothing of the element, so there is no instruction")
        else:
            text = str(about.get("intent", ""))
            if not text.strip():
                raise BadSampleError("intent", f"{SURVEY} has no intentDescription, so there is no instruction")
            _require_plain(text, "intent")
        question: list[Part] = [{"type": "image"}, {"type": "text", "text": text}]
        return RawSample("", "", 0, [{"role": "user", "content": question}], truth=truth, about=about)

    @cached_property
    def _folders(self) -> dict[str, str]:
        """The name of the folder of each user."""
        found = []
        for entry in sorted(self._list(""), key=lambda entry: entry.name):
            if _is_folder(entry) and next(self._episodes_in(entry.name), None):
                if not _is_user_id(entry.name):
                    raise UserError(
                        f"{self.root}: the folder {shown(entry.name)} holds episodes, but this is no user id "
                        "(a number without leading zeros, or letters, digits, '_', '-' and '.'); rename it"
                    )
                found.append(entry.name)
        found.sort(key=sort_key)
        return {str(number) if self.options.renumber else raw: raw for number, raw in enumerate(found, start=1)}

    def _episodes(self, user: str) -> list[str]:
        """Return the folders of a user's episodes, relative to the root, in the order of time."""
        if user not in self._folders:
            return []
        return sorted(
            self._episodes_in(self._folders[user]), key=lambda path: (path.rpartition("/")[2], path.count("/"))
        )

    def _episodes_in(self, folder: str) -> Iterator[str]:
        raw = folder.rpartition("/")[2]
        for entry in self._list(folder):
            path = f"{folder}/{entry.name}"
            if not _is_folder(entry):
                continue
            if entry.name == raw and folder == raw:
                yield from self._episodes_in(path)
            elif _EPISODE.fullmatch(entry.name) or _answers((self.root / path / ACTIONS).is_file):
                if problem := path_problem(path):
                    raise UserError(f"{self.root}: the folder {shown(path)} {problem}")
                yield path

    def _list(self, folder: str) -> list[os.DirEntry[str]]:
        """Return what is in a folder; nothing if it cannot be listed, which `read` reports."""
        try:
            with os.scandir(f"{self._root}/{folder}") as entries:
                return list(entries)
        except OSError:
            return []

    def _lines(self, episode: str) -> list[bytes]:
        """Return the lines of an episode's actions, blank ones too.

        Raises:
            BadSampleError: the file is missing or cannot be read.
        """
        content = _content(self.root / episode / ACTIONS, ACTIONS)
        return [line.removeprefix(codecs.BOM_UTF8) for line in content.split(b"\n")]

    def _survey(self, user: str, episode: str) -> About:
        """Return what an episode's survey says.

        Raises:
            BadSampleError: the file is missing, or has another form; the message names the key.
        """
        content = _content(self.root / episode / SURVEY, SURVEY)
        try:
            survey = json.loads(decode_text(content))
        except (ValueError, RecursionError) as error:
            raise BadSampleError(SURVEY, f"not valid JSON: {error}") from None
        if not isinstance(survey, dict):
            raise BadSampleError(SURVEY, f"expected a JSON object, found {type(survey).__name__}")
        about: About = {"uid": self._folders[user]}
        for key, name in _ABOUT.items():
            value = survey.get(key)
            if value is None or value == "":
                continue
            if isinstance(value, bool) or not isinstance(value, str | int | float):
                raise BadSampleError(SURVEY, f"{key}: a text is needed, found {type(value).__name__}")
            about[name] = checked_text(str(value), SURVEY)
        return about

    def _screenshots(self, episode: str) -> dict[str, str]:
        """Return the path of each screenshot of an episode, by its name."""
        found: dict[str, str] = {}
        for entry in sorted(filter(_holds_screenshots, self._list(episode)), key=lambda entry: entry.name):
            for file in self._list(f"{episode}/{entry.name}"):
                found.setdefault(file.name, f"{episode}/{entry.name}/{file.name}")
        return found


def _is_user_id(name: str) -> bool:
    try:
        return parse_users(name) == [name]
    except UserError:
        return False


def _is_folder(entry: os.DirEntry[str]) -> bool:
    # Hidden ones are of the file system or of an editor.
    return not entry.name.startswith(".") and _answers(entry.is_dir)


def _holds_screenshots(entry: os.DirEntry[str]) -> bool:
    name = entry.name
    return name.casefold().startswith(SCREENSHOTS) and not path_problem(name) and _answers(entry.is_dir)


def _answers(question: Callable[[], bool]) -> bool:
    # A link that leads to itself cannot be followed, and a folder can be closed to this user.
    with suppress(OSError):
        return question()
    return False


def _is_image(name: str) -> bool:
    return bool(_USUAL_IMAGE.fullmatch(name)) or (name.casefold().endswith(IMAGES) and not path_problem(name))


def _states(folder: str, entries: Iterable[os.DirEntry[str]]) -> Iterator[FileState]:
    for entry in entries:
        # Not suppress(), which takes longer than the call.
        try:
            stat = entry.stat()
        except OSError:
            # A link that leads nowhere.
            continue
        yield FileState(f"{folder}/{entry.name}", stat.st_size, stat.st_mtime_ns)


def _content(file: Path, name: str) -> bytes:
    """Read a file of an episode.

    Raises:
        BadSampleError: it is missing, no file, too large, or cannot be read.
    """
    try:
        if not file.is_file():
            raise BadSampleError(name, "this is not a file" if file.exists() else "the file is missing")
        if file.stat().st_size > MAX_BYTES:
            raise BadSampleError(name, f"the file has more than {MAX_BYTES:,} bytes")
        return file.read_bytes()
    except OSError as error:
        raise BadSampleError(name, f"cannot be read: {error.strerror}") from None


def _parse_line(line: bytes) -> tuple[str, str]:
    """Return the name of the screenshot and the action in one line.

    Raises:
        BadSampleError: the line is not a JSON object with one name and one text.
    """
    try:
        pairs = json.loads(line.decode("utf-8"), object_pairs_hook=_Pairs)
    except UnicodeDecodeError as error:
        raise BadSampleError("line", f"not valid UTF-8 (save the file as UTF-8): {error}") from None
    except (ValueError, RecursionError) as error:
        raise BadSampleError("line", f"not valid JSON: {error}") from None
    if not isinstance(pairs, _Pairs) or len(pairs) != 1:
        found = f"{len(pairs)} keys" if isinstance(pairs, _Pairs) else type(pairs).__name__
        raise BadSampleError("line", f"expected a JSON object with one key, the name of a screenshot; found {found}")
    name, call = pairs[0]
    if not isinstance(call, str):
        raise BadSampleError("action", f"a text is needed, found {type(call).__name__}")
    if "/" in name or not _is_image(name):
        raise BadSampleError("screenshot", f"{shown(name)} is not the name of a screenshot, as in 1741498279844.jpg")
    return name, call


class _Pairs(list[tuple[str, Any]]):
    """The keys and values of a JSON object, with keys that occur twice."""


def _require_plain(text: str, field: str) -> None:
    checked_text(text, field)
    if problem := placeholder_problem(text):
        raise BadSampleError(field, problem)

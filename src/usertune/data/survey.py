"""Counts what the users of a study have: samples, episodes, apps, actions, image sizes and the span of time."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from usertune.core.errors import UserError
from usertune.data.folds import TIME, FoldSettings, folds_of
from usertune.data.images import FORMATS, BadImageError, resolve_inside
from usertune.data.leakage import Seen, seen
from usertune.data.reader import BadSampleError, Reader, RenumbersUsers
from usertune.data.samples import read_user

# What the samples of formats with answers instead of actions are counted as.
ANSWER = "answer"
CLICK = "click"
# A key of a sample's `about`.
APP = "app"


@dataclass
class UserCounts:
    """What one user has.

    Attributes:
        user: the user's id in the study.
        split: the user's split.
        raw_id: the user's id in the data.
        samples: number of samples.
        bad: number of samples that cannot be used.
        episodes: names of the episodes.
        apps: app -> number of samples; samples that name none are left out.
        actions: kind of action -> number of samples, also of kinds that the task does not ask for.
        sizes: (width, height) in pixels -> number of different images.
        times: the times that the data give, as they are written.
        seen: what is compared of each sample to find what splits have in common. In raw data these are the paths of
            images alone, and each sample has a conversation of its own.
        fold_of: sample id -> fold, of prepared samples of test users with enough of them for the study's folds.
    """

    user: str
    split: str
    raw_id: str = ""
    samples: int = 0
    bad: int = 0
    episodes: set[str] = field(default_factory=set)
    apps: Counter[str] = field(default_factory=Counter)
    actions: Counter[str] = field(default_factory=Counter)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    times: set[str] = field(default_factory=set)
    seen: list[Seen] = field(default_factory=list)
    fold_of: dict[str, int] = field(default_factory=dict)

    def add(self, episode: str, action: str, about: Mapping[str, Any]) -> None:
        """Count one sample."""
        self.samples += 1
        self.episodes.add(episode)
        self.actions[action] += 1
        if APP in about:
            self.apps[str(about[APP])] += 1
        if TIME in about:
            self.times.add(str(about[TIME]))


def of_prepared(users: Sequence[tuple[str, Path]], folds: FoldSettings | None = None) -> Iterator[UserCounts]:
    """Yield the counts of prepared samples.

    Args:
        users: split and manifest of each user.
        folds: the folds of each test user's samples, if the study has folds.

    Raises:
        UserError: samples are missing or damaged.
    """
    for split, path in users:
        manifest, samples = read_user(path)
        found = UserCounts(manifest["user"], split, str(manifest.get("raw_id") or manifest["user"]))
        found.bad = manifest["skipped"]
        images: dict[str, tuple[int, int]] = {}
        for sample in samples:
            target = sample["target"]
            action = str(target.get("action", CLICK if "point" in target else ANSWER))
            found.add(sample["episode"], action, sample.get("about", {}))
            found.seen.append(seen(sample))
            images |= {image["sha256"]: (image["width"], image["height"]) for image in sample["images"]}
        if folds and split == "test":
            with suppress(UserError):
                found.fold_of = folds_of(samples, folds)
        found.actions.update(manifest.get("not_asked", {}))
        found.sizes.update(images.values())
        yield found


def of_raw(reader: Reader, root: Path, users: Sequence[tuple[str, str]]) -> Iterator[UserCounts]:
    """Yield the counts of raw samples; of images the header alone is read.

    Args:
        reader: the reader of the data.
        root: folder of the raw data.
        users: split and id of each user.

    Raises:
        UserError: a file cannot be read at all.
    """
    for split, user in users:
        found = UserCounts(user, split, reader.raw_id(user) if isinstance(reader, RenumbersUsers) else user)
        images: dict[str, None] = {}
        for _, raw in reader.read(user):
            if isinstance(raw, BadSampleError):
                found.bad += 1
                continue
            found.add(raw.episode, raw.truth.action if raw.truth else ANSWER, raw.about)
            found.seen.append(Seen(user, raw.id, (), tuple(raw.image_paths), f"{user} {found.samples}"))
            images |= dict.fromkeys(raw.image_paths)
        found.sizes.update(size for path in images if (size := header_size(root, path)))
        yield found


def header_size(root: Path, path: str) -> tuple[int, int] | None:
    """Return width and height in an image's header, in pixels; None if it cannot be read."""
    try:
        file = resolve_inside(root, path)
        if not file.is_file():
            return None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(file, formats=FORMATS) as image:
                return image.size
    # Pillow raises errors of many kinds on broken metadata.
    except (BadImageError, OSError, ValueError, SyntaxError, TypeError, Image.DecompressionBombError):
        return None


def user_rows(users: Sequence[UserCounts]) -> list[dict[str, Any]]:
    """Return one row for each user; shares are fractions, and None for a user whose samples name no app."""
    having = Counter(app for user in users for app in user.apps)
    rows = []
    for user in users:
        own = [app for app in user.apps if having[app] == 1]
        named = sum(user.apps.values())
        size, _ = next(iter(user.sizes.most_common(1)), ((0, 0), 0))
        rows.append(
            {
                "split": user.split,
                "user": user.user,
                "id_in_data": user.raw_id,
                "samples": user.samples,
                "bad": user.bad,
                "episodes": len(user.episodes),
                "apps": len(user.apps),
                "unique_apps": len(own),
                "share_of_samples_in_unique_apps": sum(user.apps[app] for app in own) / named if named else None,
                "images": sum(user.sizes.values()),
                "image_sizes": len(user.sizes),
                "commonest_size": f"{size[0]}x{size[1]}" if user.sizes else "",
                "first": min(user.times, default=""),
                "last": max(user.times, default=""),
            }
        )
    return rows


def app_rows(users: Sequence[UserCounts]) -> list[dict[str, Any]]:
    """Return one row for each app, the one with most samples first; ``only_user`` has it alone, if anyone does."""
    samples: Counter[str] = Counter()
    having: dict[str, list[str]] = {}
    for user in users:
        samples.update(user.apps)
        for app in user.apps:
            having.setdefault(app, []).append(user.user)
    return [
        {
            "app": app,
            "samples": count,
            "users": len(having[app]),
            "only_user": having[app][0] if len(having[app]) == 1 else "",
        }
        for app, count in sorted(samples.items(), key=lambda item: (-item[1], item[0]))
    ]


def action_rows(users: Sequence[UserCounts]) -> list[dict[str, Any]]:
    """Return one row for each kind of action, the commonest first."""
    return _counted("action", ((action, count) for user in users for action, count in user.actions.items()))


def size_rows(users: Sequence[UserCounts]) -> list[dict[str, Any]]:
    """Return one row for each size of images, the commonest first."""
    sizes = ((f"{width}x{height}", count) for user in users for (width, height), count in user.sizes.items())
    return [{"size": row["size"], "images": row["samples"]} for row in _counted("size", sizes)]


def _counted(name: str, counts: Iterable[tuple[str, int]]) -> list[dict[str, Any]]:
    total: Counter[str] = Counter()
    for key, count in counts:
        total[key] += count
    return [{name: key, "samples": count} for key, count in sorted(total.items(), key=lambda item: (-item[1], item[0]))]

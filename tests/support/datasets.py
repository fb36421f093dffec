"""Small datasets in the true layout of each format, with screenshots drawn by the tests.

`LAYOUTS` has one `Layout` per format. Each writes two users (where the format knows users), whose samples point at
`TARGETS` of their screens of `SIZE` pixels.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from usertune.data.user_of import user_id

SIZE = (200, 400)
# Pixels of the centres of what is meant, one for each sample of a user.
TARGETS = ((50, 100), (120, 300), (180, 380))
HALF = 10


@dataclass(frozen=True)
class Layout:
    """One format on disk.

    Args:
        format: name of the reader.
        frame: the frame of the numbers that are written.
        samples: returns the samples of a user, as the file has them, whose screenshots are ``images``.
        file: the file that holds them all, or ``{user}`` in its name.
        options: ``dataset.options`` of the study.
        users: the ids that the reader gives to the users ``1`` and ``2``.
        task: the task that reads them.
        image_key: where a sample has its image: keys and indices.
        field: the field in messages about an image that is no path.
        images: folder of the images.
    """

    format: str
    frame: str
    samples: Callable[[str, Sequence[str]], list[Any]]
    file: str
    options: Mapping[str, Any] = field(default_factory=dict)
    users: tuple[str, ...] = ("1", "2")
    task: str = "grounding"
    image_key: tuple[str | int, ...] = ()
    images: str = "images"

    @property
    def dataset(self) -> dict[str, Any]:
        """The section ``dataset`` of a study, without its root."""
        return {"format": self.format, "frame": self.frame, "options": dict(self.options), "task": self.task}

    def path(self, root: Path, user: str = "1") -> Path:
        """Return the file that holds a user's samples."""
        return root / self.file.format(user=user)

    def write(self, root: Path, users: Sequence[str] = ("1", "2")) -> Path:
        """Write the dataset below ``root``, and return that."""
        found: dict[Path, list[Any]] = {}
        for user in users:
            names = draw_screens(root / self.images, user)
            found.setdefault(self.path(root, user), []).extend(self.samples(user, names))
        for path, samples in found.items():
            self.dump(path, samples)
        return root

    def dump(self, path: Path, samples: Sequence[Any]) -> None:
        """Write samples into a file: a list, or one a line."""
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".parquet":
            write_table(path, samples)
        elif path.suffix == ".jsonl":
            path.write_text("".join(json.dumps(sample) + "\n" for sample in samples))
        else:
            path.write_text(json.dumps(list(samples), indent=1))


def table_of(samples: Sequence[Any]) -> pa.Table:
    """Return samples as a table; texts that are not UTF-8 are stored as they are."""
    names = list(dict.fromkeys(name for sample in samples for name in sample))
    return pa.table({name: _column([sample.get(name) for sample in samples]) for name in names})


def _column(values: list[Any]) -> pa.Array:
    if not any(isinstance(value, str) for value in values):
        return pa.array(values)
    encoded = [None if value is None else value.encode("utf-8", "surrogatepass") for value in values]
    return pa.array(encoded, pa.binary()).view(pa.string())


def write_table(path: Path, samples: Sequence[Any], rows: int = 2) -> None:
    """Write samples as a Parquet file with ``rows`` in a row group."""
    pq.write_table(table_of(samples), path, row_group_size=rows)


def save_to_disk(folder: Path, table: pa.Table, shards: int = 1, rows: int = 2) -> None:
    """Write a table as ``datasets.Dataset.save_to_disk`` does: Arrow streams, and a file that names them."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"data-{number:05}-of-{shards:05}.arrow" for number in range(shards)]
    size = -(-len(table) // shards)
    for number, name in enumerate(names):
        with pa.OSFile(str(folder / name), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
            stream.write_table(table.slice(number * size, size), max_chunksize=rows)
    state = {"_data_files": [{"filename": name} for name in names], "_fingerprint": "0", "_split": None}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text("{}")


def draw_screens(folder: Path, user: str, count: int = len(TARGETS)) -> list[str]:
    """Draw the screenshots of a user, each with another shade, and return their names in the folder."""
    (folder / f"user_{user}").mkdir(parents=True, exist_ok=True)
    names = [f"user_{user}/{number}.png" for number in range(1, count + 1)]
    for number, name in enumerate(names):
        shade = (40 * number + 20 * sum(map(ord, user))) % 256
        Image.new("RGB", SIZE, (shade, 100, 200)).save(folder / name)
    return names


def point(number: int, frame: str = "relative_1000") -> tuple[float, float]:
    """Return the centre of what sample ``number`` (from 0) means."""
    x, y = TARGETS[number]
    scale = {"pixels": (1, 1), "relative_1": SIZE, "relative_1000": (SIZE[0] / 1000, SIZE[1] / 1000)}[frame]
    return x / scale[0], y / scale[1]


def box(number: int) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom, in pixels, of what sample ``number`` (from 0) means."""
    x, y = TARGETS[number]
    return x - HALF, y - HALF, x + HALF, y + HALF


def block(number: int) -> str:
    """Return the answer to sample ``number`` in 0-1000."""
    x, y = point(number)
    return f"```grounding\n[{x:g}, {y:g}]\n```"


def _messages(user: str, images: Sequence[str]) -> list[Any]:
    return [
        {
            "id": f"{user}-{number}",
            "user": user,
            "app": "Mail",
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "image", "image": f"images/{image}"}, {"type": "text", "text": "Where?"}],
                },
                {"role": "assistant", "content": block(number)},
            ],
        }
        for number, image in enumerate(images)
    ]


def _qwen(user: str, images: Sequence[str]) -> list[Any]:
    return [
        {
            "id": f"{user}-{number}",
            "image": f"images/{image}",
            "person": int(user),
            "conversations": [
                {"from": "human", "value": "<image>\nWhere is the mail?"},
                {"from": "gpt", "value": block(number)},
            ],
        }
        for number, image in enumerate(images)
    ]


def _swift(user: str, images: Sequence[str], norm: bool = False) -> list[Any]:
    found = []
    for number, image in enumerate(images):
        corners: list[float] = list(box(number))
        if norm:
            corners = [value / SIZE[index % 2] for index, value in enumerate(corners)]
        found.append(
            {
                "messages": [
                    {"role": "user", "content": "<image>Where is <ref-object>?"},
                    {"role": "assistant", "content": "<bbox>"},
                ],
                "images": [f"images/{image}"],
                "objects": {"ref": ["the mail"], "bbox": [corners], **({"bbox_type": "norm1"} if norm else {})},
                "person": f"user {user}",
            }
        )
    return found


def _swift_norm(user: str, images: Sequence[str]) -> list[Any]:
    return _swift(user, images, norm=True)


def _screenspot(user: str, images: Sequence[str]) -> list[Any]:
    found = []
    for number, image in enumerate(images):
        left, top, right, bottom = box(number)
        found.append(
            {
                "img_filename": image,
                "bbox": [left, top, right - left, bottom - top],
                "instruction": f"open part {number}",
                "data_type": "icon",
                "data_source": {"1": "windows", "2": "ios"}.get(user, user),
            }
        )
    return found


def _screenspot_hub(user: str, images: Sequence[str]) -> list[Any]:
    found = []
    for number, image in enumerate(images):
        left, top, right, bottom = box(number)
        corners = [left / SIZE[0], top / SIZE[1], right / SIZE[0], bottom / SIZE[1]]
        sample = {"file_name": image, "bbox": corners, "instruction": "open it", "data_type": "text"}
        found.append({**sample, "data_source": {"1": "windows", "2": "ios"}.get(user, user)})
    return found


def _screenspot_pro(user: str, images: Sequence[str]) -> list[Any]:
    return [
        {
            "img_filename": image,
            "bbox": list(box(number)),
            "img_size": list(SIZE),
            "instruction": f"open part {number}",
            "instruction_cn": f"\u6253\u5f00 {number}",
            "id": f"app_{user}_{number}",
            "ui_type": "icon",
            "application": "Visual Studio Code",
            "platform": "windows",
            "group": "Dev",
        }
        for number, image in enumerate(images)
    ]


def _aitw(user: str, images: Sequence[str]) -> list[Any]:
    found = []
    for number, image in enumerate(images):
        touch = list(point(number, "relative_1"))
        step = {"img_filename": image.removesuffix(".png"), "goal": "open the mail", "action_type_id": 4}
        found.append({**step, "action_type_text": "click", "touch": touch, "lift": touch, "type_text": ""})
    return found


APPS = {"1": "Mail", "2": "Maps"}


def _androidcontrol(user: str, images: Sequence[str]) -> list[Any]:
    """Return episodes of one step each; the last screenshot of an episode shows its end."""
    found = []
    for number, image in enumerate(images):
        x, y = TARGETS[number]
        found.append(
            {
                "episode_id": 10 * int(user) + number,
                "goal": "send the mail",
                "app": APPS[user],
                "screenshots": [image, image],
                "accessibility_trees": [[], []],
                "actions": [json.dumps({"action_type": "click", "x": x, "y": y})],
                "step_instructions": [f"tap part {number}"],
            }
        )
    return found


def _androidcontrol_steps(user: str, images: Sequence[str]) -> list[Any]:
    found = []
    for number, image in enumerate(images):
        x, y = TARGETS[number]
        step = {"episode_id": int(user), "step": number, "goal": "send the mail", "app": APPS[user]}
        action = {"action_type": "click", "x": x, "y": y}
        found.append({**step, "step_instruction": f"tap {number}", "screenshot": image, "action": action})
    return found


def _parquet(user: str, images: Sequence[str]) -> list[Any]:
    return [
        {
            "id": f"{user}-{number}",
            "image": image,
            "instruction": f"open part {number}",
            "bbox": [*box(number)[:2], 2 * HALF, 2 * HALF],
            "person": f"user {user}",
            "app": "Mail",
        }
        for number, image in enumerate(images)
    ]


def packed(samples: Sequence[Any]) -> list[Any]:
    """Return samples as a packed file has them: lists of lists."""
    return [list(samples[:2]), *([list(samples[2:])] if samples[2:] else [])]


# The names "user 1" and "user 2" hold a space.
SWIFT_USERS = (user_id("user 1"), user_id("user 2"))

LAYOUTS = {
    "messages": Layout("messages", "relative_1000", _messages, "user_{user}.jsonl", {"about": ["app"]}),
    "messages-table": Layout(
        "messages", "relative_1000", _messages, "samples.jsonl", {"file": "samples.jsonl", "about": ["app"]}
    ),
    "qwen": Layout("qwen", "relative_1000", _qwen, "train.json", {"user": "person"}),
    "qwen-lines": Layout("qwen", "relative_1000", _qwen, "user_{user}.jsonl", {"user": "person"}),
    "swift": Layout("swift", "relative_1000", _swift, "train.jsonl", {"user": "person"}, SWIFT_USERS),
    "swift-norm1": Layout("swift", "relative_1000", _swift_norm, "train.jsonl", {"user": "person"}, SWIFT_USERS),
    "aitw": Layout(
        "aitw",
        "relative_1",
        _aitw,
        "aitw_data_{user}.json",
        {"user": "file", "images": "aitw_images"},
        users=("aitw_data_1", "aitw_data_2"),
        images="aitw_images",
    ),
    "androidcontrol": Layout(
        "androidcontrol",
        "pixels",
        _androidcontrol,
        "episodes.jsonl",
        {"user": "app", "images": "images"},
        users=("Mail", "Maps"),
    ),
    "androidcontrol-steps": Layout(
        "androidcontrol",
        "pixels",
        _androidcontrol_steps,
        "500_steps.json",
        {"user": "app", "images": "images"},
        users=("Mail", "Maps"),
    ),
    "screenspot": Layout(
        "screenspot",
        "pixels",
        _screenspot,
        "screenspot_desktop_v2.json",
        {"user": "data_source", "box": "xywh", "images": "screenspotv2_image"},
        users=("windows", "ios"),
        images="screenspotv2_image",
    ),
    "screenspot-hub": Layout(
        "screenspot",
        "relative_1",
        _screenspot_hub,
        "metadata.jsonl",
        {"user": "data_source", "box": "xyxy", "images": "images"},
        users=("windows", "ios"),
    ),
    "parquet": Layout(
        "parquet",
        "pixels",
        _parquet,
        "train.parquet",
        {
            "user": "person",
            "columns": {"instruction": "instruction", "image": "image", "box": "bbox", "id": "id"},
            "box": "xywh",
            "images": "images",
            "about": ["app"],
        },
        SWIFT_USERS,
    ),
    "screenspot-pro": Layout(
        "screenspot",
        "pixels",
        _screenspot_pro,
        "annotations/app_{user}.json",
        {"user": "file", "images": "images"},
        users=("app_1", "app_2"),
    ),
}

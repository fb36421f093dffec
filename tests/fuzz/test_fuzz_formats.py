"""Files of every format after an accident or an attack: users are prepared, or told why they cannot be."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.calls import PREPARE
from tests.support.datasets import LAYOUTS, Layout, draw_screens, save_to_disk, table_of, write_table
from tests.support.mutations import FRAGMENTS, HOSTILE_TEXTS, changed_bytes, changed_value, values
from usertune.core.errors import UserError
from usertune.core.users import parse_users
from usertune.data.prepare import check_user
from usertune.data.reader import BadSampleError
from usertune.data.readers.catalogue import get_reader
from usertune.data.recipe import PrepareRecipe

HOSTILE = st.sampled_from([*HOSTILE_TEXTS, "<image>", "<bbox>", "<ref-object>", "user_1/1.png", "..", "images"])


def _long_episode(_user: str, images: Sequence[str]) -> list[Any]:
    """Return an episode of AndroidControl with one action of each kind, so that an entry holds several samples."""
    actions: list[Any] = [
        {"action_type": "open_app", "app_name": "Mail"},
        {"action_type": "click", "x": 10, "y": 20},
        json.dumps({"action_type": "scroll", "direction": "up"}),
        {"action_type": "input_text", "text": "hi"},
        {"action_type": "navigate_back"},
        {"action_type": "status", "goal_status": "infeasible"},
    ]
    screenshots = [images[number % len(images)] for number in range(len(actions) + 1)]
    instructions = ["do it"] * len(actions)
    return [{"goal": "a", "screenshots": screenshots, "actions": actions, "step_instructions": instructions}]


LONG = replace(LAYOUTS["androidcontrol"], samples=_long_episode, task="action")
FORMATS = {**LAYOUTS, "androidcontrol-long": LONG}


def table_bytes(samples: Any) -> bytes:
    """Return samples as a Parquet file; those that no table can hold are written as their JSON."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.parquet"
        try:
            write_table(path, samples)
        except (pa.ArrowException, TypeError, ValueError, AttributeError, OverflowError):
            return json.dumps(samples).encode()
        return path.read_bytes()


@st.composite
def damaged_files(draw: st.DrawFn, layout: Layout) -> bytes:
    """Return the content of a file of a format after changes to its samples, to its bytes, or to both."""
    samples: Any = layout.samples("1", ["user_1/1.png", "user_1/2.png"])
    if draw(st.booleans()):
        samples = draw(changed_value(samples, values | HOSTILE))
    if layout.format == "parquet":
        content = table_bytes(samples)
    elif layout.file.endswith(".jsonl") and isinstance(samples, list):
        content = b"\n".join(json.dumps(sample).encode() for sample in samples)
    else:
        content = json.dumps(samples).encode()
    return draw(st.just(content) | changed_bytes(content) | st.sampled_from(FRAGMENTS))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    draw_screens(folder, "1")
    return folder


@pytest.mark.parametrize("layout", FORMATS.values(), ids=FORMATS)
@given(data=st.data())
def test_a_damaged_file_is_read_or_refused_with_a_message(images: Path, layout: Layout, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / layout.images).symlink_to(images)
        layout.path(root).parent.mkdir(exist_ok=True)
        layout.path(root).write_bytes(data.draw(damaged_files(layout)))
        reader = get_reader(layout.format, root, layout.options)
        try:
            users = reader.users()
        except UserError as error:
            str(error).encode()
            return
        for user in users:
            assert parse_users(user) == [user]
            assert reader.sources(user)
            watched, most = set(reader.images(user)), reader.count(user)
            recipe = PrepareRecipe.model_validate({**PREPARE.as_json(), **layout.dataset, "on_bad_sample": "skip"})
            try:
                found = list(reader.read(user))
                for location, sample in found:
                    if isinstance(sample, BadSampleError):
                        assert sample.field
                        f"{location}: {sample.field}: {sample}".encode()
                assert len(found) <= most
                checked = check_user(recipe, root, user, reader)
            except UserError as error:
                str(error).encode()
                continue
            assert len(checked.samples) + len(checked.problems) + sum(checked.not_asked.values()) == len(found)
            for sample in checked.samples:
                json.dumps(sample, ensure_ascii=False, allow_nan=False).encode()
                assert {image["path"] for image in sample["images"]} <= watched


@given(data=st.data())
def test_a_damaged_arrow_file_is_read_or_refused_with_a_message(images: Path, data: st.DataObject) -> None:
    layout = LAYOUTS["parquet"]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / layout.images).symlink_to(images)
        save_to_disk(root, table_of(layout.samples("1", ["user_1/1.png", "user_1/2.png"])))
        file = root / "data-00000-of-00001.arrow"
        content = data.draw(changed_bytes(file.read_bytes()))
        # A file without the end of a stream is refused at once.
        end = b"\xff\xff\xff\xff\0\0\0\0" if data.draw(st.booleans()) else b""
        file.write_bytes(content + end)
        reader = get_reader(layout.format, root, layout.options)
        try:
            for user in reader.users():
                found = list(reader.read(user))
                assert len(found) <= reader.count(user)
        except UserError as error:
            assert root.name in str(error)

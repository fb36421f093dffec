"""Raw trees of FingerTip-20K with damaged files and hostile names."""

from __future__ import annotations

import json
import tempfile
from contextlib import suppress
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from tests.support.calls import prepare_one
from tests.support.fingertip_tree import CLICK, SURVEY, write_episode, write_screenshot
from tests.support.mutations import FRAGMENTS, HOSTILE_TEXTS, changed_bytes, values
from usertune.core.errors import UserError
from usertune.data.readers.catalogue import get_reader
from usertune.data.samples import read_user

FIRST, SHOT = "20250309_220811", "1741498279844.jpg"
EPISODES = st.sampled_from([json.dumps({SHOT: CLICK}, ensure_ascii=False).encode(), b'{"1.jpg": "wait()"}'])
LINES = EPISODES | EPISODES.flatmap(changed_bytes) | st.sampled_from(FRAGMENTS) | st.binary(max_size=20)
SURVEYS = st.just(json.dumps(dict(SURVEY)).encode()) | values.map(lambda value: json.dumps({"app": value}).encode())
NAMES = st.sampled_from([name for name in HOSTILE_TEXTS if name and len(name) < 60 and not {"/", "\0"} & set(name)])


@given(st.lists(LINES, max_size=4), SURVEYS, st.sampled_from(["content", "intent"]), NAMES)
def test_any_tree_is_prepared_or_refused(lines: list[bytes], survey: bytes, instruction: str, name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root, out = Path(folder) / "data", Path(folder)
        episode = write_episode(root / "3" / FIRST, b"\n".join(lines), survey)
        write_screenshot(episode / "Screenshots" / SHOT)
        with suppress(OSError, ValueError):
            (episode / name).mkdir()
        reader = get_reader("fingertip", root, {"instruction": instruction})
        found = list(reader.read("3"))
        watched = set(reader.images("3"))
        assert len(found) == reader.count("3")
        try:
            manifest = prepare_one(
                root, "3", out / "user_3.jsonl", out / "user_3.manifest.json", format="fingertip", frame="pixels",
                on_bad_sample="skip", options={"instruction": instruction},
            )  # fmt: skip
        except UserError as error:
            str(error).encode()
            return
        assert manifest["samples"] + manifest["skipped"] + sum(manifest.get("not_asked", {}).values()) == len(found)
        assert {
            image["path"] for sample in read_user(out / "user_3.manifest.json")[1] for image in sample["images"]
        } <= watched

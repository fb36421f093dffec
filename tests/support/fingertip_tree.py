"""Writes raw trees in the layout of FingerTip-20K."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

SIZE = (54, 117)
CLICK = "click(coordinates=(27, 39), content='搜索')"
SURVEY: Mapping[str, Any] = {
    "user_id": 3,
    "time": "2025-03-09 22:08:11",
    "scenario": "在家",
    "app": "com.example.shop",
    "intentDescription": "买一双鞋",
}


def write_episode(
    folder: Path,
    actions: Sequence[tuple[str, str]] | bytes = (("1741498279844.jpg", CLICK),),
    survey: Mapping[str, Any] | bytes | None = SURVEY,
    screenshots: str = "Screenshots",
) -> Path:
    """Write one episode; return its folder.

    Args:
        folder: the episode's folder, such as ``data/3/20250309_220811``.
        actions: (screenshot, action) of each line, or the bytes of action.jsonl; each screenshot is written too.
        survey: the object in survey_result.json, or its bytes; None writes none.
        screenshots: name of the folder of screenshots.
    """
    (folder / screenshots).mkdir(parents=True, exist_ok=True)
    if isinstance(actions, bytes):
        (folder / "action.jsonl").write_bytes(actions)
    else:
        lines = [json.dumps({name: action}, ensure_ascii=False) + "\n" for name, action in actions]
        (folder / "action.jsonl").write_text("".join(lines), encoding="utf-8")
        for name, _ in actions:
            write_screenshot(folder / screenshots / name)
    if survey is not None:
        text = survey if isinstance(survey, bytes) else json.dumps(survey, ensure_ascii=False).encode()
        (folder / "survey_result.json").write_bytes(text)
    return folder


def write_screenshot(file: Path) -> None:
    """Write a screenshot of one colour, with its accessibility tree beside it."""
    Image.new("RGB", SIZE, (200, 30, 60)).save(file, format="JPEG")
    file.with_suffix(".xml").write_text("<hierarchy/>")


def write_actions_alone(root: Path, users: Sequence[int], actions: int) -> None:
    """Write one episode for each user, without screenshots: all that planning needs."""
    line = json.dumps({"1741498279844.jpg": CLICK}, ensure_ascii=False) + "\n"
    for user in users:
        write_episode(root / f"{user}/20250309_220811", (line * actions).encode())


def write_users(root: Path, users: Sequence[int], episodes: int = 1) -> None:
    """Write users with some episodes of one click each; every second user's folder is nested."""
    for number, user in enumerate(users):
        folder = root / f"{user}/{user}" if number % 2 else root / f"{user}"
        for episode in range(episodes):
            write_episode(folder / f"20250309_{episode:06}", screenshots="screenshots" if number % 3 else "Screenshots")

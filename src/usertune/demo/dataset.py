"""Write the demo's raw dataset: a JSONL file of conversations and a folder of screenshots for each user."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from usertune.core.errors import UserError
from usertune.core.files import read_json, write_json, write_text
from usertune.demo.progress_bar import progress_bar
from usertune.demo.screens import PROMPT, Screen, draw_screen, reference_answer
from usertune.demo.styles import Step, user_steps

# Increase this when screens, styles or texts change, so that older datasets are drawn again.
DESIGN = 1

STAMP = "dataset.json"
# The settings, written before the first user, so that an interrupted run can be continued.
BEGUN = ".dataset.begun.json"
IMAGES = "images"

TEST_USERS = range(1, 11)
TRAIN_USERS = range(11, 74)
VALIDATION_USERS = range(74, 84)


@dataclass(frozen=True)
class Counts:
    """Samples per user of each split."""

    train: int = 20
    validation: int = 20
    test: int = 50

    def of(self, user: int) -> int:
        """Return the number of samples of ``user``."""
        if user in TEST_USERS:
            return self.test
        return self.validation if user in VALIDATION_USERS else self.train


def make_dataset(folder: Path, users: Sequence[int], seed: int, counts: Counts) -> bool:
    """Draw the dataset of ``users`` into ``folder``; users drawn before with the same settings are kept.

    The layout is ``user_<id>.jsonl``, ``images/user_<id>/<number>.png`` and, last, ``dataset.json`` with the settings.
    A user's JSONL is written after its images, so an existing JSONL is complete. A dataset with other settings is
    replaced.

    Returns:
        Whether anything was drawn.

    Raises:
        UserError: a number is out of range, or ``folder`` holds files that are not a demo dataset.
    """
    _check(users, seed, counts)
    settings = {"design": DESIGN, "seed": seed, "users": list(users), "samples": asdict(counts)}
    _begin(folder, settings)
    missing = [user for user in users if not _samples_file(folder, user).exists()]
    if not missing and (folder / STAMP).exists():
        return False
    for user in progress_bar(missing, "drawing users"):
        _write_user(folder, seed, user, counts.of(user))
    write_json(folder / STAMP, settings)
    return True


def _check(users: Sequence[int], seed: int, counts: Counts) -> None:
    if seed < 0:
        raise UserError(f"the seed is {seed}; write a whole number from 0")
    if not users or len(set(users)) != len(users) or min(users) < 1:
        raise UserError("the demo needs at least one user; users are different whole numbers from 1")
    for split, count in asdict(counts).items():
        if count < 1:
            raise UserError(f"{count} {split} samples per user; write at least 1")


def _begin(folder: Path, settings: dict[str, Any]) -> None:
    """Prepare ``folder``: keep what was drawn with the same settings, remove what was drawn with others."""
    folder.mkdir(parents=True, exist_ok=True)
    begun = folder / BEGUN
    if begun.exists():
        if read_json(begun) == settings:
            return
        (folder / STAMP).unlink(missing_ok=True)
        for samples in folder.glob("user_*.jsonl"):
            samples.unlink()
        shutil.rmtree(folder / IMAGES, ignore_errors=True)
    elif any(not entry.name.startswith(".") for entry in folder.iterdir()):
        raise UserError(f"{folder}: this folder holds other files than a demo dataset; choose another folder")
    write_json(begun, settings)


def _samples_file(folder: Path, user: int) -> Path:
    return folder / f"user_{user}.jsonl"


def _write_user(folder: Path, seed: int, user: int, count: int) -> None:
    lines = []
    drawn: Screen | None = None
    image = ""
    for number, step in enumerate(user_steps(seed, user, count)):
        if step.screen is not drawn:
            drawn = step.screen
            image = f"{IMAGES}/user_{user}/{number:04d}.png"
            _write_screen(folder / image, drawn)
        lines.append(json.dumps(sample(user, number, step, image)))
    write_text(_samples_file(folder, user), "".join(line + "\n" for line in lines))


def _write_screen(path: Path, screen: Screen) -> None:
    # Needs no atomic write: without the user's JSONL, which comes last, all images of the user are drawn again.
    path.parent.mkdir(parents=True, exist_ok=True)
    draw_screen(screen).save(path)


def sample(user: int, number: int, step: Step, image: str) -> dict[str, Any]:
    """Return the user's raw sample ``number`` (from 0); ``image`` is a path relative to the dataset."""
    prompt = PROMPT.format(command=step.command)
    return {
        "id": f"{user}-{number:04d}",
        "episode": f"{user}-e{step.episode:02d}",
        "step": step.step,
        "messages": [
            {
                "role": "user",
                "content": [{"type": "image", "image": image}, {"type": "text", "text": prompt}],
            },
            {"role": "assistant", "content": [{"type": "text", "text": reference_answer(step.target)}]},
        ],
    }

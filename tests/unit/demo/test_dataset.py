"""The demo's screens, styles and raw dataset."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from usertune.core.errors import UserError
from usertune.core.hashing import digest_folder
from usertune.demo import dataset
from usertune.demo.dataset import BEGUN, STAMP, Counts, make_dataset
from usertune.demo.screens import (
    HEIGHT,
    WIDTH,
    Screen,
    draw_screen,
    generic_screen,
    parse_point,
    place_icon,
    reference_answer,
)
from usertune.demo.styles import APPS, BY_NAME_IN_TEN, user_steps, user_style

COUNTS = Counts(train=4, validation=3, test=5)
ROOT = Path(__file__).parents[3]


def test_same_settings_give_the_same_bytes(tmp_path: Path) -> None:
    make_dataset(tmp_path / "a", [7, 11, 74], 3, COUNTS)
    make_dataset(tmp_path / "b", [7, 11, 74], 3, COUNTS)
    assert digest_folder(tmp_path / "a") == digest_folder(tmp_path / "b")


def test_a_user_does_not_depend_on_the_others(tmp_path: Path) -> None:
    make_dataset(tmp_path / "all", [6, 7, 8], 3, COUNTS)
    make_dataset(tmp_path / "one", [7], 3, COUNTS)
    alone = digest_folder(tmp_path / "one")
    del alone[STAMP]
    assert alone.items() <= digest_folder(tmp_path / "all").items()


def test_seeds_and_users_differ() -> None:
    assert user_style(0, 7) != user_style(1, 7)
    assert user_style(0, 7) != user_style(0, 8)
    assert user_steps(0, 7, 5) != user_steps(1, 7, 5)


def test_more_samples_continue_the_same_sequence() -> None:
    assert user_steps(0, 7, 30)[:12] == user_steps(0, 7, 12)


@pytest.mark.parametrize("user", range(1, 84, 9))
def test_points_lie_inside_the_drawn_element(user: int) -> None:
    for step in user_steps(0, user, 30):
        x, y = parse_point(reference_answer(step.target)) or pytest.fail("the answer has no point")
        across, down = x / 1000 * WIDTH, y / 1000 * HEIGHT
        left, top, right, bottom = step.target.box
        assert left <= across <= right
        assert top <= down <= bottom
        assert draw_screen(step.screen).getpixel((int(across), int(down))) == step.target.rgb


def test_icons_on_a_screen_differ_and_do_not_overlap() -> None:
    rng = np.random.default_rng(0)
    screens = [generic_screen(9, rng) for _ in range(30)]
    screens += [step.screen for user in range(1, 20) for step in user_steps(0, user, 20)]
    for screen in screens:
        count = len(screen.icons)
        assert len({icon.look for icon in screen.icons}) == count
        assert len({(icon.column, icon.row) for icon in screen.icons}) == count
        for icon in screen.icons:
            left, top, right, bottom = icon.box
            assert icon.column * 32 <= left <= right < icon.column * 32 + 32
            assert icon.row * 32 <= top <= bottom < icon.row * 32 + 32


@pytest.mark.parametrize("shape", ["circle", "square", "triangle", "cross"])
def test_every_shape_fills_its_box_and_nothing_else(shape: str) -> None:
    icon = place_icon(("red", shape), (1, 2), (220, 45, 45), 10, np.random.default_rng(0))
    pixels = np.asarray(draw_screen(Screen((icon,), (0, 0, 0))))
    rows, columns = np.nonzero(pixels.any(axis=2))
    assert (columns.min(), rows.min(), columns.max(), rows.max()) == icon.box


def test_styles_are_personal_and_equally_hard() -> None:
    styles = [user_style(0, user) for user in range(1, 84)]
    dark = sum(max(style.background) < 128 for style in styles)
    assert 20 <= dark <= 46
    for style in styles:
        assert len(set(style.looks.values())) == len(APPS)
        assert sum(style.looks[app] != look for app, look in APPS.items()) == 3
    for user in range(1, 84):
        by_name = [" the " not in step.command for step in user_steps(0, user, 20)]
        assert sum(by_name) == 2 * BY_NAME_IN_TEN


def test_samples_have_the_raw_format(tmp_path: Path) -> None:
    make_dataset(tmp_path, [7, 80], 0, Counts(train=20, validation=10, test=20))
    lines = [json.loads(line) for line in (tmp_path / "user_7.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == [f"7-{number:04d}" for number in range(20)]
    assert len((tmp_path / "user_80.jsonl").read_text().splitlines()) == 10
    for line in lines:
        asked, answered = line["messages"]
        image, text = asked["content"]
        assert Image.open(tmp_path / image["image"]).size == (WIDTH, HEIGHT)
        assert "(0-1000)" in text["text"]
        answer = answered["content"][0]["text"]
        x, y = parse_point(answer) or pytest.fail("the answer has no point")
        assert x % 20 == y % 20 == 0
        assert answer == f"```referring\n{answer.splitlines()[1]}\n```\n```grounding\n[{x}, {y}]\n```"


def test_episodes_are_runs_of_one_to_four_steps() -> None:
    steps = user_steps(0, 7, 40)
    assert steps[0].episode == 0
    for before, after in pairwise(steps):
        if after.episode == before.episode:
            assert after.step == before.step + 1 <= 3
        else:
            assert (after.episode, after.step) == (before.episode + 1, 0)


def test_images_on_disk_are_exactly_those_used(tmp_path: Path) -> None:
    make_dataset(tmp_path, [7], 0, Counts(test=30))
    lines = [json.loads(line) for line in (tmp_path / "user_7.jsonl").read_text().splitlines()]
    used = {line["messages"][0]["content"][0]["image"] for line in lines}
    assert used == {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png")}
    assert len(used) < len(lines)


def test_a_second_call_does_nothing(tmp_path: Path) -> None:
    assert make_dataset(tmp_path, [7], 0, COUNTS)
    assert not make_dataset(tmp_path, [7], 0, COUNTS)


def test_a_deleted_user_is_drawn_again(tmp_path: Path) -> None:
    make_dataset(tmp_path, [7, 8], 0, COUNTS)
    before = digest_folder(tmp_path)
    (tmp_path / "user_7.jsonl").unlink()
    assert make_dataset(tmp_path, [7, 8], 0, COUNTS)
    assert digest_folder(tmp_path) == before


def test_an_interrupted_dataset_is_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    make_dataset(whole, [7, 8, 9], 0, COUNTS)
    drawn = 0
    write_screen = dataset._write_screen

    def fail_in_the_second_user(path: Path, screen: Screen) -> None:
        nonlocal drawn
        drawn += 1
        if "user_8" in path.parts:
            path.parent.mkdir(parents=True)
            path.write_bytes(b"half a picture")
            raise KeyboardInterrupt
        write_screen(path, screen)

    with monkeypatch.context() as patch:
        patch.setattr(dataset, "_write_screen", fail_in_the_second_user)
        with pytest.raises(KeyboardInterrupt):
            make_dataset(broken, [7, 8, 9], 0, COUNTS)
    assert not (broken / STAMP).exists()
    finished = (broken / "user_7.jsonl").stat().st_mtime_ns
    assert make_dataset(broken, [7, 8, 9], 0, COUNTS)
    assert (broken / "user_7.jsonl").stat().st_mtime_ns == finished
    assert digest_folder(broken) == digest_folder(whole)


def test_other_settings_replace_the_dataset(tmp_path: Path) -> None:
    make_dataset(tmp_path / "changed", [7, 8], 0, COUNTS)
    (tmp_path / "changed" / STAMP).unlink()
    make_dataset(tmp_path / "changed", [8, 9], 1, COUNTS)
    make_dataset(tmp_path / "fresh", [8, 9], 1, COUNTS)
    assert digest_folder(tmp_path / "changed") == digest_folder(tmp_path / "fresh")


def test_another_folder_is_not_changed(tmp_path: Path) -> None:
    (tmp_path / "user_7.jsonl").write_text("my own data\n")
    with pytest.raises(UserError, match="other files than a demo dataset"):
        make_dataset(tmp_path, [7], 0, COUNTS)
    assert (tmp_path / "user_7.jsonl").read_text() == "my own data\n"
    assert not (tmp_path / BEGUN).exists()


@pytest.mark.parametrize(
    ("users", "seed", "counts", "message"),
    [
        ([], 0, COUNTS, "at least one"),
        ([7, 7], 0, COUNTS, "different"),
        ([0], 0, COUNTS, "from 1"),
        ([7], -1, COUNTS, "seed is -1"),
        ([7], 0, Counts(validation=0), "0 validation samples"),
    ],
)
def test_bad_arguments_are_named(tmp_path: Path, users: list[int], seed: int, counts: Counts, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_dataset(tmp_path / "new", users, seed, counts)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("answer", ["", "[1, 2]", "```grounding\n[1, 2]\n```", "x```referring\na\n```"])
def test_other_answers_have_no_point(answer: str) -> None:
    assert parse_point(answer) is None


def test_the_script_draws_and_complains(tmp_path: Path) -> None:
    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-P", "-m", "usertune", "demo", "data", str(tmp_path / "out"), *arguments]
        environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    done = call("--users", "7,11", "--samples-test", "3", "--samples-train", "2")
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "out" / "user_7.jsonl").read_text().splitlines()) == 3
    assert len((tmp_path / "out" / "user_11.jsonl").read_text().splitlines()) == 2
    shutil.rmtree(tmp_path / "out")
    wrong = call("--users", "alice")
    assert wrong.returncode == 2
    assert "'alice' is not a number" in wrong.stderr
    assert "Traceback" not in wrong.stderr

"""``usertune show``: the picture of one sample."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from PIL import Image

from tests.support.synthetic_study import SyntheticStudy
from usertune.cli.main import main
from usertune.core.errors import UserError
from usertune.exchange.show_sample import Wanted, show_sample
from usertune.reporting.style import BASELINE_COLOUR, PALETTE

COLOURS = {"vanilla": BASELINE_COLOUR, "lora": PALETTE[0], "full_tuned": PALETTE[1]}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> SyntheticStudy:
    """A study that has scores, but not yet tables."""
    made = SyntheticStudy(tmp_path_factory.mktemp("show") / "study").write()
    made.make_all("score")
    return made


def shown(study: SyntheticStudy, tmp_path: Path, *experiments: str) -> tuple[Image.Image, str]:
    said = show_sample(study.study, Wanted("1", "1/3", experiments, tmp_path / "picture.png"))
    return Image.open(tmp_path / "picture.png"), said


def rgb(colour: str) -> tuple[int, ...]:
    return tuple(int(colour[start : start + 2], 16) for start in (1, 3, 5))


def test_marks_are_where_the_scores_say(study: SyntheticStudy, tmp_path: Path) -> None:
    width, height = 400, 800  # the screenshot of 90 x 180 pixels, enlarged
    background = (240, 30, 120)
    drawn = 0
    for name, colour in COLOURS.items():
        # One at a time: marks of equal answers cover one another.
        picture, said = shown(study, tmp_path, name)
        assert picture.height == height
        rows = pd.read_csv(study.root / f"scores/{name}/user_1.csv", dtype={"user": str, "id": str})
        row: dict[str, Any] = rows[rows["id"] == "1/3"].to_dict("records")[0]
        assert f"{name}: {'hit' if row['hit_140'] else 'miss' if row['parsed'] else 'not parsed'}" in said
        if row["parsed"] and 0 <= row["y"] <= 1000:
            at = picture.getpixel((round(row["x"] / 1000 * width), round(row["y"] / 1000 * height)))
            assert isinstance(at, tuple)
            assert max(abs(a - b) for a, b in zip(at, rgb(colour), strict=True)) < 40
            drawn += 1
    assert drawn
    # The region that counts is an ellipse: as far as the threshold in each direction, in 0-1000.
    x, y = row["target_x"] / 1000 * width, row["target_y"] / 1000 * height
    line = inside = 0
    for degrees in range(0, 360, 3):
        turn = (math.cos(math.radians(degrees)), math.sin(math.radians(degrees)))
        for factor in (1, 1.15):
            place = (round(x + factor * 0.14 * width * turn[0]), round(y + factor * 0.14 * height * turn[1]))
            if 0 <= place[0] < width and 0 <= place[1] < height:
                pixel = picture.getpixel(place)
                assert isinstance(pixel, tuple)
                differs = max(abs(a - b) for a, b in zip(pixel, background, strict=True)) > 60
                line, inside = line + (differs and factor == 1), inside + (differs and factor > 1)
    assert line > 20
    assert inside < line / 3


def test_only_the_wanted_experiments_are_shown(study: SyntheticStudy, tmp_path: Path) -> None:
    _, said = shown(study, tmp_path, "lora")
    assert "lora: " in said
    assert "vanilla: " not in said
    assert "Tap 'send'" in said
    assert "form grounding_block" in said


def test_mistakes_name_what_is_near(study: SyntheticStudy) -> None:
    for wanted, message in [
        (Wanted("anna", "1/3"), "no test user is named 'anna'; did you mean ana?"),
        (Wanted("t1", "t1/3"), "user 't1' is one of the train users; only test users"),
        (Wanted("1", "1/33"), "user 1 has no sample '1/33'; did you mean 1/3"),
        (Wanted("1", "zzz"), "user 1 has no sample 'zzz'; there are 1/0, 1/1, 1/2 and 9 more"),
        (Wanted("1", "1/3", ("lorra",)), "no experiment is named 'lorra'; did you mean lora?"),
        (Wanted("1", "1/3", out=Path("/nowhere/at/all.png")), "/nowhere/at/all.png: cannot be written"),
    ]:
        with pytest.raises(UserError) as caught:
            show_sample(study.study, wanted)
        assert message in str(caught.value)


def test_answers_that_are_missing_or_old_are_said(study: SyntheticStudy, tmp_path: Path) -> None:
    scores = study.root / "scores/lora/user_1.json"
    content = scores.read_bytes()
    try:
        scores.unlink()
        _, said = shown(study, tmp_path)
        assert "lora: " not in said
        with pytest.raises(UserError, match=r"lora has no scores of user 1 yet; make them by: snakemake lora"):
            shown(study, tmp_path, "lora")
        study.make("scores/lora/user_1.json", {**study.recipe("scores/lora/user_1.json"), "thresholds": [100, 140]})
        _, said = shown(study, tmp_path, "lora")
        assert "note: the answer of lora is from a result that would be made again: " in said
    finally:
        scores.write_bytes(content)
        study.make("scores/lora/user_1.json")


def test_the_command(
    study: SyntheticStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(study.config))))
    monkeypatch.chdir(tmp_path)
    words = "usertune show --study study.yaml --user 1 --sample 1/3 --experiments lora"
    monkeypatch.setattr(sys, "argv", words.split())
    main()
    assert "picture: 1_1_3.png" in capsys.readouterr().out
    assert Image.open(tmp_path / "1_1_3.png").format == "PNG"

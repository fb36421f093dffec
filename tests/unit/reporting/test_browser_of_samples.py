"""What the report's browser of samples shows; how it works in a browser is tested in tests/browser."""

from __future__ import annotations

import base64
import io
import json
import math
import subprocess
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image

from tests.support.synthetic_study import SyntheticStudy, browser_data_of
from tests.support.vendored import packages, packed
from usertune.core.hashing import digest_file
from usertune.data.samples import read_samples
from usertune.evaluation.recipe import ComparisonDesign, ScoreRecipe
from usertune.pipeline import steps
from usertune.reporting.browser import pictures
from usertune.reporting.browser.data import _in_common
from usertune.reporting.browser.samples import LONGEST_TEXT, Scored, for_page, in_pixels, sample_views, scored
from usertune.reporting.page import VENDOR, json_block

HOSTILE = "</script><script>alert(1)</script> <!-- --> \u2028\u2029 &amp; \x00"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> SyntheticStudy:
    """A study whose report is written."""
    made = SyntheticStudy(tmp_path_factory.mktemp("browser") / "study", hostile=HOSTILE).write()
    made.report()
    return made


@pytest.fixture(scope="module")
def data(study: SyntheticStudy) -> dict[str, Any]:
    return browser_data_of((study.root / "report.html").read_text(encoding="utf-8"))


def answers_of(data: dict[str, Any]) -> dict[tuple[str, str, str], dict[str, Any]]:
    """Return (experiment, user, sample) -> what is shown of the answer."""
    found = {}
    for item, columns in zip(data["experiments"], data["answers"], strict=True):
        for number, identity in enumerate(data["samples"]["id"]):
            user = data["users"][data["samples"]["user"][number]]
            found[item["name"], user, identity] = {name: values[number] for name, values in columns.items()}
    return found


def test_every_test_sample_is_there_with_its_scores(study: SyntheticStudy, data: dict[str, Any]) -> None:
    table = pd.read_csv(study.root / "tables/samples.csv", dtype={"user": str, "id": str})
    shown = answers_of(data)
    assert len(shown) == len(table) == len(study.users) * study.samples * len(study.experiments)
    words = [verdict for verdict, _ in data["verdicts"]]
    for row in table.to_dict("records"):
        own = shown[row["experiment"], row["user"], row["id"]]
        expected = "right" if row["hit_140"] == 1 else "wrong" if row["parsed"] == 1 else "unparsed"
        assert words[own["verdict"]] == expected
        assert data["forms"][own["form"]][0] == row["form"]
        if row["parsed"] == 1:
            assert own["distance"] == pytest.approx(row["distance"], abs=0.06)
        else:
            assert own["distance"] is own["point"] is None
    assert dict(data["verdicts"])["right"] == "hit"
    assert {words[own["verdict"]] for own in shown.values()} == {"right", "wrong", "unparsed"}


def test_agreement_is_over_all_experiments(data: dict[str, Any]) -> None:
    right = [verdict for verdict, _ in data["verdicts"]].index("right")
    for number, agreement in enumerate(data["samples"]["agreement"]):
        verdicts = {columns["verdict"][number] == right for columns in data["answers"]}
        expected = "disagree" if len(verdicts) == 2 else "all right" if verdicts == {True} else "all wrong"
        assert data["agreements"][agreement] == expected


def test_marks_are_in_the_metrics_own_space(study: SyntheticStudy, data: dict[str, Any]) -> None:
    """Whether a point is inside the drawn ellipse is whether it is a hit."""
    samples = data["samples"]
    inside = set()
    for columns in data["answers"]:
        for number, point in enumerate(columns["point"]):
            _, width, height = data["pictures"][samples["picture"][number]]
            (x, y), (across, down) = samples["target"][number], samples["radii"][number]
            assert (across, down) == pytest.approx((0.14 * width, 0.14 * height), abs=0.06)
            if point is not None:
                from_centre = math.hypot((point[0] - x) / across, (point[1] - y) / down)
                hit = data["verdicts"][columns["verdict"][number]][1] == "hit"
                assert hit == (from_centre <= 1)
                inside.add(hit)
    assert inside == {True, False}


def test_pictures_are_the_screenshots(study: SyntheticStudy, data: dict[str, Any]) -> None:
    for number, identity in enumerate(data["samples"]["id"]):
        source, width, height = data["pictures"][data["samples"]["picture"][number]]
        with Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))) as shown:
            assert shown.size == (width, height) == (90, 180)
            colour = shown.convert("RGB").getpixel((5, 5))
        assert isinstance(colour, tuple)
        step = int(identity.rpartition("/")[2])
        assert max(abs(a - b) for a, b in zip(colour, (240, 10 * step, 120), strict=True)) <= 6


def test_hostile_texts_stay_texts(study: SyntheticStudy, data: dict[str, Any]) -> None:
    page = (study.root / "report.html").read_text(encoding="utf-8")
    assert "<script>alert" not in page
    assert not {"\u2028", "\u2029", "\x00"} & set(page)
    assert data["samples"]["instruction"][0] == f"Tap 'send' {HOSTILE}".replace("\x00", "\ufffd")
    assert json.loads(json_block([HOSTILE])) == [HOSTILE]


def test_the_list_begins_with_the_worst_user_of_the_best_experiment(
    study: SyntheticStudy, data: dict[str, Any]
) -> None:
    summary = pd.read_csv(study.root / "tables/summary.csv").set_index("experiment")["click_accuracy"]
    users = pd.read_csv(study.root / "tables/users.csv", dtype={"user": str})
    best = summary.idxmax()
    assert data["start"] == {"experiment": best}
    own = users[users["experiment"] == best].set_index("user")["click_accuracy"]
    ranked = [data["users"][index] for index in data["ranks"][list(study.experiments).index(best)]]
    assert [own[user] for user in ranked] == sorted(own)
    page = (study.root / "report.html").read_text(encoding="utf-8")
    failed = round(study.samples * (1 - own[ranked[0]]))
    assert f"{failed} of {study.samples} samples failed" in page


def test_many_screenshots_go_to_a_folder_and_are_used_again(
    study: SyntheticStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = study.root / pictures.FOLDER
    in_page = browser_data_of(study.report().read_text(encoding="utf-8"))["pictures"]
    size = sum(len(source) for source, *_ in in_page)
    monkeypatch.setattr(pictures, "LARGEST_IN_PAGE", size - 1)
    folder.mkdir()
    (folder / "other.jpg").write_bytes(b"")
    first = study.report().read_bytes()
    shown = browser_data_of(first.decode())
    assert {path.name for path in folder.iterdir()} == {Path(source).name for source, *_ in shown["pictures"]}
    assert len(shown["pictures"]) == study.samples
    assert "img-src data: 'self' file:;" in first.decode()
    digest = json.loads((study.root / steps.REPORT.manifest).read_text())["pictures"]
    damaged, *_ = sorted(folder.iterdir())
    damaged.write_bytes(b"half")
    made = []
    monkeypatch.setattr(pictures, "_copy", lambda *given, make=pictures._copy: made.append(given) or make(*given))
    assert study.report().read_bytes() == first
    assert len(made) == 1
    assert damaged.read_bytes() != b"half"
    assert json.loads((study.root / steps.REPORT.manifest).read_text())["pictures"] == digest
    monkeypatch.setattr(pictures, "LARGEST_IN_PAGE", size)
    assert b"data:image/jpeg" in study.report().read_bytes()
    assert not folder.exists()


def test_without_screenshots_the_marks_keep_their_places(study: SyntheticStudy, data: dict[str, Any]) -> None:
    page = study.report(samples="texts").read_text(encoding="utf-8")
    assert "image/jpeg" not in page
    shown = browser_data_of(page)["samples"]
    assert shown["size"] == [[500, 1000]] * len(shown["id"])
    (x, y), (across, down) = data["samples"]["target"][0], shown["target"][0]
    assert (across / 500, down / 1000) == pytest.approx((x / 90, y / 180), abs=0.01)


def test_an_experiment_that_was_not_asked_is_no_failure(study: SyntheticStudy) -> None:
    design = ScoreRecipe.model_validate({"step": "score", "task": "grounding", "thresholds": [140]})
    primary = design.metrics[0]
    table = pd.read_csv(study.root / "tables/samples.csv", dtype={"user": str, "id": str, "form": str})
    batches = [json.loads(study.predictions(name).read_text()) for name in study.experiments]
    found = scored(batches, table)
    key = ("lora", study.users[0], f"{study.users[0]}/0")
    for columns in found:
        del columns[key]  # type: ignore[attr-defined]
    samples = read_samples(study.samples_of(study.users[0]), study.users[0])
    compared = ComparisonDesign.model_validate({"step": "compare", **study.design})
    view = next(sample_views(compared, primary, samples, found))
    assert [answer.verdict for answer in view.answers if answer.experiment == "lora"] == ["not asked"]
    assert in_pixels(view, (90, 180)).points[1] is None


def test_very_long_texts_are_shortened() -> None:
    assert for_page("a\x00b\tc\n\ud800\x9f") == "a\ufffdb\tc\n\ufffd\ufffd"
    assert for_page("x" * (LONGEST_TEXT + 7)).endswith("… and 7 more characters")


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["Point to the element: mail", "Point to the element: maps"], (22, 0)),
        (["mail\nAnswer with the point as [x, y]", "clock\nAnswer with the point as [x, y]"], (0, 32)),
        (["same same same same same same"] * 2, (0, 0)),
        (["mail", "mail app of the phone"], (0, 0)),
    ],
)
def test_the_list_leaves_the_prompt_out(texts: list[str], expected: tuple[int, int]) -> None:
    assert _in_common(texts) == expected


def test_front_end_libraries_are_those_of_their_packages() -> None:
    for name, package in packages().items():
        own = {path: digest_file(VENDOR / name / Path(path).name) for path in package["files"]}
        assert own == package["files"]
        assert "LICENSE" in own
        try:
            contents = packed(name, package["version"])
        except (OSError, subprocess.SubprocessError):
            continue  # no npm, or no network; the digests above were compared with the package when it was copied
        assert {path: contents[path] for path in own} == {
            path: (VENDOR / name / Path(path).name).read_bytes() for path in own
        }


@pytest.mark.parametrize(
    ("task", "target", "row", "expected"),
    [
        ("text", {"answers": ["Paris"]}, {"normalised_match": 1, "anls": 1}, ("right", None, None)),
        ("text", {"answers": ["Paris"]}, {"normalised_match": 0, "anls": 0.8}, ("wrong", None, None)),
        (
            "action",
            {"action": "click", "point": [200, 400], "box": [100, 200, 300, 600]},
            {"step_right_140": 1, "action": "click", "target_action": "click", "x": 290, "y": 590}
            | {"target_x": 200, "target_y": 400},
            ("right", 210.2, (9.0, 36.0, 18.0, 72.0)),
        ),
        (
            "action",
            {"action": "wait"},
            {"step_right_140": 0, "action": "scroll", "target_action": "wait", "x": math.nan, "y": math.nan},
            ("wrong", None, None),
        ),
    ],
)
def test_other_tasks(task: str, target: Any, row: dict[str, Any], expected: Any, tmp_path: Path) -> None:
    sample = {"id": "s", "user": "1", "episode": "e", "step": 0, "messages": [], "images": [], "target": target}
    (tmp_path / "user_1.jsonl").write_text(json.dumps(sample))
    design = ComparisonDesign.model_validate(
        {"step": "compare", "task": task, "thresholds": [140], "users": ["1"]}
        | {"experiments": [{"name": "lora", "mode": "lora"}]}
    )
    found = Scored({("lora", "1", "s"): "text"}, {("lora", "1", "s"): {"parsed": 1, "form": "text", **row}})
    (view,) = sample_views(design, design.metrics[0], read_samples(tmp_path / "user_1.jsonl", "1"), found)
    (answer,) = view.answers
    assert (answer.verdict, answer.distance, in_pixels(view, (90, 180)).box) == expected

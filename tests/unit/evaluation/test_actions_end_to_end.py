"""The task action from raw answers to the report."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.support.calls import prepare_one
from tests.support.synthetic_study import SyntheticStudy
from usertune.core.errors import UserError
from usertune.data.samples import read_samples
from usertune.evaluation.tables import read_table

Maker = Callable[..., Any]


def prepared(folder: Path, answers: list[str], **recipe: Any) -> list[Any]:
    """Return the canonical samples of answers on a screenshot of 500 x 1000 pixels."""
    Image.new("RGB", (500, 1000)).save(folder / "a.png")
    asked = [{"type": "image", "image": "a.png"}, {"type": "text", "text": "next"}]
    lines = [
        json.dumps({"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]})
        for answer in answers
    ]
    (folder / "user_1.jsonl").write_text("\n".join(lines))
    prepare_one(folder, "1", folder / "out.jsonl", folder / "out.json", task="action", **recipe)
    return list(read_samples(folder / "out.jsonl", "1"))


def test_answers_in_pixels_are_converted_as_actions(tmp_path: Path) -> None:
    given = ["long_click(coordinates=(250, 250), content='x')", "press_back()", "type(text='[3, 4] no point')"]
    samples = prepared(tmp_path, given, frame="pixels")
    assert [sample["target"] for sample in samples] == [
        {"action": "long_press", "point": [500, 250]},
        {"action": "press", "key": "back"},
        {"action": "type", "text": "[3, 4] no point"},
    ]
    assert [json.loads(sample["messages"][-1]["content"][0]["text"]) for sample in samples] == [
        {"action": "long_press", "coordinate": [500, 250]},
        {"action": "system_button", "button": "Back"},
        {"action": "type", "text": "[3, 4] no point"},
    ]


def test_answers_in_0_to_1000_stay_as_they_are(tmp_path: Path) -> None:
    (sample,) = prepared(tmp_path, ["CLICK [[512, 304]]"])
    assert sample["messages"][-1]["content"][0]["text"] == "CLICK [[512, 304]]"
    assert sample["target"] == {"action": "click", "point": [512, 304]}


@pytest.mark.parametrize("frame", ["relative_1", "pixels", "relative_1000"])
def test_an_answer_without_an_action_is_a_bad_sample(tmp_path: Path, frame: str) -> None:
    with pytest.raises(UserError, match=r"user_1.jsonl:1: messages\[1\].content: .*has no action"):
        prepared(tmp_path, ["I do not know."], frame=frame)


def test_a_study_of_actions_has_its_tables_and_its_report(make_study: Maker, tmp_path: Path) -> None:
    dataset = {"root": str(tmp_path / "study/dataset"), "task": "action"}
    study: SyntheticStudy = make_study(changes={"dataset": dataset})
    page = study.report().read_text(encoding="utf-8")
    summary = read_table(study.root / "tables/summary.csv")
    samples = read_table(study.root / "tables/samples.csv")
    assert set(samples["target_action"]) == {"click"}
    assert {"step_success", "type_accuracy", "tap_accuracy", "episode_success"} <= set(summary)
    assert not {"scroll_accuracy", "typed_similarity"} & set(summary)
    for _, row in summary.iterrows():
        own = samples[samples["experiment"] == row["experiment"]]
        assert row["step_success"] == own["step_right_140"].mean() == row["tap_accuracy"]
        assert row["type_accuracy"] == own["parsed"].mean()
    assert "step success" in page
    assert "click for click: " in page

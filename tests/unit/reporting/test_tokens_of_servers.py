"""The report shows the tokens that a server counted."""

from __future__ import annotations

from typing import Any

from usertune.core.manifest import read_result, write_result
from usertune.reporting.cost import server_tokens


def batch(**more: Any) -> dict[str, Any]:
    return {"experiment": "served", "predictions": [{"new_tokens": None, "stopped": True}], **more}


def test_tokens_of_all_jobs_are_summed() -> None:
    counted = [batch(tokens={"prompt": prompt, "completion": 5}) for prompt in (1000, 234)]
    assert server_tokens(counted) == (1234, 10)
    assert server_tokens([batch()]) is None


def test_the_column_is_there_if_a_server_answered(make_study: Any) -> None:
    study = make_study(users=["1"])
    assert "tokens asked" not in study.report().read_text()
    path = study.predictions("vanilla")
    manifest = {key: value for key, value in read_result(path).items() if key != "checksum"}
    write_result(path, {**manifest, "tokens": {"prompt": 4321, "completion": 98}})
    report = study.report().read_text()
    assert "tokens asked (k)" in report
    assert "<td>4.3</td>" in report

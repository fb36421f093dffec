"""Mistakes in the section `tracking`."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from usertune.study.schema.tracking import TrackingSettings
from usertune.training import tracking


@pytest.mark.parametrize(
    ("trackers", "error"),
    [
        (["tensorboard", "tensorboard"], "tensorboard is listed twice; keep it once"),
        (["tensorbord"], "Input should be 'tensorboard', 'mlflow'"),
        (["neptune"], "neptune needs the package neptune, which is not installed: pip install neptune"),
    ],
)
def test_a_mistake_is_told(trackers: list[str], error: str, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {"tensorboardX", "mlflow"}
    monkeypatch.setattr(tracking, "find_spec", lambda name: object() if name in installed else None)
    assert TrackingSettings.model_validate({"trackers": ["tensorboard", "mlflow"]}).trackers == (
        "tensorboard",
        "mlflow",
    )
    with pytest.raises(ValidationError, match=error):
        TrackingSettings.model_validate({"trackers": trackers})

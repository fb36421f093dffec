"""The section `tracking`: where losses are reported while a training runs, and the study's summary after it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, field_validator

from usertune.study.schema.base import ConfigModel
from usertune.training.tracking import PACKAGES, missing_package

if TYPE_CHECKING:
    TrackerName = str
else:
    TrackerName = Literal[tuple(PACKAGES)]


class TrackingSettings(ConfigModel):
    """Trackers of experiments (docs/tracking.md). Changes no result."""

    trackers: tuple[TrackerName, ...] = ()
    """Names of trackers, such as tensorboard and mlflow; empty: none. Their packages are not part of usertune."""
    project: Annotated[str, Field(min_length=1)] | None = None
    """What the trackers group runs by; null: the name of the study."""

    @field_validator("trackers")
    @classmethod
    def _check_packages(cls, trackers: tuple[str, ...]) -> tuple[str, ...]:
        for name in trackers:
            if trackers.count(name) > 1:
                raise ValueError(f"{name} is listed twice; keep it once")
            if package := missing_package(name):
                raise ValueError(f"{name} needs the package {package}, which is not installed: pip install {package}")
        return trackers

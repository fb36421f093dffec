"""The recipes of figures and of the report."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from usertune.core.recipe import Settings
from usertune.evaluation.recipe import ComparisonDesign

Colour = Annotated[str, Field(pattern="^#[0-9a-fA-F]{6}$")]


class FigureRecipe(ComparisonDesign):
    """What one figure shows."""

    name: str = ""
    confidence: float | None = None
    colours: dict[str, Colour] = {}  # noqa: RUF012 (pydantic copies it)
    """Experiment -> ``#rrggbb``; the others keep their standard colours."""

    @model_validator(mode="after")
    def _check_colours(self) -> Self:
        if others := sorted(self.colours.keys() - set(self.names)):
            raise ValueError(f"colours: {others[0]!r} is no experiment of this figure; use {', '.join(self.names)}")
        return self


class Price(Settings):
    """Price of a GPU hour."""

    amount: float
    currency: str


class ReportRecipe(ComparisonDesign):
    """What the report says and shows."""

    study: str = ""
    """Name of the study."""
    title: str = "Comparison of experiments"
    hypothesis: str = ""
    """A sentence that is printed above the result."""
    has_comparisons: bool = False
    """Whether the hypothesis names comparisons, of which there is a table."""
    samples: Literal["all", "texts", "none"] = "all"
    """What the browser of samples shows: everything, no screenshots, or nothing: there is none."""
    cost_figures: dict[str, dict[str, Colour]] = {}  # noqa: RUF012 (pydantic copies it)
    """The figures that the report draws -> experiment -> colour in that figure."""
    price_per_gpu_hour: Price | None = None
    """What the table of costs multiplies GPU hours by; None: it has no column of money."""
    study_sha256: str | None = None
    splits: dict[str, str] = {}  # noqa: RUF012 (pydantic copies it)
    """The users of each split, in the short notation."""
    dataset: dict[str, Any] = {}  # noqa: RUF012 (pydantic copies it)
    """How the data were read."""

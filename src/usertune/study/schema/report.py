"""The section `report`: what the report shows."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema, create_model

from usertune.reporting.figures.catalogue import FIGURES
from usertune.study.schema.base import ConfigModel


def _colour(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch("#[0-9a-fA-F]{6}", value):
        raise ValueError(
            f'{value!r} is not a colour; write "#rrggbb" with six hexadecimal digits, in quotes '
            "(without quotes YAML reads it as a comment)"
        )
    return value.lower()


Colour = Annotated[str, BeforeValidator(_colour), WithJsonSchema({"type": "string", "pattern": "^#[0-9a-fA-F]{6}$"})]


class FigureSettings(ConfigModel):
    """Settings of one figure."""

    draw: bool = True
    """Whether the figure is made; figures that do not apply to a study never are (docs/figures.md)."""
    colours: dict[str, Colour] = {}  # noqa: RUF012 (pydantic copies it)
    """Experiment -> colour in this figure, as "#rrggbb"; other experiments keep the standard colours."""


if TYPE_CHECKING:
    Figures = ConfigModel
else:
    Figures = create_model(
        "Figures",
        __base__=ConfigModel,
        __doc__="The figures, by name.",
        **{name: (FigureSettings, FigureSettings()) for name in FIGURES},
    )


FIGURE_NAMES = tuple(FIGURES)


class PricePerGpuHour(ConfigModel):
    """Price of one GPU for one hour."""

    amount: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    """The price, such as 2.5."""
    currency: Annotated[str, Field(pattern="^[A-Z]{3}$")]
    """The three letters of the currency, such as EUR."""


class Report(ConfigModel):
    """What the report shows."""

    title: str = "Comparison of experiments"
    """Heading of the report."""
    samples: Literal["all", "texts", "none"] = "all"
    """What the report shows of single test samples: `all`, with their screenshots; `texts`, without; or `none`."""
    price_per_gpu_hour: PricePerGpuHour | None = None
    """Adds what GPU hours cost to `tables/cost.csv`; null: not shown. Changes no result."""
    figures: Figures = Figures()
    """Settings of individual figures; a change redraws only the figure that it names."""

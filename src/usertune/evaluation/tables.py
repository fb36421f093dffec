"""The tables of a study, read back without losing a digit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from usertune.core.errors import UserError
from usertune.evaluation.table_names import ABOUT

# Text stays text: a user called "007" or "NA" is neither a number nor missing.
TEXT_COLUMNS = (
    "experiment",
    "baseline",
    "mode",
    "user",
    "id",
    "episode",
    "form",
    "provenance",
    "action",
    "target_action",
    "group",
    "setting",
    "experiments",
    "selected_by",
    "test",
    "instruction",
    "answer",
    "image",
    "box",
    "by",
    "value",
    "builds_on",
    "currency",
    "note",
)


def read_table(path: Path) -> pd.DataFrame:
    """Read a table that an earlier step wrote; empty fields of number columns become NaN.

    Raises:
        UserError: the file is missing or is not such a table.
    """
    return with_numbers(read_texts(path), path)


def read_texts(path: Path) -> pd.DataFrame:
    """Read a table that an earlier step wrote, as the texts of its fields.

    Raises:
        UserError: the file is missing or is no table.
    """
    try:
        return pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: this table does not exist; run snakemake, which makes it") from None
    except (ValueError, pd.errors.ParserError) as error:
        raise UserError(f"{path}: not the expected table ({error}); delete it and run snakemake again") from None


def with_numbers(texts: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Return a table of texts with numbers in all columns that are not `TEXT_COLUMNS`; empty fields become NaN.

    Raises:
        UserError: a field of such a column is no number; the message names ``path``.
    """
    try:
        numbers = {str(name): _numbers(texts[name]) for name in texts if not is_text(str(name))}
    except ValueError as error:
        raise UserError(f"{path}: not the expected table ({error}); delete it and run snakemake again") from None
    return texts.assign(**{name: pd.Series(values, dtype=float) for name, values in numbers.items()})


def is_text(name: str) -> bool:
    """Whether a column holds texts, not numbers."""
    return name in TEXT_COLUMNS or name.startswith(ABOUT)


def _numbers(texts: pd.Series) -> np.ndarray:
    # Python's float() is exact in every version; how pandas parses decimals has differed between versions.
    return np.where(texts == "", "nan", texts).astype(object).astype(float)


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a table as dicts with the column names as keys."""
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def require_experiments(table: pd.DataFrame, path: Path, names: Sequence[str]) -> None:
    """Check that a table covers exactly the experiments of the study, in any order.

    Raises:
        UserError: an experiment is missing from the table, or the study does not have it.
    """
    found = set(table["experiment"])
    if found != set(names):
        raise UserError(
            f"{path}: covers the experiments {sorted(found)}, the study has {sorted(names)}; "
            "delete the file and run snakemake again"
        )

"""The report on the study: settings as people write them, dates as recorded in the results."""

from __future__ import annotations

from typing import Any

import pytest

from usertune.reporting.sections.study import (
    NONE,
    base_model_rows,
    date_rows,
    setting_rows,
    span_text,
    split_rows,
    times_of,
    value_text,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (0, "0"),
        (0.0, "0"),
        (1.0, "1"),
        (1e-4, "1e-4"),
        (1.5e-5, "1.5e-5"),
        (0.004, "0.004"),
        (0.1 + 0.2, "0.3"),
        (1003520, "1003520"),
        ([140, 70.5], "140, 70.5"),
        ([], NONE),
        ("linear", "linear"),
    ],
)
def test_values_are_shown_as_a_study_writes_them(value: Any, text: str) -> None:
    assert value_text(value) == text


def test_settings_differ_only_among_experiments_that_have_them() -> None:
    common = {"step": "train", "upstream": {"prepare": "x"}, "provenance": {"code": "y"}, "users": {"train": ["3"]}}
    trainings: dict[str, Any] = {
        "lora": {"recipe": {**common, "mode": "lora", "training": {"epochs": 2.0, "lora": {"rank": 8}}}},
        "full": {
            "recipe": {**common, "mode": "full", "training": {"epochs": 2.0, "keep": "best"}},
            "execution": {"micro_batch_size": 4},
            "micro_batch_size": 2,
            "processes": 4,
            "parallel": "fsdp",
        },
    }
    predict = {"step": "predict", "pixels": {"min": None, "max": 9}, "max_new_tokens": 5, "later_key": "x"}
    predictions: list[Any] = [{"experiment": name, "recipe": predict} for name in ("vanilla", "lora", "full")]
    predictions[2]["recipe"] = {**predict, "max_new_tokens": 6}
    predictions.append({**predictions[1], "batch_sizes": [16, 3]})
    predictions[1] = {**predictions[1], "batch_sizes": [None, 16]}
    modes = {"vanilla": "vanilla", "lora": "lora", "full": "full"}
    rows = {row["key"]: (row["cells"], row["differs"]) for row in setting_rows(modes, trainings, predictions)}
    assert rows == {
        "mode": (["vanilla", "lora", "full"], True),
        "epochs": ([NONE, "2", "2"], False),
        "keep": ([NONE, "last", "best"], True),
        "early_stopping": ([NONE, "null", "null"], False),
        "lora.rank": ([NONE, "8", NONE], False),
        "min_pixels": (["null", "null", "null"], False),
        "max_pixels": (["9", "9", "9"], False),
        "max_new_tokens": (["5", "5", "6"], True),
        "later_key": (["x", "x", "x"], False),
        "answers at once": ([NONE, "n/a, 3, 16", NONE], False),
        "micro_batch_size": ([NONE, NONE, "2"], False),
        "parallel": ([NONE, NONE, "fsdp"], False),
        "processes (gpus x nodes)": ([NONE, NONE, "4"], False),
    }
    assert next(iter(rows)) == "mode"


def test_splits_that_were_not_used_say_so() -> None:
    splits = {"test": "1-3,ana", "train": "4", "validation": ""}
    assert split_rows(splits, {}, 1234) == [
        {"split": "train", "users": "4", "count": "1", "samples": "not used"},
        {"split": "validation", "users": NONE, "count": "0", "samples": "0"},
        {"split": "test", "users": "1-3,ana", "count": "4", "samples": "1,234"},
    ]


def test_dates_are_those_of_the_results() -> None:
    day = "2026-03-04T"
    predictions = [
        {"experiment": "lora", "answered": [f"{day}10:00:09+00:00", f"{day}10:30:00+00:00"]},
        {"experiment": "lora", "answered": [f"{day}09:59:00+00:00", f"{day}10:01:00+00:00"]},
        {"experiment": "lora", "answered": None},
        {"experiment": "old"},
    ]
    origin = {
        "experiments": {
            "lora": {"scored": [f"{day}23:59:00+00:00", "2026-03-05T00:01:00+00:00"]},
            "old": {},
            "vanilla": {},
        }
    }
    trainings = {"lora": {"finished": f"{day}09:00:00+00:00"}, "old": {}}
    times = times_of(trainings, predictions)
    assert times["lora"]["predict"] == [f"{day}09:59:00+00:00", f"{day}10:30:00+00:00"]
    assert date_rows(["lora", "old", "vanilla"], trainings, times, origin) == [
        {
            "experiment": "lora",
            "trained": "2026-03-04 09:00 UTC",
            "predicted": "2026-03-04 09:59 to 10:30 UTC",
            "scored": "2026-03-04 23:59 to 2026-03-05 00:01 UTC",
        },
        {"experiment": "old", "trained": "n/a", "predicted": "n/a", "scored": "n/a"},
        {"experiment": "vanilla", "trained": NONE, "predicted": "n/a", "scored": "n/a"},
    ]
    assert span_text([f"{day}10:00:01+00:00", f"{day}10:00:59+00:00"]) == "2026-03-04 10:00 UTC"


def test_a_base_model_of_an_older_release_is_shown_without_what_it_lacks() -> None:
    rows = dict(base_model_rows({"recipe": {"path": "owner/name", "revision": "main"}, "output": "f" * 64}))
    assert rows == {
        "base model": "owner/name",
        "revision asked for": "main",
        "commit on the hub": "n/a",
        "type": "n/a",
        "parameters": "n/a",
        "fingerprint of its files": "f" * 64,
    }

"""The shipped demo: fine-tuning helps, as its README and report say. Minutes on two cores."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from tests.support.workplace import REPOSITORY, Workplace
from usertune.demo.dataset import TEST_USERS, TRAIN_USERS, VALIDATION_USERS, Counts, make_dataset


@pytest.mark.demo
@pytest.mark.timeout(1200)
def test_fine_tuning_helps(tmp_path: Path) -> None:
    workplace = Workplace(tmp_path)
    workplace.study.write_text((REPOSITORY / "config.yaml").read_text())
    workplace.replace("path: demo/base", f"path: {REPOSITORY}/demo/base")
    workplace.replace("root: demo/dataset", "root: data")
    make_dataset(workplace.data, [*TEST_USERS, *TRAIN_USERS, *VALIDATION_USERS], 0, Counts())
    workplace.run(timeout=1100)
    with (workplace.results / "tables/summary.csv").open(newline="") as file:
        found = {row["experiment"]: row for row in csv.DictReader(file)}
    vanilla, lora, full = (found[name] for name in ("vanilla", "lora", "full"))
    assert float(vanilla["click_accuracy"]) < float(lora["click_accuracy"]) <= float(full["click_accuracy"])
    assert float(lora["difference_low"]) > 0
    assert float(full["difference_low"]) > 0
    # A point without a model says what is due to where users tap, and no training on the user should be below it.
    for name in ("personal", "pooled"):
        assert float(found["prior"]["click_accuracy"]) < float(found[name]["click_accuracy"])
    assert "Nothing to be done" in workplace.run()

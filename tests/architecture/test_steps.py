"""The names and paths of steps are in one place: `usertune.core.step_names` and the table `usertune.pipeline.steps`."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from usertune.core.step_names import STEP_NAMES
from usertune.core.users import batch_label
from usertune.pipeline.recipes import Recipes
from usertune.pipeline.steps import STEPS, Item

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGE = REPOSITORY / "src/usertune"


@pytest.mark.parametrize("file", sorted((REPOSITORY / "rules").glob("*.smk")), ids=lambda path: path.name)
def test_rules_take_paths_from_the_table(file: Path) -> None:
    text = file.read_text()
    folders = "|".join({step.folder for step in STEPS.values()} - {""})
    literal = re.compile(rf"<(?:results|outcomes)>/[a-z]|[/\"'](?:{folders}|logs/[a-z_]+)/")
    assert not [line for line in text.splitlines() if literal.search(line)]


@pytest.mark.parametrize("step", STEPS.values(), ids=lambda step: step.name)
def test_every_step_has_a_rule_and_a_recipe(step) -> None:
    rules = "".join(path.read_text() for path in (REPOSITORY / "rules").glob("*.smk"))
    (rule,) = re.findall(rf"^rule {step.name}:\n(.*?)(?=^rule |\Z)", rules, re.MULTILINE | re.DOTALL)
    constant = f"steps.{step.name.upper()}"
    for what in (f"log_of({constant})", f"manifest_of({constant})", f"recipe_of({constant})"):
        assert what in rule
    for name in step.files:
        assert f'file_of({constant}, "{name}")' in rule or f"for name in {constant}.files" in rule
    assert hasattr(Recipes, step.name)


def test_the_table_is_in_the_order_of_need() -> None:
    assert tuple(STEPS) == STEP_NAMES
    seen: set[str] = set()
    for step in STEPS.values():
        assert {given.step for given in step.inputs} <= seen
        assert len({given.role for given in step.inputs}) == len(step.inputs)
        seen.add(step.name)


def test_paths_and_labels_have_the_fields_of_their_items() -> None:
    users = ("1", "2")
    for step in STEPS.values():
        item = Item("lora", users, "loss_curves")
        assert set(step.wildcards) <= set(item.values)
        for text in (step.manifest, step.log, *step.files.values(), step.label, step.doing):
            assert "{" not in text.format(settings="0" * 16, **item.values)
    assert Item("lora", users).values["who"] == f"users {batch_label(users)}"
    assert Item("lora", ("7",)).values["who"] == "user 7"

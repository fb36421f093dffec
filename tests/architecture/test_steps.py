"""The names and paths of steps are in one place: `usertune.core.step_names` and the table `usertune.pipeline.steps`."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from usertune.core.step_names import PREDICT_FROM_STORE, READ_ANSWERS, STEP_NAMES, TRAIN_FOLDS
from usertune.core.users import batch_label
from usertune.evaluation.table_names import DESCRIPTIONS
from usertune.pipeline.recipes import Recipes
from usertune.pipeline.step import Item
from usertune.pipeline.steps import STEPS
from usertune.study.schema.cross_checks import RESERVED_EXPERIMENT_NAMES

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGE = REPOSITORY / "src/usertune"


# Texts that are equal to a step's name and mean something else. Splits of users need none: see `_texts`.
OTHER_MEANINGS = {
    "train": {
        "training/finetune.py": "the split of a row of losses",
        "reporting/sections/leakage.py": "the split, in sentences",
    },
    "base_model": {
        "study/paths.py": "the section of the study",
        "study/copy.py": "the section of the study",
        "study/load.py": "the section of the study",
        "exchange/compare_studies.py": "the section of the study",
    },
    "compare": {"cli/main.py": "the command that people type"},
    "report": {
        "study/schema/cross_checks.py": "the section of the study",
        "study/schema/study.py": "the section of the study",
        "study/sweep.py": "the section of the study",
    },
    "audit": {"cli/main.py": "the command that people type"},
    "figure": {
        "reporting/figures/catalogue.py": "the kind of plug-in, in messages",
        "pipeline/step.py": "the field of templates",
    },
}


def _texts(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield every text with its line, but for splits: names in one list with validation."""
    splits = {
        id(name)
        for node in ast.walk(tree)
        if isinstance(node, ast.Tuple | ast.List)
        and any(isinstance(name, ast.Constant) and name.value == "validation" for name in node.elts)
        for name in node.elts
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in splits:
            yield node.lineno, node.value


def test_no_step_is_named_anywhere_else() -> None:
    found: dict[str, dict[str, list[int]]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        module = path.relative_to(PACKAGE).as_posix()
        if module not in ("core/step_names.py", "pipeline/steps.py"):
            for line, text in _texts(ast.parse(path.read_bytes())):
                if text in STEP_NAMES:
                    found.setdefault(text, {}).setdefault(module, []).append(line)
    unknown = [
        (module, line, text)
        for text, modules in found.items()
        for module, lines in modules.items()
        for line in lines
        if module not in OTHER_MEANINGS.get(text, {})
    ]
    assert unknown == []
    out_of_date = {text: set(modules) - set(found.get(text, {})) for text, modules in OTHER_MEANINGS.items()}
    assert not any(out_of_date.values()), out_of_date


@pytest.mark.parametrize("file", sorted((REPOSITORY / "rules").glob("*.smk")), ids=lambda path: path.name)
def test_rules_take_paths_from_the_table(file: Path) -> None:
    text = file.read_text()
    folders = "|".join({step.folder for step in STEPS.values()} - {""})
    literal = re.compile(rf"<(?:results|outcomes)>/[a-z]|[/\"'](?:{folders}|logs/[a-z_]+)/")
    assert not [line for line in text.splitlines() if literal.search(line)]


@pytest.mark.parametrize("step", STEPS.values(), ids=lambda step: step.name)
def test_every_step_has_a_rule_and_a_recipe(step) -> None:
    rules = "".join(path.read_text() for path in (REPOSITORY / "rules").glob("*.smk"))
    constant = f"steps.{step.name.upper()}"
    # Snakemake would compare files of a batch that share the wildcard {experiment} with all others.
    own = ", experiment" if "experiment" in step.wildcards else ""
    of_batch = (
        rf"rule_of_batch\({constant}, batch{own}\)"
        if step.name != TRAIN_FOLDS
        else r"layout\.rule_of_folds\(experiment, users\)"
    )
    named = rf"rule:\n +name:\n +{of_batch}" if step.batch_log else f"rule {step.name}:"
    (rule,) = re.findall(rf"^ *{named}\n(.*?)(?=^ *rule\b|\Z)", rules, re.MULTILINE | re.DOTALL)
    log, recipe = f"log_of({constant})", f"recipe_of({constant})"
    if step.batch_log:
        log = "log_of_folds(experiment, batch)" if step.name == TRAIN_FOLDS else f"batch_log_of({constant}, batch"
        recipe = f"RECIPES.{step.name}("
        user_log = rf"log=for_each_(user|training)\({constant}\.log\b"
        assert re.search(user_log, rule) or f'"--user-log": {constant}.log' in rules
    for what in (log, f"manifest_of({constant})", recipe):
        assert what in rule
    for name in step.files:
        assert f'file_of({constant}, "{name}")' in rule or f"for name in {constant}.files" in rule
    assert hasattr(Recipes, step.name)


def test_no_experiment_can_have_the_name_of_a_rule() -> None:
    files = [REPOSITORY / "Snakefile", *(REPOSITORY / "rules").glob("*.smk")]
    rules = {name for file in files for name in re.findall(r"^(?:use rule \w+ as|rule) (\w+)", file.read_text(), re.M)}
    # The rules of batches have a space in their names, which no experiment has.
    named = {step.name for step in STEPS.values() if not step.batch_log}
    assert {*named, PREDICT_FROM_STORE, READ_ANSWERS} <= rules <= RESERVED_EXPERIMENT_NAMES


def test_every_table_has_a_description() -> None:
    written = [*STEPS["compare"].files.values(), *STEPS["report"].files.values()]
    assert {Path(path).name for path in written if path.startswith("tables/")} == DESCRIPTIONS.keys()


def test_the_table_is_in_the_order_of_need() -> None:
    assert tuple(STEPS) == STEP_NAMES
    seen: set[str] = set()
    for step in STEPS.values():
        assert {given.step for given in step.inputs} <= seen
        # Different steps can make what is used in one role.
        assert len({(given.role, given.step) for given in step.inputs}) == len(step.inputs)
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

"""Which edits of the package give which steps another version."""

from __future__ import annotations

import ast
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from usertune.pipeline.plug_ins import current_code
from usertune.pipeline.steps import OF_COSTS
from usertune.runtime import code_version as module
from usertune.runtime.code_version import code_version
from usertune.study.load import study_from_config
from usertune.study.schema.report import FIGURE_NAMES

FIGURES = {f"figure:{name}" for name in FIGURE_NAMES if name not in OF_COSTS}
STUDY = study_from_config(
    {
        "name": "small",
        "dataset": {"root": "data"},
        "users": {"test": 1},
        "base_model": {"path": "base"},
        # The figure of costs is drawn if there are several.
        "experiments": {"vanilla": {"mode": "vanilla"}, "again": {"mode": "vanilla"}},
    }
)

Versions = dict[str, str]


def _clear_caches() -> None:
    for function in (module.code_version, module._module, module._file_of):
        function.cache_clear()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the package; tests take the versions of its code."""
    copy = tmp_path / "usertune"
    shutil.copytree(module.ROOT, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(module, "ROOT", copy)
    _clear_caches()
    yield copy
    _clear_caches()


def versions() -> Versions:
    """Return the version of every step, as a new process would."""
    _clear_caches()
    return current_code(STUDY)


def changed_by(edit: Callable[[], object]) -> set[str]:
    """Return the steps with another version after an edit."""
    before = versions()
    edit()
    after = versions()
    return {step for step in before if before[step] != after[step]}


def test_a_version_has_16_digits_and_every_step_its_own(package: Path) -> None:
    found = versions()
    assert all(len(version) == 16 and set(version) <= set("0123456789abcdef") for version in found.values())
    assert len(set(found.values())) == len(found)
    assert found == versions()


def test_a_step_that_does_not_exist_has_no_version() -> None:
    with pytest.raises(KeyError):
        code_version("teach")


def _change_layout(path: Path) -> None:
    """Write a module again from its syntax tree: without comments, with other quotes, line breaks and brackets."""
    path.write_text(ast.unparse(ast.parse(path.read_text())))


def _change_comments(path: Path) -> None:
    text = path.read_text().replace("\n\n\n", "\n\n\n# Another.\n\n\n")
    path.write_text(f"# A comment.\n\n{text}# A last one.\n")


def _change_docstrings(path: Path) -> None:
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            has_one = ast.get_docstring(node, clean=False) is not None
            # One is edited, or added where there was none.
            node.body[: int(has_one)] = [ast.Expr(ast.Constant("Said in other words."))]
    path.write_text(ast.unparse(tree))


@pytest.mark.parametrize("change", [_change_layout, _change_comments, _change_docstrings])
def test_comments_docstrings_and_layout_give_no_new_version(package: Path, change: Callable[[Path], None]) -> None:
    def edit() -> None:
        for path in package.rglob("*.py"):
            before = path.read_bytes()
            change(path)
            assert path.read_bytes() != before or not before

    assert changed_by(edit) == set()


@pytest.mark.parametrize(
    ("path", "steps"),
    [
        ("training/finetune.py", {"train", "train_folds"}),
        ("training/train.py", {"train"}),
        ("training/callbacks.py", {"train", "train_folds"}),
        ("training/distributed/training_process.py", {"train"}),
        ("data/readers/messages.py", {"prepare", "audit"}),
        ("data/readers/catalogue.py", set()),
        ("tasks/catalogue.py", set()),
        ("tasks/task.py", {"prepare", "score", "compare", "report", *FIGURES}),
        ("inference/engines/catalogue.py", set()),
        ("reporting/figures/catalogue.py", set()),
        ("inference/engines/transformers.py", {"predict"}),
        # The audit reads answers from elsewhere, as their collection does.
        ("inference/prediction_store.py", {"predict", "audit"}),
        ("models/conversation.py", {"train", "train_folds", "predict"}),
        ("reporting/headline.py", {"report"}),
        ("checks/audit.py", {"audit"}),
        ("evaluation/statistics/intervals.py", {"compare", "report"}),
        ("evaluation/reading_note.py", {"compare", "report"}),
        ("evaluation/answers.py", {"score", "audit"}),
        ("reporting/figures/loss_curves.py", {"figure:loss_curves"}),
        ("reporting/figures/accuracy_by_user.py", {"figure:accuracy_by_user"}),
        ("reporting/figures/distance_distribution.py", {"figure:distance_distribution"}),
        ("reporting/figures/cost_against_accuracy.py", {"report"}),
        # The report draws costs.
        ("reporting/figures/sheet.py", {"report", *FIGURES}),
        ("reporting/figures/__init__.py", {"report", *FIGURES}),
        ("reporting/style.py", {"report", *FIGURES}),
        ("reporting/templates/report.html.jinja", {"report"}),
        ("reporting/templates/report.css", {"report"}),
        *(
            (f"{name}.py", set())
            for name in (
                "core/errors",
                "runtime/gpus",
                "runtime/provenance",
                "runtime/code_version",
                "runtime/progress",
                "runtime/job_record",
                "checks/explain",
            )
        ),
    ],
)
def test_an_edit_reaches_the_steps_that_use_the_module_and_no_others(package: Path, path: str, steps: set[str]) -> None:
    file = package / path
    assert changed_by(lambda: file.write_text(file.read_text() + "\nEXTRA = 1\n")) == steps


@pytest.mark.parametrize(
    ("path", "affected", "unaffected"),
    [
        (
            "tasks/grounding.py",
            {"prepare", "score", "compare", "report", *FIGURES},
            {"base_model", "train", "predict"},
        ),
        ("evaluation/score.py", {"score"}, {"audit", "prepare", "train", "predict", "compare", *FIGURES}),
        ("evaluation/compare.py", {"compare"}, {"report", "train", "predict", "score", *FIGURES}),
        ("data/images.py", {"prepare", "train", "predict"}, {"score", "compare", *FIGURES}),
        ("data/prepare.py", {"prepare"}, {"train", "predict", "score", "compare", *FIGURES}),
    ],
)
def test_an_edit_reaches_at_least_and_at_most(
    package: Path, path: str, affected: set[str], unaffected: set[str]
) -> None:
    file = package / path
    changed = changed_by(lambda: file.write_text(file.read_text() + "\nEXTRA = 1\n"))
    assert affected <= changed
    assert not changed & unaffected


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("said", "told"),
        ("linewidth=1.3", "linewidth=1.4"),
        ('"step"', '"steps"'),
        ("if window > 1", "if window >= 1"),
        ("max(1, len(train) // 50)", "min(1, len(train) // 50)"),
    ],
)
def test_any_real_edit_gives_a_new_version(package: Path, old: str, new: str) -> None:
    path = package / "reporting/figures/loss_curves.py"
    text = path.read_text()
    assert old in text
    assert changed_by(lambda: path.write_text(text.replace(old, new))) == {"figure:loss_curves"}


IMPORTS = [
    "import usertune.new",
    "from usertune import new",
    "from usertune.new import EXTRA",
    "import math, usertune.new as other",
]


FRAMES = [
    "{}",
    "def late() -> None:\n    {}",
    "async def late() -> None:\n    async with a:\n        {}",
    "class A:\n    def late(self) -> None:\n        {}",
    "if a:\n    pass\nelif b:\n    pass\nelse:\n    {}",
    "try:\n    {}\nexcept ImportError:\n    pass",
    "try:\n    pass\nexcept ImportError:\n    {}",
    "try:\n    pass\nfinally:\n    {}",
    "for a in b:\n    pass\nelse:\n    {}",
    "with a, b:\n    {}",
    "match a:\n    case 1:\n        {}",
]


@pytest.mark.parametrize("frame", FRAMES)
def test_a_module_counts_wherever_and_however_it_is_imported(package: Path, frame: str) -> None:
    new, importer = package / "new.py", package / "reporting/headline.py"
    new.write_text("EXTRA = 1\n")
    text = importer.read_text()
    for number, line in enumerate(IMPORTS):
        importer.write_text(text + "\n\n" + frame.format(line) + "\n")
        found = set()
        for value in (number, number + 0.5):
            new.write_text(f"EXTRA = {value}\n")
            _clear_caches()
            found.add(code_version("report"))
        assert len(found) == 2, line


def test_a_module_counts_through_others_and_circles_end(package: Path) -> None:
    (package / "reporting/headline.py").write_text("from usertune import one\n")
    (package / "one.py").write_text("from usertune import two\n")
    (package / "two.py").write_text("from usertune import one\nfrom usertune.reporting import headline\nEXTRA = 1\n")
    path = package / "two.py"
    assert changed_by(lambda: path.write_text(path.read_text().replace("1", "2"))) == {"report"}


def test_a_new_template_counts_and_other_files_do_not(package: Path) -> None:
    assert changed_by(lambda: (package / "reporting/templates/new.jinja").write_text("x")) == {"report"}
    assert changed_by(lambda: (package / "notes.txt").write_text("x")) == set()


def test_a_module_that_cannot_be_parsed_is_an_error(package: Path) -> None:
    (package / "training/finetune.py").write_text("def half(\n")
    _clear_caches()
    with pytest.raises(SyntaxError):
        code_version("train")
    assert code_version("score")


def test_a_later_process_finds_the_same_versions_without_parsing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def versions() -> dict[str, str]:
        _clear_caches()
        module._parsed.cache_clear()
        return {step: code_version(step) for step in module.STEP_ENTRIES}

    usual = versions()
    monkeypatch.setattr(module, "_PARSED", tmp_path / "__pycache__" / "trees.json")
    assert versions() == usual
    monkeypatch.setattr(module.ast, "parse", lambda source: pytest.fail("parsed again"))
    assert versions() == usual
    monkeypatch.undo()
    _clear_caches()
    module._parsed.cache_clear()

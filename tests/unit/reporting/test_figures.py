"""The figures."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from usertune.core.errors import UserError
from usertune.core.hashing import digest_file
from usertune.core.manifest import read_result
from usertune.evaluation.tables import read_table
from usertune.reporting import figures
from usertune.reporting.figures import accuracy_by_user, distance_distribution
from usertune.reporting.figures.catalogue import FIGURES
from usertune.reporting.figures.sheet import Sources, subject_of
from usertune.reporting.make_figure import make_figure
from usertune.reporting.recipe import FigureRecipe
from usertune.reporting.style import PALETTE
from usertune.runtime.code_version import code_version
from usertune.study.schema.report import FIGURE_NAMES

Maker = Callable[..., Any]


def recipe_of(study: Any, **keys: Any) -> FigureRecipe:
    return FigureRecipe.model_validate({"step": "figure", **study.design, **keys})


def outputs(folder: Path, name: str = "own") -> tuple[Path, Path, Path]:
    """Return paths for a figure as SVG and as PNG, and for its manifest."""
    return folder / f"{name}.svg", folder / f"{name}.png", folder / f"{name}.manifest.json"


def test_every_figure_is_drawn_the_same_twice(make_study: Maker) -> None:
    study = make_study()
    study.compare()
    first = {path.name: path.read_bytes() for path in study.draw()}
    with mpl.rc_context({"lines.linewidth": 9, "font.size": 30}):
        second = {path.name: path.read_bytes() for path in study.draw()}
        assert mpl.rcParams["font.size"] == 30
    assert first == second
    assert not plt.get_fignums()
    assert set(first) == {f"{name}.svg" for name in FIGURE_NAMES}
    for path in (study.root / "figures").glob("*.png"):
        with Image.open(path) as image:
            assert image.width > 1000
    for content in first.values():
        ElementTree.fromstring(content)
        assert b"dc:date" not in content


def test_the_manifest_of_a_figure_has_its_inputs(make_study: Maker, tmp_path: Path) -> None:
    study = make_study()
    tables = study.compare()
    make_figure(recipe_of(study), "loss_curves", Sources(tables, study.training_logs()), *outputs(tmp_path))
    svg, png, manifest_file = outputs(tmp_path)
    manifest = read_result(manifest_file)
    assert manifest["files"] == {path.name: digest_file(path) for path in (svg, png)}
    assert (manifest["step"], manifest["name"]) == ("figure", "loss_curves")
    assert manifest["recipe"] == recipe_of(study).as_json()
    version = code_version("figure", (FIGURES.module("loss_curves"), "usertune.tasks.grounding"))
    assert [record["code"] for record in manifest["provenance"]] == [version]

    def fingerprint(**keys: Any) -> str:
        make_figure(recipe_of(study, **keys), "loss_curves", Sources(tables, study.training_logs()), *outputs(tmp_path))
        return str(read_result(manifest_file)["fingerprint"])

    assert fingerprint() == manifest["fingerprint"]
    assert fingerprint(colours={"lora": "#7b3294"}) != manifest["fingerprint"]
    log = study.training_logs()["lora"]
    log.write_text(log.read_text().replace("0.5", "0.25"))
    assert fingerprint() != manifest["fingerprint"]


def test_distance_curve_ends_at_the_parse_rate(make_study: Maker) -> None:
    study = make_study()
    folder = study.compare()
    figure = distance_distribution.draw(subject_of(recipe_of(study), Sources(folder, {})))
    curve = next(line for line in figure.axes[0].lines if line.get_label() == "vanilla")
    rate = read_table(folder / "summary.csv").set_index("experiment")["parse_rate"]["vanilla"]
    shares = np.asarray(curve.get_ydata())
    assert shares[-1] == pytest.approx(rate)
    assert rate < 1
    accuracy = read_table(folder / "summary.csv").set_index("experiment")["click_accuracy"]["vanilla"]
    assert 140 in curve.get_xdata()
    assert shares[np.asarray(curve.get_xdata()) == 140] == pytest.approx(accuracy)


def test_accuracy_points_are_the_numbers_of_the_tables(make_study: Maker) -> None:
    study = make_study()
    folder = study.compare()
    subject = subject_of(recipe_of(study), Sources(folder, {}))
    design = subject.design
    left, right = accuracy_by_user.draw(subject).axes
    users = read_table(folder / "users.csv").groupby("experiment")["click_accuracy"]
    summary = read_table(folder / "summary.csv").set_index("experiment")
    for line, name in zip(left.lines, design.names, strict=True):
        assert line.get_label() == name
        assert sorted(line.get_ydata()) == pytest.approx(sorted(users.get_group(name)))
    drawn = {round(y, 9) for line in right.lines for y in line.get_ydata() if not np.isnan(y)}
    ends = summary.loc[design.names, ["click_accuracy", "click_accuracy_low", "click_accuracy_high"]]
    assert drawn == {round(y, 9) for y in ends.to_numpy().ravel()}


@pytest.mark.parametrize(
    "fields",
    [
        {"users": ["7"], "samples": 3},
        {"users": [str(user) for user in range(1, 84)], "samples": 2},
        {"experiments": ["vanilla"], "users": ["1", "a_long_user_name_that_needs_room"], "samples": 3},
    ],
)
def test_unusual_studies_are_drawn(make_study: Maker, fields: dict[str, Any]) -> None:
    study = make_study(**fields)
    study.compare()
    assert all(path.stat().st_size > 1000 for path in study.draw())


def test_unknown_names_are_refused(make_study: Maker, tmp_path: Path) -> None:
    study = make_study()
    with pytest.raises(UserError, match="accuracy_by_user"):
        make_figure(recipe_of(study), "pie", Sources(tmp_path, {}), *outputs(tmp_path))
    with pytest.raises(UserError, match="mystery is no experiment"):
        make_figure(recipe_of(study), "loss_curves", Sources(tmp_path, {"mystery": tmp_path}), *outputs(tmp_path))
    with pytest.raises(UserError, match="does not exist"):
        make_figure(recipe_of(study), "accuracy_by_user", Sources(tmp_path, {}), *outputs(tmp_path))
    log = {"lora": tmp_path / "log.csv"}
    with pytest.raises(UserError, match="does not exist"):
        make_figure(recipe_of(study), "loss_curves", Sources(tmp_path, log), *outputs(tmp_path))
    (tmp_path / "log.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="not a training log"):
        make_figure(recipe_of(study), "loss_curves", Sources(tmp_path, log), *outputs(tmp_path))


def test_own_colours_show_in_the_figure_that_has_them(make_study: Maker, tmp_path: Path) -> None:
    study = make_study()
    study.compare()
    standard = {path.stem: path.read_bytes() for path in study.draw()}

    def drawn(name: str, colours: dict[str, str]) -> bytes:
        svg, png, manifest = outputs(tmp_path)
        recipe = recipe_of(study, colours=colours)
        make_figure(recipe, name, Sources(study.root / "tables", study.training_logs()), svg, png, manifest)
        return svg.read_bytes()

    for name in FIGURE_NAMES:
        own = drawn(name, {"lora": "#7b3294"})
        standard_of_lora, standard_of_full = PALETTE[0].encode(), PALETTE[1].encode()
        assert [colour in own for colour in (b"#7b3294", standard_of_lora, standard_of_full)] == [True, False, True]
        assert [colour in standard[name] for colour in (b"#7b3294", standard_of_lora)] == [False, True]
        assert drawn(name, {}) == standard[name]


@pytest.mark.parametrize("colours", [["#7b3294"], {"lora": "purplish"}, {"mystery": "#7b3294"}, {"lora": None}])
def test_colours_that_mean_nothing_are_refused(make_study: Maker, colours: Any) -> None:
    recipe = {**recipe_of(make_study()).as_json(), "colours": colours}
    with pytest.raises(UserError, match="colours"):
        FigureRecipe.parse(json.dumps(recipe))


def test_no_module_of_a_figure_imports_another_figure() -> None:
    assert figures.__file__ is not None
    folder = Path(figures.__file__).parent
    assert {path.stem for path in folder.glob("*.py")} == {"__init__", "catalogue", "sheet", *FIGURE_NAMES}
    for path in folder.glob("*.py"):
        nodes = list(ast.walk(ast.parse(path.read_bytes())))
        imported = [node.module for node in nodes if isinstance(node, ast.ImportFrom)]
        imported += [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
        of_figures = {name for name in imported if name and name.startswith("usertune.reporting.figures")}
        assert of_figures == (set() if path.stem not in FIGURE_NAMES else {"usertune.reporting.figures.sheet"}), path


def test_drawing_a_figure_imports_no_other_figure(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from usertune.reporting.make_figure import make_figure\n"
        "from usertune.reporting.figures.sheet import Sources; from usertune.core.manifest import write_result\n"
        "from usertune.reporting.recipe import FigureRecipe\n"
        "experiments = [{'name': 'a', 'mode': 'vanilla'}]\n"
        "keys = {'step': 'figure', 'users': ['1'], 'task': 'grounding', 'thresholds': [140]}\n"
        "recipe = FigureRecipe(experiments=experiments, **keys)\n"
        "folder = Path(sys.argv[1])\n"
        "write_result(folder / 'manifest.json', {'format': 2, 'output': 'f'})\n"
        "outputs = [folder / f'a.{kind}' for kind in ('svg', 'png', 'json')]\n"
        "make_figure(recipe, 'loss_curves', Sources(folder, {}), *outputs)\n"
        "print(*sorted(name for name in sys.modules if name.startswith('usertune.reporting.figures.')))"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True)
    modules = [
        "usertune.reporting.figures.catalogue",
        "usertune.reporting.figures.loss_curves",
        "usertune.reporting.figures.sheet",
    ]
    assert done.stdout.split() == modules


def test_tables_of_another_study_are_refused(make_study: Maker) -> None:
    study = make_study()
    folder = study.compare()
    recipe = recipe_of(study, experiments=study.design["experiments"][:2])
    with pytest.raises(UserError, match=r"covers the experiments .*full_tuned"):
        make_figure(recipe, "accuracy_by_user", Sources(folder, {}), *outputs(folder))

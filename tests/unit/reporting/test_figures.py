"""The figures."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from tests.support.stand_ins import write_stand_in
from tests.support.synthetic_study import SyntheticStudy
from usertune.core.errors import UserError
from usertune.core.hashing import digest_file
from usertune.core.manifest import read_result
from usertune.evaluation.tables import read_table
from usertune.pipeline.figures_of_study import figures_of, figures_of_report
from usertune.reporting import figures
from usertune.reporting.figure_files import each_file, figure_files
from usertune.reporting.figures import (
    accuracy_by_user,
    cost_against_accuracy,
    distance_distribution,
    error_map,
    gain_by_samples,
    paired_gains,
    sheet,
)
from usertune.reporting.figures.axes import gain_scale, metric_scale
from usertune.reporting.figures.catalogue import FIGURES
from usertune.reporting.figures.sheet import SMALL_FONT, WIDTHS, Sources, Subject, short_names, subject_of
from usertune.reporting.make_figure import make_figure
from usertune.reporting.recipe import FigureRecipe
from usertune.reporting.style import BASELINE_COLOUR, PALETTE, styles
from usertune.runtime.code_version import code_version

Maker = Callable[..., Any]
UUIDS = [f"{number:08x}-2f6b-4c0e-9d1a-0242ac1200{number:02x}" for number in range(0xA0, 0xAC)]


def recipe_of(study: Any, **keys: Any) -> FigureRecipe:
    return FigureRecipe.model_validate({"step": "figure", **study.design, **keys})


def made(study: Any, name: str, folder: Path, **keys: Any) -> dict[str, Any]:
    """Make a figure of a study that is compared; return its manifest."""
    sources = Sources(study.root / "tables", study.training_logs() if FIGURES.constant(name, "READS") else {})
    make_figure(recipe_of(study, **keys), name, sources, folder / "own.manifest.json")
    return read_result(folder / "own.manifest.json")


def words_of(figure: Figure) -> str:
    return " ".join(item.get_text() for item in figure.findobj(Text))


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> SyntheticStudy:
    """A study with tables, figures and report."""
    study = SyntheticStudy(tmp_path_factory.mktemp("figures"), fewer={"ana": 7}, draws=True).write()
    study.report()
    return study


@pytest.fixture(scope="module")
def subject(compared: SyntheticStudy) -> Subject:
    return subject_of(recipe_of(compared), Sources(compared.root / "tables", compared.training_logs()))


def svg_of(name: str, subject: Subject) -> bytes:
    """Return a figure as its SVG file has it."""
    with mpl.rc_context(sheet.STYLE):
        return sheet.content_of(sheet.laid_out(FIGURES.load(name)(subject)), "svg")


def test_every_figure_has_each_format_in_both_widths_with_fonts_and_a_caption(
    compared: SyntheticStudy, subject: Subject
) -> None:
    assert set(WIDTHS.values()) == {3.3, 6.9}
    for name in FIGURES:
        for columns, kind, file in each_file(name):
            width, path = WIDTHS[columns], compared.root / "figures" / file
            content = path.read_bytes()
            if kind == "svg":
                assert float(ElementTree.fromstring(content).attrib["width"].removesuffix("pt")) == 72 * width
                # Equal inputs give equal bytes.
                assert svg_of(name, replace(subject, columns=columns)) == content
            elif kind == "png":
                with Image.open(path) as image:
                    assert image.width == pytest.approx(300 * width, abs=1)
            else:
                box = re.search(rb"/MediaBox \[ 0 0 ([\d.]+) ", content)
                assert box is not None
                assert float(box[1]) == pytest.approx(72 * width)
                # Embedded as TrueType (type 42), none as Type 3.
                assert b"/FontFile2" in content
                assert b"/Type3" not in content
    captions = {
        name: read_result(compared.root / f"figures/{name}.manifest.json")["caption"]
        for name in figures_of(compared.study)
    }
    assert captions["accuracy_by_user"].startswith("Click accuracy (within 140) of 4 test users with 43 samples. ")
    assert "95 % interval" in captions["accuracy_by_user"]
    assert "sorted by vanilla" in captions["accuracy_by_user"]
    assert not any("{" in caption for caption in captions.values())


def test_settings_of_the_user_change_nothing(compared: SyntheticStudy, tmp_path: Path) -> None:
    first = made(compared, "paired_gains", tmp_path)["files"]
    with mpl.rc_context({"lines.linewidth": 9, "font.size": 30, "pdf.fonttype": 3}):
        assert made(compared, "paired_gains", tmp_path)["files"] == first
        assert mpl.rcParams["font.size"] == 30
    assert not plt.get_fignums()


@pytest.mark.parametrize("columns", WIDTHS)
@pytest.mark.parametrize("name", tuple(FIGURES))
def test_letters_can_be_read_and_stay_inside(subject: Subject, name: str, columns: int) -> None:
    with mpl.rc_context(sheet.STYLE):
        figure = sheet.laid_out(FIGURES.load(name)(replace(subject, columns=columns)))
        box = figure.get_tightbbox()
    # In inches; what is cut off at an edge would be outside.
    width, height = figure.get_size_inches()
    assert -0.02 <= box.x0 <= box.x1 <= width + 0.02
    assert -0.02 <= box.y0 <= box.y1 <= height + 0.02
    assert min(item.get_fontsize() for item in figure.findobj(Text) if item.get_text()) >= SMALL_FONT


def test_the_manifest_of_a_figure_has_its_inputs(
    make_study: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = make_study()
    study.compare()
    manifest = made(study, "loss_curves", tmp_path)
    assert manifest["files"] == {file: digest_file(tmp_path / file) for file in figure_files("loss_curves").values()}
    assert (manifest["step"], manifest["name"]) == ("figure", "loss_curves")
    assert manifest["recipe"] == recipe_of(study).as_json()
    version = code_version("figure", (FIGURES.module("loss_curves"), "usertune.tasks.grounding"))
    assert [record["code"] for record in manifest["provenance"]] == [version]
    monkeypatch.setattr("usertune.reporting.make_figure.write_figure", write_stand_in)
    assert made(study, "loss_curves", tmp_path)["fingerprint"] == manifest["fingerprint"]
    own = made(study, "loss_curves", tmp_path, colours={"lora": "#7b3294"})
    assert own["fingerprint"] != manifest["fingerprint"]
    log = study.training_logs()["lora"]
    log.write_text(log.read_text().replace("0.5", "0.25"))
    assert made(study, "loss_curves", tmp_path)["fingerprint"] != manifest["fingerprint"]


def test_radius_curves_cross_the_accuracies_of_the_tables_and_end_at_the_parse_rate(subject: Subject) -> None:
    figure = distance_distribution.draw(subject)
    curves = {line.get_label(): line for line in figure.axes[0].lines}
    summary = subject.table("summary.csv").set_index("experiment")
    for name in subject.design.names:
        radii, shares = (np.asarray(data) for data in curves[name].get_data())
        assert shares[radii == 140] == pytest.approx(summary["click_accuracy"][name])
        assert shares[radii == 70.5] == pytest.approx(summary["click_accuracy_at_70.5"][name])
        assert shares[-1] == pytest.approx(summary["parse_rate"][name])
        assert f"{name} ({100 * np.trapezoid(shares, radii) / radii[-1]:.1f} %)" in words_of(figure)
    assert summary["parse_rate"]["vanilla"] < 1


def test_shares_within_a_radius_are_means_over_users() -> None:
    distances, users = pd.Series([1.0, 3.0, np.nan, 2.0]), pd.Series(["a", "a", "a", "b"])
    found = distance_distribution.shares_within(distances, users, np.array([0.5, 1, 2, 3]))
    assert found == pytest.approx([0, 1 / 6, 2 / 3, 5 / 6])


def test_accuracy_points_are_the_numbers_of_the_tables(compared: SyntheticStudy, subject: Subject) -> None:
    names = subject.design.names
    top, below = accuracy_by_user.draw(subject).axes
    users = read_table(compared.root / "tables/users.csv").groupby("experiment")["click_accuracy"]
    summary = read_table(compared.root / "tables/summary.csv").set_index("experiment")
    lines = {line.get_label(): line for line in below.lines}
    for name in names:
        assert sorted(lines[name].get_xdata()) == pytest.approx(sorted(users.get_group(name)))
    drawn = {round(x, 9) for line in top.lines for x in line.get_xdata() if not np.isnan(x)}
    ends = summary.loc[names, ["click_accuracy", "click_accuracy_low", "click_accuracy_high"]]
    assert drawn == {round(x, 9) for x in ends.to_numpy().ravel() if not np.isnan(x)}
    # Wilson's interval of 5 of 12, from R's prop.test(5, 12, correct = FALSE).
    hits = pd.DataFrame({name: [5 / 12] * 4 for name in names}, index=list(subject.design.users))
    low, high = accuracy_by_user.intervals(subject, hits, 0.95)
    assert (low.iloc[0, 0], high.iloc[0, 0]) == pytest.approx((0.1933, 0.6805), abs=5e-5)


def test_gains_are_the_numbers_of_the_table_of_differences(compared: SyntheticStudy, subject: Subject) -> None:
    (axes,) = paired_gains.draw(subject).axes
    table = read_table(compared.root / "tables/differences.csv")
    gains = table[table["baseline"] == "vanilla"].set_index("experiment")
    lines = {line.get_label(): line for line in axes.lines}
    assert len(gains) == 2
    for name, row in gains.iterrows():
        assert lines[name].get_xdata() == pytest.approx([row["difference"]])
        assert f"{subject.primary.difference(row['difference'])}  " in words_of(axes.figure)
    # The other way round, where the baseline is not the first experiment.
    turned = replace(subject, design=subject.design.model_copy(update={"experiments": subject.design.experiments[1:]}))
    stated, others = paired_gains.comparisons(turned)
    rows = {row["experiment"]: row for row in others}
    assert not stated
    assert turned.reference == "lora"
    assert rows["vanilla"]["difference"] == pytest.approx(-gains.loc["lora", "difference"])
    assert rows["vanilla"]["low"] == pytest.approx(-gains.loc["lora", "high"])


def test_gains_of_users_are_against_their_samples(subject: Subject) -> None:
    grid = subject.by_user
    panels = gain_by_samples.draw(subject).axes
    for panel, name in zip(panels, ["lora", "full_tuned"], strict=True):
        points = next(line for line in panel.lines if line.get_label() == name)
        assert list(points.get_ydata()) == pytest.approx(list(grid[name] - grid["vanilla"]))
        assert dict(zip(grid.index, points.get_xdata(), strict=True)) == {"1": 12, "2": 12, "10": 12, "ana": 7}
    first, second = pd.Series([1, 2, 3, 4, 100]), pd.Series([2, 1, 4, 3, 5])
    # From scipy.stats.spearmanr.
    assert gain_by_samples.rank_correlation(first, second) == pytest.approx(0.8)
    assert gain_by_samples.rank_correlation(first * 0, second) is None


def costs(subject: Subject, tmp_path: Path, **columns: list[Any]) -> Subject:
    """Return the subject with these columns in the table of costs."""
    for path in subject.sources.tables.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    table = pd.DataFrame({"experiment": subject.design.names, "builds_on": ["", "", "lora"]})
    columns = {"builds_on_hours": [None, None, 4], "builds_on_gpu_hours": [None, None, 8], **columns}
    table.assign(**columns).to_csv(tmp_path / "cost.csv", index=False)
    return replace(subject, sources=Sources(tmp_path, {}), read={})


def test_costs_are_gpu_hours_with_what_an_experiment_builds_on(subject: Subject, tmp_path: Path) -> None:
    figure = cost_against_accuracy.draw(costs(subject, tmp_path, hours=[1, 4, 2], gpu_hours=[1, 8, 2]))
    (axes,) = figure.axes
    marks = {line.get_label(): line for line in axes.lines}
    assert {name: list(marks[name].get_xdata()) for name in marks if not name.startswith("_")} == {
        "vanilla": [1], "lora": [8], "full_tuned": [10],
    }  # fmt: skip
    assert [2, 10] in [list(line.get_xdata()) for line in axes.lines], "from its own cost"
    summary = subject.table("summary.csv").set_index("experiment").loc["lora"]
    assert list(marks["lora"].get_ydata()) == [summary["click_accuracy"]]
    assert [summary["click_accuracy_low"], summary["click_accuracy_high"]] in [list(x.get_ydata()) for x in axes.lines]
    assert axes.get_xlabel() == "GPU hours of training and answers"
    assert axes.get_xscale() == "log"


def test_costs_are_hours_if_not_all_had_a_gpu_and_unknown_ones_are_named(subject: Subject, tmp_path: Path) -> None:
    (axes,) = cost_against_accuracy.draw(costs(subject, tmp_path, hours=[1, 3, None], gpu_hours=[0, 8, None])).axes
    assert axes.get_xlabel() == "hours of training and answers\n(cost not known: full_tuned)"
    assert axes.get_xscale() == "linear"
    assert "full_tuned" not in {line.get_label() for line in axes.lines}
    nothing = costs(subject, tmp_path, hours=[None] * 3, gpu_hours=[None] * 3)
    assert "cost of no experiment is known" in words_of(cost_against_accuracy.draw(nothing))


def test_cells_of_the_error_map_have_the_misses_of_their_targets() -> None:
    columns = ["target_x", "target_y", "x", "y"]
    rows = [(100, 100, 100, 110), (100, 100, 500, 100), (150, 10, 750, 410), (1000, 1000, None, None)]
    found = error_map.cells(pd.DataFrame(rows, columns=columns, dtype=float), threshold=140).set_index(
        ["column", "row"]
    )
    near, corner = found.loc[(0, 0)], found.loc[(4, 4)]
    assert (near["targets"], near["missed"], near["misses"]) == (3, pytest.approx(2 / 3), 2)
    assert (near["x"], near["y"]) == (500, 200)
    assert (corner["targets"], corner["missed"], corner["misses"]) == (1, 1, 0)


@pytest.mark.parametrize(
    ("columns", "fields"),
    [
        (1, {"users": ["7"], "samples": 3}),
        (2, {"users": [str(user) for user in range(1, 84)], "samples": 2}),
        (1, {"experiments": ["vanilla"], "users": UUIDS, "samples": 3}),
        (2, {"experiments": ["lora", "full_tuned"], "users": ["1", "2"], "samples": 3}),
    ],
    ids=["one user", "83 users", "one experiment, long names", "no vanilla"],
)
def test_unusual_studies_are_drawn(make_study: Maker, columns: int, fields: dict[str, Any]) -> None:
    study = make_study(**fields)
    subject = subject_of(recipe_of(study), Sources(study.compare(), study.training_logs()), columns)
    for name in figures_of(study.study):
        assert len(svg_of(name, subject)) > 1000


def test_a_study_has_the_figures_that_apply_to_it(make_study: Maker) -> None:
    study = make_study(experiments=["vanilla"], users=["1"], samples=1)
    everything = set(FIGURES) - {"cost_against_accuracy"}
    without = {need: {name for name in FIGURES if need in FIGURES.constant(name, "NEEDS")} for need in ("points",)}
    assert set(figures_of(make_study("all").study)) == everything
    assert figures_of_report(make_study("all").study) == ("cost_against_accuracy",)
    assert not figures_of_report(study.study), "one experiment"
    one = set(figures_of(study.study))
    assert everything - one == {"paired_gains", "gain_by_samples", "loss_curves"}
    text = SyntheticStudy(study.root, changes={"dataset": {"root": str(study.dataset), "task": "text"}})
    assert everything - set(figures_of(text.study)) == without["points"] == {"distance_distribution", "error_map"}


def test_studies_without_answers_or_points_are_drawn(subject: Subject, tmp_path: Path) -> None:
    samples = read_table(subject.sources.tables / "samples.csv")
    nothing = {**dict.fromkeys(("x", "y", "distance"), np.nan), "parsed": 0, "hit_140": 0, "hit_70.5": 0}
    for path in subject.sources.tables.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    own = replace(subject, columns=1, sources=Sources(tmp_path, subject.sources.training_logs), read={})
    samples.assign(**nothing).to_csv(tmp_path / "samples.csv", index=False)
    users = read_table(tmp_path / "users.csv")
    users.assign(click_accuracy=0.0).to_csv(tmp_path / "users.csv", index=False)
    for name in FIGURES:
        assert svg_of(name, own)
    own = replace(own, read={})
    users.assign(click_accuracy=np.nan).to_csv(tmp_path / "users.csv", index=False)
    samples.drop(columns=["x", "y", "target_x", "target_y"]).to_csv(tmp_path / "samples.csv", index=False)
    for name in FIGURES:
        figure = FIGURES.load(name)(own)
        figure.draw_without_rendering()
        assert ("no points in this task" in words_of(figure)) == ("points" in FIGURES.constant(name, "NEEDS"))


def test_ticks_have_all_digits_of_their_numbers(subject: Subject) -> None:
    def labels(scale: Callable[..., None], low: float, high: float) -> list[str]:
        axes = Figure().subplots()
        scale(axes.xaxis, subject.primary)
        axes.set_xlim(low, high)
        return [axes.xaxis.major.formatter(value, None) for value in axes.get_xticks() if low <= value <= high]

    assert labels(metric_scale, 0, 0.125) == ["0 %", "2.5 %", "5 %", "7.5 %", "10 %", "12.5 %"]
    assert labels(metric_scale, 0, 1) == ["0 %", "20 %", "40 %", "60 %", "80 %", "100 %"]
    assert labels(gain_scale, -0.05, 0.05)[::2] == ["\N{MINUS SIGN}4", "0", "+4"]


def test_short_names_differ_as_their_names_do() -> None:
    assert short_names(["1", "ana", UUIDS[0], UUIDS[1]]) == ["1", "ana", "000000a0-…", "000000a1-…"]
    alike = [f"the-same-beginning-{number}-and-the-same-end-too" for number in range(12)]
    for names in (UUIDS, alike, [f"{name}{'x' * 30}" for name in "ab"], [f"{'x' * 30}{name}" for name in "ab"]):
        found = short_names(names, 9)
        assert len(set(found)) == len(names)
        assert max(map(len, found)) <= 9


# Machado, Oliveira & Fernandes (2009), IEEE Trans. Vis. Comput. Graph. 15:1291, at severity 1, for linear RGB.
COLOUR_BLINDNESS = {
    "none": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}


@pytest.mark.parametrize("kind", COLOUR_BLINDNESS)
def test_colours_differ_for_colour_blind_readers(kind: str) -> None:
    def lab(colour: str) -> np.ndarray:
        """Return CIELAB (D65) of a colour as such a reader sees it."""
        srgb = np.array([int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)])
        linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
        seen = np.clip(np.array(COLOUR_BLINDNESS[kind]) @ linear, 0, 1)
        xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ seen
        ratio = xyz / [0.9505, 1, 1.089]
        x, y, z = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio / (3 * (6 / 29) ** 2) + 4 / 29)
        return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])

    colours = {colour: lab(colour) for colour in (BASELINE_COLOUR, *PALETTE)}
    white = lab("#ffffff")
    for first in colours:
        assert np.linalg.norm(colours[first] - white) > 25
        for second in list(colours)[: list(colours).index(first)]:
            # Two colours side by side are told apart from about 2.3 on.
            assert np.linalg.norm(colours[first] - colours[second]) > 10, (first, second)


def test_experiments_differ_without_colour() -> None:
    experiments = [{"name": f"e{number}", "mode": "lora" if number else "vanilla"} for number in range(24)]
    keys = {"step": "figure", "users": ["1"], "task": "grounding", "thresholds": [140]}
    found = list(styles(FigureRecipe.model_validate({**keys, "experiments": experiments})).values())
    assert len({(style.marker, style.dashes) for style in found[:8]}) == 8
    assert len({(style.marker, style.colour) for style in found}) == 24


def test_unknown_names_are_refused(make_study: Maker, tmp_path: Path) -> None:
    study = make_study()
    out = tmp_path / "own.manifest.json"
    with pytest.raises(UserError, match="accuracy_by_user"):
        make_figure(recipe_of(study), "pie", Sources(tmp_path, {}), out)
    with pytest.raises(UserError, match="mystery is no experiment"):
        make_figure(recipe_of(study), "loss_curves", Sources(tmp_path, {"mystery": tmp_path}), out)
    with pytest.raises(UserError, match="does not exist"):
        make_figure(recipe_of(study), "accuracy_by_user", Sources(tmp_path, {}), out)
    log = {"lora": tmp_path / "log.csv"}
    with pytest.raises(UserError, match="does not exist"):
        make_figure(recipe_of(study), "loss_curves", Sources(tmp_path, log), out)
    (tmp_path / "log.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="not a training log"):
        make_figure(recipe_of(study), "loss_curves", Sources(tmp_path, log), out)


def test_own_colours_show_in_the_figure_that_has_them(compared: SyntheticStudy, subject: Subject) -> None:
    own = subject_of(recipe_of(compared, colours={"lora": "#7b3294"}), subject.sources)
    of_lora, of_full = PALETTE[0].encode(), PALETTE[1].encode()
    # The others show values by colour.
    for name in set(FIGURES) - {"accuracy_heat_map", "error_map"}:
        changed, standard = svg_of(name, own), svg_of(name, subject)
        assert [colour in changed for colour in (b"#7b3294", of_lora, of_full)] == [True, False, True], name
        assert [colour in standard for colour in (b"#7b3294", of_lora)] == [False, True], name


@pytest.mark.parametrize("colours", [["#7b3294"], {"lora": "purplish"}, {"mystery": "#7b3294"}, {"lora": None}])
def test_colours_that_mean_nothing_are_refused(compared: SyntheticStudy, colours: Any) -> None:
    recipe = {**recipe_of(compared).as_json(), "colours": colours}
    with pytest.raises(UserError, match="colours"):
        FigureRecipe.parse(json.dumps(recipe))


def test_no_module_of_a_figure_imports_another_figure() -> None:
    assert figures.__file__ is not None
    folder, prefix = Path(figures.__file__).parent, "usertune.reporting.figures."
    shared = {"sheet", "axes"}
    assert {path.stem for path in folder.glob("*.py")} == {"__init__", "catalogue", *shared, *FIGURES}
    for name in FIGURES:
        nodes = list(ast.walk(ast.parse((folder / f"{name}.py").read_bytes())))
        imported = [node.module for node in nodes if isinstance(node, ast.ImportFrom)]
        imported += [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
        of_figures = {module.removeprefix(prefix) for module in imported if module and module.startswith(prefix)}
        assert "sheet" in of_figures <= shared, name


def test_drawing_a_figure_imports_no_other_figure(compared: SyntheticStudy, tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from usertune.reporting.make_figure import make_figure\n"
        "from usertune.reporting.figures.sheet import Sources\n"
        "from usertune.reporting.recipe import FigureRecipe\n"
        "recipe, tables, out = FigureRecipe.parse(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])\n"
        "make_figure(recipe, 'loss_curves', Sources(tables, {}), out)\n"
        "print(*sorted(name for name in sys.modules if name.startswith('usertune.reporting.figures.')))\n"
        # Each would add half a second to every figure.
        "print(*sorted({'scipy', 'seaborn', 'statsmodels'} & sys.modules.keys()))"
    )
    arguments = [recipe_of(compared).text(), str(compared.root / "tables"), str(tmp_path / "own.manifest.json")]
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True)
    modules = [f"usertune.reporting.figures.{name}" for name in ("axes", "catalogue", "loss_curves", "sheet")]
    assert done.stdout.splitlines() == [" ".join(modules), ""]


def test_tables_of_another_study_are_refused(compared: SyntheticStudy, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"covers the experiments .*full_tuned"):
        made(compared, "accuracy_by_user", tmp_path, experiments=compared.design["experiments"][:2])

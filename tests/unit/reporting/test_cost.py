"""The table of costs, against the manifests that it is made from."""

from __future__ import annotations

import base64
from typing import Any

import pandas as pd
import pytest

from tests.support.stand_ins import MEASURED, SECONDS
from tests.support.synthetic_study import SyntheticStudy
from usertune.core.manifest import read_result, write_result
from usertune.evaluation.recipe import ScoreRecipe
from usertune.evaluation.tables import read_table
from usertune.pipeline import steps
from usertune.reporting.cost import cost_table
from usertune.reporting.cost_files import of_costs
from usertune.reporting.figure_files import figure_files
from usertune.reporting.recipe import Price

EN_DASH = "\N{EN DASH}"
METRIC = ScoreRecipe(step="score", task="grounding", thresholds=(140,)).metrics[0]
BASE = {"base_model": "b"}


def training(name: str, fingerprint: str, **more: Any) -> dict[str, Any]:
    measured = {"wall_seconds": 1800.0, "samples_per_second": 2.0, "device": "NVIDIA H200", "peak_memory_bytes": 2**34}
    lineage = {**BASE, "train": fingerprint}
    return {"step": "train", "experiment": name, "fingerprint": fingerprint, "lineage": lineage, **measured, **more}


def answers(name: str, lineage: dict[str, Any], device: str = "NVIDIA H200", **more: Any) -> dict[str, Any]:
    rows = [{"new_tokens": 20}, {"new_tokens": 30}]
    provenance = {"train": [], "predict": [{"device": device}]}
    known = {"answer_seconds": 36.0, "timed_answers": 2, "predictions": rows, "provenance": provenance}
    return {"experiment": name, "lineage": lineage, **known, **more}


def table(trainings: list[Any], predictions: list[Any], gains: dict[str, float | None], **more: Any) -> pd.DataFrame:
    summary = pd.DataFrame({"experiment": list(gains), "difference_to_vanilla": list(gains.values())})
    return cost_table(list(gains), trainings, predictions, summary, METRIC, **more).set_index("experiment")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> SyntheticStudy:
    names = ["vanilla", "lora", "full_tuned", "personal", "others", "centre"]
    changes = {"report": {"price_per_gpu_hour": {"amount": 2.5, "currency": "EUR"}}}
    made = SyntheticStudy(tmp_path_factory.mktemp("costs"), users=["1", "2"], experiments=names, changes=changes)
    made.write().report()
    return made


def test_the_table_equals_the_manifests(study: SyntheticStudy) -> None:
    found = read_table(study.root / "tables/cost.csv").set_index("experiment")
    summary = read_table(study.root / "tables/summary.csv").set_index("experiment")
    folds = [read_result(path)["folds"] for path in sorted((study.root / "checkpoints/personal").glob("users_*.json"))]
    hours = MEASURED["wall_seconds"] / 3600
    assert found["training_hours"].dropna().to_dict() == pytest.approx(
        {"lora": hours, "full_tuned": hours, "personal": hours * sum(map(len, folds))}
    )
    assert len(folds) == 2
    answered = 2 * study.samples * SECONDS / 3600
    asked = ["vanilla", "lora", "full_tuned", "personal"]
    assert found.loc[asked, "prediction_hours"].tolist() == pytest.approx([answered] * 4)
    assert found.loc[asked, "gpu_hours"].tolist() == [0] * 4, "the stand-ins run on the CPU"
    assert found["cpu_hours"].dropna().tolist() == pytest.approx(found["hours"].dropna().tolist())
    assert found.loc["lora", "points_per_hour"] == pytest.approx(
        100 * summary.loc["lora", "difference_to_vanilla"] / hours
    )
    assert found["points_per_gpu_hour"].isna().all()
    assert found.loc[["vanilla", "centre"], "points_per_hour"].isna().all(), "nothing was trained"
    assert found["builds_on"].to_dict() == {
        "vanilla": "", "lora": "", "full_tuned": "", "personal": "full_tuned", "others_shift1": "personal, full_tuned",
        "centre": "",
    }  # fmt: skip
    assert found.loc["personal", "points_per_hour"] == pytest.approx(
        100 * summary.loc["personal", "difference_to_vanilla"] / (hours * 5)
    )
    assert found.loc["centre", "note"] == "a prior: it needs no model"
    assert pd.isna(found.loc["centre", "hours"])
    assert found.loc["lora", "money"] == 0
    assert set(found["currency"]) == {"EUR"}


def test_repeated_work_changes_the_costs_and_nothing_else(study: SyntheticStudy) -> None:
    """A timing is neither in a fingerprint nor in a table of the comparison."""
    report, table_file = (study.root / path for path in (steps.REPORT.manifest, "tables/cost.csv"))
    before, costs = read_result(report), table_file.read_text()
    path = study.root / "checkpoints/lora/manifest.json"
    manifest = {key: value for key, value in read_result(path).items() if key != "checksum"}
    write_result(path, {**manifest, "wall_seconds": 1.0})
    made = [file for folder in ("tables", "figures") for file in sorted((study.root / folder).iterdir())]
    others = {file: file.read_bytes() for file in made if not file.name.startswith("cost")}
    study.make_all("compare", "audit")
    study.make(steps.REPORT.manifest)
    assert {file: file.read_bytes() for file in others} == others
    assert read_result(report)["fingerprint"] == before["fingerprint"]
    assert table_file.read_text() != costs
    write_result(path, manifest)


def test_gpu_hours_are_hours_times_gpus_and_money_is_their_price() -> None:
    trained = [training("lora", "f", processes=4, gpus_used=["a", "b", "c", "d"])]
    asked = [answers("vanilla", BASE), answers("lora", {**BASE, "train": "f"})]
    found = table(trained, asked, {"vanilla": None, "lora": 0.1}, price=Price(amount=2.0, currency="USD"))
    assert found["gpu_hours"].tolist() == pytest.approx([0.01, 2.01])
    assert found["cpu_hours"].tolist() == [0, 0]
    assert found.loc["lora", "points_per_gpu_hour"] == pytest.approx(10 / 2)
    assert found["money"].tolist() == pytest.approx([0.02, 4.02])
    assert found.loc["lora", "answers_per_second"] == pytest.approx(2 / 36)
    assert found.loc["lora", "generated_tokens"] == 50
    assert "money" not in table(trained, asked, {"vanilla": None, "lora": 0.1})


def test_energy_is_in_the_table_if_it_was_measured() -> None:
    trained = [training("lora", "f", energy_joules=7.2e6)]
    asked = [answers("vanilla", BASE), answers("lora", {**BASE, "train": "f"}, answer_joules=3.6e5)]
    found = table(trained, asked, {"vanilla": None, "lora": 0.1})
    assert found.loc["lora", ["training_kwh", "prediction_kwh", "kwh"]].tolist() == pytest.approx([2, 0.1, 2.1])
    assert pd.isna(found.loc["vanilla", "kwh"])
    assert "GPU energy (kWh)" in [column.title for column in of_costs(found.reset_index(), METRIC).columns]
    assert not [name for name in table([], asked[:1], {"vanilla": None}) if "kwh" in name]


def test_what_is_not_known_is_empty_and_has_its_reason() -> None:
    ways = [{"processes": 1, "device": "NVIDIA H200"}, {"processes": 2, "device": "NVIDIA H200"}]
    elsewhere = {**BASE, "train": None, "source": {}}
    found = table(
        [training("lora", "f", computed_with=ways)],
        [
            answers("lora", {**BASE, "train": "f"}),
            answers("served", BASE, device="m at http://x", tokens={"prompt": 7, "completion": 5}),
            answers("theirs", {"base_model": None, "train": None, "source": {}}),
            answers("given", elsewhere),
            answers("older", BASE, timed_answers=0, answer_seconds=0),
        ],
        {"lora": 0.1, "served": None, "theirs": None, "given": 0.1, "older": None},
    )
    assert found.loc[["lora", "served", "theirs", "older"], "gpu_hours"].isna().all()
    assert found.loc[["lora", "given"], "points_per_gpu_hour"].isna().all()
    assert found.loc["served", ["prompt_tokens", "generated_tokens"]].tolist() == [7, 5]
    assert found["builds_on"].to_dict()["given"] == "weights from elsewhere"
    assert pd.isna(found.loc["given", "builds_on_hours"])
    for name, part in {
        "lora": "different numbers of GPUs", "served": "a server answered", "theirs": "answers from elsewhere",
        "given": "what the training of its weights cost", "older": "2 of 2 answers have no recorded time",
    }.items():  # fmt: skip
        assert part in found.loc[name, "note"]


def test_the_table_for_people_leaves_out_what_nobody_has(study: SyntheticStudy) -> None:
    paper = of_costs(read_table(study.root / "tables/cost.csv"), METRIC)
    titles = [column.title for column in paper.columns]
    assert {"training (h)", "answers (h)", "cost (EUR)"} <= set(titles)
    assert not {"peak memory (GiB)", "gain / GPU hour"} & set(titles)
    assert "others_shift1 builds on personal, full_tuned." in paper.note
    page = (study.root / "report.html").read_text(encoding="utf-8")
    for cell in paper.frame["training_hours"]:
        assert f"<td>{cell.replace('{--}', EN_DASH)}</td>" in page
    svg = base64.b64encode((study.root / "figures/cost_against_accuracy.svg").read_bytes()).decode()
    figure = page[page.index('<figure id="cost_against_accuracy">') :]
    assert page.index('id="training-title"') < page.index(figure)
    assert f'src="data:image/svg+xml;base64,{svg}" alt="Scatter plot: one mark for each experiment' in figure
    assert "<figcaption>Click accuracy (within 140) of each experiment with its 95 % interval (2 test" in figure
    manifest = read_result(study.root / steps.REPORT.manifest)
    assert set(figure_files("cost_against_accuracy").values()) <= manifest["files"].keys()
    assert r"\toprule" in (study.root / "tables/cost.tex").read_text()

"""A sweep in a real study: its group as a target, a value that is added, and the hypothesis."""

from __future__ import annotations

import json

import pytest

from tests.support.work import Work, mark, run, work_since
from tests.support.workplace import FIGURES, Workplace
from usertune.evaluation.tables import read_table

pytestmark = pytest.mark.workflow

USERS = ("1", "2")
RUNS = ("runs_seed0", "runs_seed1")
HYPOTHESIS = """hypothesis:
  text: Adapters help everyone.
  comparisons: [[runs, vanilla]]
"""


def _with_sweep(workplace: Workplace) -> None:
    workplace.replace("  full:\n    mode: full", "  runs:\n    mode: lora\n    sweep: {seed: [0, 1]}")
    workplace.replace("  lora:\n    mode: lora\n    training:\n      learning_rate: 4e-3\n", "")
    workplace.replace("evaluation:\n", "evaluation:\n  share_base: true\n")
    with workplace.study.open("a") as study:
        study.write(HYPOTHESIS)


def _scored(*experiments: str) -> set[tuple[str, str]]:
    return {(name, user) for name in experiments for user in USERS}


def _loads(workplace: Workplace) -> dict[str, int]:
    """Return how often the prediction job of each experiment loaded the base model."""
    records = workplace.results.glob("logs/predict/*/users_1-2.progress.json")
    return {path.parent.name: json.loads(path.read_text()).get("model_loads", 0) for path in records}


def _one_load(workplace: Workplace, *experiments: str) -> bool:
    return sorted(_loads(workplace)[name] for name in experiments) == [0] * (len(experiments) - 1) + [1]


@pytest.mark.timeout(1500)
def test_a_sweep_from_its_group_as_a_target_to_a_further_value_and_other_comparisons(workplace: Workplace) -> None:
    _with_sweep(workplace)
    # One prediction at a time, so that one can answer for others.
    workplace.options = (*workplace.options, "--set-threads", "predict=2")
    # The group alone: its experiments as far as their scores.
    work = run(workplace, "runs")
    assert (work.trained, work.scored, work.compared) == (set(RUNS), _scored(*RUNS), False)
    assert work.generated == {(name, user): 5 for name in RUNS for user in USERS}
    # The job of one experiment answered for both, on one base model.
    assert _one_load(workplace, *RUNS)
    work = run(workplace)
    assert (work.trained, work.scored, work.compared) == (set(), _scored("vanilla"), True)
    tables = workplace.results / "tables"
    assert read_table(tables / "groups.csv")["experiments"].tolist() == [" ".join(RUNS)]
    assert "no p value: 2 users allow none below 5 %" in (tables / "hypothesis.csv").read_text()
    report = workplace.results / "report.html"
    assert "Adapters help everyone." in report.read_text()
    assert "runs_seed1:" in (workplace.results / "study.yaml").read_text()

    # A further value trains, answers and scores what it adds, and nothing else.
    workplace.replace("{seed: [0, 1]}", "{seed: [2, 0, 1]}")
    before = mark(workplace)
    work = run(workplace)
    for name in RUNS:
        path = workplace.results / f"predictions/{name}/users_1-2.json"
        assert path.stat().st_mtime_ns == before.times[path]
    assert (work.trained, work.scored) == ({"runs_seed2"}, _scored("runs_seed2"))
    assert {name for name, _ in work.generated} == {"runs_seed2"}
    assert work.compared

    # An edited sample is answered by each adapter, on one base model.
    path = workplace.data / "user_1.jsonl"
    path.write_text(path.read_text().replace("of the element:", "of this element:", 1))
    work = run(workplace)
    assert (work.trained, work.generated) == (set(), {(name, "1"): 1 for name in ("vanilla", *RUNS, "runs_seed2")})
    assert _one_load(workplace, *RUNS, "runs_seed2")

    # Other words are in the report alone; other comparisons are in the tables and in what shows them.
    before = mark(workplace)
    workplace.replace("text: Adapters help everyone.", "text: Adapters hurt nobody.")
    workplace.run()
    assert work_since(workplace, before) == Work()
    assert "Adapters hurt nobody." in report.read_text()
    workplace.replace("[[runs, vanilla]]", "[[runs, vanilla], [runs_seed2, runs_seed0]]")
    assert run(workplace) == Work(drawn=FIGURES, compared=True)
    assert len(read_table(tables / "hypothesis.csv")) == 2
    code, said = workplace.usertune("audit", "--study", "study.yaml")
    assert code == 0, said

"""Damaged results are rebuilt, and stale ones are in no report."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from itertools import cycle
from pathlib import Path

import pytest

from tests.support.work import NOTHING, audit, run
from tests.support.workplace import EXPERIMENTS, Workplace
from usertune.evaluation.table_names import COST
from usertune.pipeline.steps import OF_COSTS

pytestmark = pytest.mark.workflow

RESULTS = (
    "data/user_1.jsonl",
    "data/user_1.manifest.json",
    "base_model/manifest.json",
    "checkpoints/lora/manifest.json",
    "checkpoints/lora/training_log.csv",
    "predictions/lora/users_1-2.json",
    "scores/lora/user_1.csv",
    "scores/lora/user_1.json",
    "tables/summary.csv",
    "tables/manifest.json",
    "figures/loss_curves.svg",
    "report.html",
    "study.yaml",
    "provenance.json",
)


def _edit_by_hand(path: Path) -> None:
    content = path.read_bytes()
    offset = len(content) // 2
    path.write_bytes(
        content[:offset] + (b"7" if content[offset : offset + 1] != b"7" else b"8") + content[offset + 1 :]
    )


DAMAGES: dict[str, Callable[[Path], None]] = {
    "deleted": Path.unlink,
    "modified": _edit_by_hand,
    "truncated": lambda path: os.truncate(path, path.stat().st_size // 2),
}


def _stable_results(workplace: Workplace) -> dict[str, bytes]:
    """Return what is the same however often it is made: all but notes on how it was made, and costs."""
    kept = [path for path in workplace.results.glob("tables/*.csv") if path.name != COST]
    kept += [*workplace.results.glob("scores/*/*.csv")]
    kept += [path for path in workplace.results.glob("figures/*.svg") if not path.name.startswith(OF_COSTS)]
    kept += [*workplace.results.glob("data/*.jsonl")]
    found = {str(path.relative_to(workplace.results)): path.read_bytes() for path in kept}
    for experiment in EXPERIMENTS:
        found[experiment] = json.dumps(workplace.predictions(experiment)["predictions"]).encode()
    return found


@pytest.mark.parametrize("kinds", [("deleted",), ("modified", "truncated")], ids="-".join)
def test_damaged_results_are_rebuilt(finished: Workplace, kinds: tuple[str, ...]) -> None:
    """All at once, since a job of its own rebuilds each; each alone is tested without Snakemake."""
    was = _stable_results(finished)
    for name, kind in zip(RESULTS, cycle(kinds), strict=False):
        DAMAGES[kind](finished.results / name)
    work = run(finished)
    assert (work.trained, work.generated) == (set(), {})
    assert _stable_results(finished) == was
    assert "the audit passed" in audit(finished)


@pytest.mark.parametrize("name", ["data/user_11.manifest.json", "scores/lora/user_1.json", "tables/summary.tex"])
def test_result_deleted_that_lies_between_others(finished: Workplace, name: str) -> None:
    was = _stable_results(finished)
    (finished.results / name).unlink()
    work = run(finished)
    assert (work.trained, work.generated, work.scored) == (set(), {}, set())
    assert (finished.results / name).exists()
    assert _stable_results(finished) == was


def test_damaged_weights_are_trained_again(finished: Workplace) -> None:
    was, weights = _stable_results(finished), finished.weights()
    for damage, file_name in (("deleted", "lora/*/weights/adapter_model"), ("truncated", "full/*/weights/model")):
        (file,) = finished.results.glob(f"checkpoints/{file_name}.safetensors")
        DAMAGES[damage](file)
    work = run(finished)
    assert (work.trained, work.generated) == ({"lora", "full"}, {})
    assert finished.weights() == weights
    assert _stable_results(finished) == was


def test_an_experiment_whose_folder_is_removed_is_trained_once_more(finished: Workplace) -> None:
    was, weights = _stable_results(finished), finished.weights()
    shutil.rmtree(finished.results / "checkpoints/lora")
    work = run(finished)
    assert (work.trained, work.generated) == ({"lora"}, {})
    assert finished.weights() == weights
    assert _stable_results(finished) == was


def test_failed_training_after_a_change_leaves_no_report_that_passes(finished: Workplace) -> None:
    finished.replace("learning_rate: 4e-3", "learning_rate: 5e-3")
    broken = finished.folder / "broken"
    broken.mkdir()
    (broken / "torch.py").write_text("raise ImportError('torch is broken')\n")
    finished.environment["PYTHONPATH"] = str(broken)
    for _ in range(2):
        code, output = finished.snakemake()
        assert code != 0, "the failed training is tried again, whatever lies downstream"
        assert "torch is broken" in output
        code, said = finished.usertune("audit", "--study", "study.yaml")
        assert code != 0
        assert "stale: tables/manifest.json" in said
        assert "training.learning_rate: 0.004 -> 0.005" in said or "missing: checkpoints/lora" in said
    del finished.environment["PYTHONPATH"]
    assert run(finished).trained == {"lora"}


def test_one_run_repairs_what_the_records_of_snakemake_take_for_good(finished: Workplace) -> None:
    finished.replace("learning_rate: 4e-3", "learning_rate: 5e-3")
    finished.run("--touch")
    assert "training.learning_rate: 0.004 -> 0.005" in audit(finished)
    # A target repairs what it needs, and nothing else.
    assert NOTHING in finished.run("vanilla")
    work = run(finished)
    assert (work.trained, set(work.generated)) == ({"lora"}, {("lora", "1"), ("lora", "2")})
    assert "the audit passed" in audit(finished)
    # Elsewhere, and without any records; going back to the settings before costs no GPU time.
    finished.replace("learning_rate: 5e-3", "learning_rate: 4e-3")
    shutil.rmtree(finished.folder / ".snakemake")
    (finished.folder / "results").rename(finished.folder / "moved")
    finished.replace("results: results", "results: moved")
    output = finished.run()
    assert "was trained before" in output or "already trained" in output
    assert NOTHING in finished.run()
    assert "the audit passed" in audit(finished)

"""What a run of Snakemake really did, as opposed to which jobs it started."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.workplace import Workplace

NOTHING = "Nothing to be done"

Pair = tuple[str, str]


@dataclass
class Work:
    """Which experiments were trained, how many answers were generated for whom, what was scored, drawn and compared.

    ``splits_compared`` is about what the splits have in common (the step leakage), not about scores.
    """

    trained: set[str] = field(default_factory=set)
    generated: dict[Pair, int] = field(default_factory=dict)
    """(experiment, user) -> answers."""
    scored: set[Pair] = field(default_factory=set)
    drawn: set[str] = field(default_factory=set)
    compared: bool = False
    splits_compared: bool = False


@dataclass(frozen=True)
class Mark:
    """The state of the results before a run."""

    trainings: dict[str, int]
    answers: dict[Path, int]
    times: dict[Path, int]


def mark(workplace: Workplace) -> Mark:
    """Remember the state of the results."""
    times = {path: path.stat().st_mtime_ns for path in workplace.results.rglob("*") if path.is_file()}
    return Mark(workplace.trainings(), _lines(workplace), times)


def work_since(workplace: Workplace, before: Mark) -> Work:
    """Return what was done since the mark."""

    def is_new(path: Path) -> bool:
        return before.times.get(path) != path.stat().st_mtime_ns

    results = workplace.results
    trained = {
        Path(name).parts[1] for name, time in workplace.trainings().items() if before.trainings.get(name) != time
    }
    scored = {
        (log.parent.name, log.stem.removeprefix("user_"))
        for log in results.glob("logs/score/*/user_*.log")
        if is_new(log) and ": scored" in log.read_text()
    }
    manifests = results.glob("figures/*.manifest.json")
    drawn = {path.name.removesuffix(".manifest.json") for path in manifests if is_new(path)}
    compared = any(map(is_new, results.glob("tables/summary.csv")))
    splits_compared = any(map(is_new, results.glob("data/leakage.json")))
    return Work(trained, _generated(workplace, before.answers), scored, drawn, compared, splits_compared)


def run(workplace: Workplace, *arguments: str) -> Work:
    """Run the study, see that a second run finds nothing to do, and return what the first one did."""
    before = mark(workplace)
    workplace.run(*arguments)
    work = work_since(workplace, before)
    assert NOTHING in workplace.run(*arguments)
    return work


def audit(workplace: Workplace) -> str:
    """Return the output of an audit of the study."""
    return workplace.usertune("audit", "--study", "study.yaml")[1]


def _lines(workplace: Workplace) -> dict[Path, int]:
    """Return the number of answers in every segment of the store."""
    segments = workplace.results.glob("store/predictions/*/user_*/*.jsonl")
    return {path: len(path.read_text().splitlines()) for path in segments}


def _generated(workplace: Workplace, before: dict[Path, int]) -> dict[Pair, int]:
    names = {}
    for path in workplace.results.glob("predictions/*/*.json"):
        predictions = json.loads(path.read_text())
        if "store_folder" in predictions:
            names[predictions["store_folder"]] = predictions["experiment"]
    found: Counter[Pair] = Counter()
    for path, count in _lines(workplace).items():
        namespace, user = path.parts[-3], path.parts[-2].removeprefix("user_")
        found[names[namespace] if count > before.get(path, 0) else "", user] += count - before.get(path, 0)
    return {pair: count for pair, count in found.items() if count}

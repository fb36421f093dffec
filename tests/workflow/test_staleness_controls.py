"""The rows of docs/staleness.md on folds, priors, history in prompts and validation users: what a change repeats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.work import Work, run
from tests.support.workplace import FIGURES, Workplace, new_workplace
from usertune.data.folds import FoldSettings
from usertune.data.samples import read_samples, request_digest
from usertune.demo.dataset import Counts
from usertune.evaluation.tables import read_table
from usertune.inference.context import with_context
from usertune.inference.recipe import ContextSettings

pytestmark = pytest.mark.workflow

USERS = ("1", "2")
CONTROLS = """\
  history: {mode: vanilla, max_new_tokens: 39, context: {episodes: 1, samples: 2, images: false}}
  centre: {mode: prior, prior: {of: centre}}
  of_all: {mode: prior, prior: {of: train_users, point: mean}}
  own: {mode: prior, prior: {of: same_user}, sweep: {prior.point: [mean, densest]}, select: accuracy}
"""
OWN = ("own_point_mean", "own_point_densest")
NAMES = ("vanilla", "history", "centre", "of_all", *OWN)


def everywhere(*names: str, users: tuple[str, ...] = USERS) -> set[tuple[str, str]]:
    return {(name, user) for name in names for user in users}


def edit(workplace: Workplace, user: str, change: Any) -> None:
    """Change the turns of a user's second sample."""
    path = workplace.data / f"user_{user}.jsonl"
    lines = path.read_text().splitlines()
    sample = json.loads(lines[1])
    change(sample["messages"])
    lines[1] = json.dumps(sample)
    path.write_text("\n".join(lines) + "\n")


def requests(workplace: Workplace, user: str, count: int) -> set[str]:
    """Return the requests of a user's samples with history."""
    folds = FoldSettings(count=count, by="episode", seed=0)
    settings = ContextSettings(episodes=1, of="same_user", samples=2, images=False, folds=folds)
    samples = read_samples(Path(workplace.results, f"data/user_{user}.jsonl"), user)
    return {request_digest(sample) for sample in with_context(samples, settings)}


# Four runs of the workflow, each of which is seen to leave nothing to do.
@pytest.mark.timeout(1200)
def test_edits_and_another_number_of_folds_reach_the_controls_that_depend_on_them(tmp_path: Path) -> None:
    workplace = new_workplace(tmp_path / "study", Counts(train=5, validation=8, test=8))
    text = workplace.study.read_text()
    begin, end = text.index("  lora:\n    mode"), text.index("training:\n  epochs")
    workplace.study.write_text(f"{text[:begin]}{CONTROLS}folds: {{count: 2}}\n{text[end:]}")
    workplace.run(timeout=600)
    assert "audit passed" in workplace.usertune("audit", "--study", "study.yaml")[1]

    # Validation users are answered by what they choose the setting of, and are in no other table.
    groups = read_table(workplace.results / "tables/groups.csv")
    assert groups["validation_samples"].tolist() == [8, 8]
    assert groups["selected"].sum() == 1
    assert set(read_table(workplace.results / "tables/samples.csv")["user"]) == set(USERS)

    # A training user's target is part of the prior of all training users, and of nothing else. A validation user's
    # sample is scored again where it chooses.
    edit(workplace, "11", lambda turns: turns[-1].update(content="```grounding\n[1, 1]\n```"))
    edit(workplace, "74", lambda turns: turns[0]["content"][-1].update(text="Where is it now?"))
    scored = everywhere("of_all") | everywhere(*OWN, users=("74",))
    assert run(workplace) == Work(splits_compared=True, scored=scored, drawn=FIGURES - {"loss_curves"}, compared=True)

    # A test user's question is asked again, and so are those whose prompts show it; other users' are not.
    before = requests(workplace, "1", 2)
    edit(workplace, "1", lambda turns: turns[0]["content"][-1].update(text="Where is it now?"))
    work = run(workplace)
    shown = len(requests(workplace, "1", 2) - before)
    assert 1 < shown < 8
    assert work.generated == {("vanilla", "1"): 1, ("history", "1"): shown}
    assert work.scored == everywhere(*NAMES, users=("1",))

    # Other folds: other history for some questions, and the column of folds in all scores.
    before = {user: requests(workplace, user, 2) for user in USERS}
    workplace.replace("folds: {count: 2}", "folds: {count: 3}")
    work = run(workplace)
    changed = {("history", user): len(requests(workplace, user, 3) - before[user]) for user in USERS}
    assert work.generated == {pair: count for pair, count in changed.items() if count}
    assert work.generated
    assert work.scored == everywhere(*NAMES) | everywhere(*OWN, users=("74",))

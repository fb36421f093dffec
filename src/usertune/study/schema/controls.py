"""What experiments need of the other sections of a study, if they use samples of users to answer others."""

from __future__ import annotations

from collections.abc import Iterator

from usertune.study.schema.experiment import Experiment
from usertune.study.schema.folds import Folds
from usertune.study.schema.users import Users
from usertune.tasks.catalogue import TASKS, get_task

NEEDS_FOLDS = (
    "needs folds of each user's own samples, so that no sample is answered from itself; add to the study: "
    "folds: {count: 3, by: episode}"
)


def problems_of_controls(
    experiment: Experiment, users: Users, folds: Folds | None, task: str
) -> Iterator[tuple[str, str]]:
    """Yield (key of the experiment, what it lacks and what to do)."""
    if experiment.prior is not None:
        yield from (("prior", problem) for problem in _problems_of_prior(experiment.prior.of, users, folds, task))
    if experiment.context is not None:
        yield from (("context", problem) for problem in _problems_of_context(experiment.context.of, users, folds))


def _problems_of_prior(of: str, users: Users, folds: Folds | None, task: str) -> Iterator[str]:
    # Tasks are imported for this only in studies with such an experiment.
    if not get_task(task).asks_for_clicks:
        able = ", ".join(name for name in TASKS if get_task(name).asks_for_clicks)
        yield f"a prior is a point, and answers to the task {task} are none; tasks with points are: {able}"
    if of == "train_users" and not users.train:
        yield "of: train_users: users.train is empty; add training users, or use of: same_user or of: centre"
    if of == "same_user" and folds is None:
        yield f"of: same_user {NEEDS_FOLDS}"


def _problems_of_context(of: str, users: Users, folds: Folds | None) -> Iterator[str]:
    if of == "same_user" and folds is None:
        yield f"of: same_user {NEEDS_FOLDS}"
    if of == "other_user" and len(users.test) < 2:
        yield "of: other_user: users.test has one user; add another one, or use of: same_user"

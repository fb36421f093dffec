"""Tasks: what an answer means and how far a prediction is from it.

A task knows nothing of models, users or files: it reads texts. To add one, write its module beside
``grounding`` and name it in `TASKS`.
"""

from __future__ import annotations

from usertune.core.errors import UserError
from usertune.tasks.grounding import GroundingTask

TASKS = {GroundingTask.name: GroundingTask}


def get_task(name: str) -> GroundingTask:
    """Return the task called ``name``.

    Raises:
        UserError: there is no such task; the message lists those that exist.
    """
    try:
        return TASKS[name]()
    except (KeyError, TypeError):
        raise UserError(f"task: {name!r} is not known; use one of: {', '.join(sorted(TASKS))}") from None

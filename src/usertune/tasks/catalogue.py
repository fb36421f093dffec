"""The catalogue of tasks. One line here adds the task of a new module (docs/extending.md)."""

from __future__ import annotations

from typing import cast

from usertune.core.catalogue import Catalogue
from usertune.tasks.task import Task

TASKS = Catalogue(
    "task",
    {
        "grounding": "usertune.tasks.grounding:GroundingTask",
        "action": "usertune.tasks.action:ActionTask",
        "text": "usertune.tasks.text:TextTask",
        "pigg_compatible": "usertune.tasks.pigg_compatible:PiggCompatibleTask",
    },
)


def get_task(name: str) -> Task:
    """Return the task called ``name``.

    Raises:
        UserError: there is no such task; the message lists those that exist.
    """
    return cast(Task, TASKS.load(name)())

"""What a task is to the steps that use it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from usertune.tasks.metrics import Metric, at_thresholds
from usertune.tasks.truth import Box, NotAskedError, Point, Truth


class Marks(NamedTuple):
    """What the report draws of one answer on the screenshot, in the 0-1000 space."""

    target: Point
    point: Point | None
    """None where the answer names no point on the screenshot."""
    radius: float
    box: Box | None = None
    """The element that was meant, where the data has its box."""


class Task(Protocol):
    """What is asked for: it reads answers, measures them, and says what came of them.

    A task knows nothing of models, users or files. It is made without arguments, and inherits from this class what it
    does not define. A ``row`` is one of the table of samples, and a ``threshold`` the first of the study.
    """

    name: str
    metrics: Sequence[Metric]
    """What is measured, the primary metric first; see `usertune.tasks.metrics.at_thresholds`."""
    forms: Mapping[str, str] = {}
    """Form of an answer that can be read -> what it means."""
    reasons: Mapping[str, str] = {}
    """Reason why an answer is unparsed -> what it means."""
    answers_are_actions: bool = False
    """Whether answers of conversations in another frame are converted as actions, by `truth_of` and `answer`."""

    right_and_wrong: tuple[str, str] = ("right", "wrong")
    """What a right and a wrong answer are called."""
    asks_for_clicks: bool = False
    """Whether the right answer to some of its samples is a click on a point."""

    def clicked(self, target: Any) -> Point | None:
        """Return the point of the click that is the target, as `target_of` returns it; None if it is another action."""
        return None

    def target_from_answer(self, text: str) -> dict[str, Any]:
        """Return the target of a data sample from the text of its answer turn; it is kept with the sample as JSON.

        Raises:
            ValueError: the answer holds no target; the message says why.
        """

    def answer(self, truth: Truth) -> str:
        """Return the answer that a model should give, for data with actions instead of answers.

        Coordinates of ``truth`` are in the 0-1000 space.

        Raises:
            NotAskedError: the task does not ask for such an action; the message is the kind of action.
            ValueError: the action lacks something; the message says what.
        """
        raise NotAskedError(truth.action)

    def reason_in_words(self, form: str) -> str:
        """Return why an answer is unparsed, for the middle of a sentence: ``there is no text (empty)``."""
        reason = self.reasons[form].rstrip(".")
        return f"{reason[0].lower()}{reason[1:]} ({form})"

    def target_from_truth(self, truth: Truth) -> dict[str, Any]:
        """Return the target of a data sample from its action, if `answer` wrote the answer; see `target_from_answer`.

        Raises:
            ValueError: see `answer`.
        """
        return self.target_from_answer(self.answer(truth))

    def truth_of(self, text: str) -> Truth:
        """Return the action that an answer names, in its own frame, for tasks with `answers_are_actions`.

        Raises:
            ValueError: there is none; the message says why.
        """
        raise ValueError("answers of this task are no actions")

    def read_target(self, target: Mapping[str, Any]) -> Any:
        """Return a sample's target as the metrics take it.

        Raises:
            ValueError: it is not a target of this task.
        """

    def target_of(self, sample: Mapping[str, Any]) -> Any:
        """Return the target of a canonical sample as the metrics take it.

        A task that measures the answers to another one (``evaluation.further_tasks``) can read another target than that
        of the dataset's task.

        Raises:
            ValueError: the sample has no target of this task. A further task does not apply to such a sample.
        """
        return self.read_target(sample["target"])

    def read(self, text: str, ended: bool = True) -> tuple[Any, str]:
        """Read a model's answer.

        Args:
            text: the answer.
            ended: whether it ended by itself; otherwise it was cut off at its longest length.

        Returns:
            The answer as the metrics take it (for grounding the point x, y in the 0-1000 space), and its form; or None
            and the reason why it is unparsed.
        """

    def parse(self, text: str) -> Point | None:
        """Return the point (x, y) that an answer names, for data in other frames; None if there is none."""
        point: Point | None = self.read(text)[0]
        return point

    def details(self, answer: Any, target: Any) -> Mapping[str, float | None]:
        """Return further columns for the rows of scores, next to those of the metrics; ``answer`` may be None."""
        return {}

    def note(self, threshold: float) -> str:
        """Return the sentence below the tables that explains the metrics."""
        left_out = [metric.title for metric in self.metrics if metric.unparsed is None]
        return f"Answers that could not be parsed do not count for {', '.join(left_out)}." if left_out else ""

    def outcome(self, row: Mapping[str, Any], threshold: float) -> str:
        """Return in words what came of one answer."""
        if not row["parsed"]:
            return f"not parsed ({row['form']})"
        primary = at_thresholds(self.metrics, [threshold])[0]
        return f"{primary.title}: {primary.text(row[primary.column])} {primary.unit}".rstrip()

    def marks(self, row: Mapping[str, Any], target: Any, threshold: float) -> Marks | None:
        """Return what is drawn of one answer on the screenshot; None where the task has nothing to draw."""
        return None

    def marks_note(self, threshold: float) -> str:
        """Return the sentence that explains the marks; empty where there are none."""
        return ""

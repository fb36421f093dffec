r"""Text: a short answer to a question, compared with one or several accepted answers.

The answer is the text after any thinking; inside ``<answer>…</answer>`` or ``\boxed{…}`` if it has one, else after
``Answer:``. A sample's target is ``{"answers": [...]}``: any of them is right, and the best one counts.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rapidfuzz.distance import Levenshtein

from usertune.tasks.metrics import Metric
from usertune.tasks.points.forms import CONTAINERS, after_thinking
from usertune.tasks.task import Task
from usertune.tasks.truth import FINISH, NotAskedError, Point, Truth

PROMPT = """\
{text}
Answer in a few words, and with nothing else."""
FORMS = {
    "text": "The complete answer.",
    "answer_tag": "The text in `<answer>…</answer>`, `<|begin_of_box|>…<|end_of_box|>` or `\\boxed{…}`.",
    "answer_line": "The text after `Answer:` at the beginning of a line.",
}
REASONS = {
    "empty": "There is no text.",
    "unfinished_thinking": "The answer ends while the model is still thinking.",
    "disagree": "Several different answers, and no form says which counts.",
}
# Of ANLS: a text further away than half of the longer one is another text, not a misspelling.
ANLS_THRESHOLD = 0.5
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def exact(answer: str, answers: Sequence[str]) -> int:
    """Return 1 where an accepted answer is the same text, but for white space at its ends, else 0."""
    return int(answer.strip() in {one.strip() for one in answers})


def normalised(text: str) -> str:
    """Return a text in lower case, without punctuation (ASCII) and English articles, with single spaces.

    This is the normalisation of SQuAD (Rajpurkar et al. 2016, arXiv:1606.05250, official evaluation).
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def normalised_match(answer: str, answers: Sequence[str]) -> int:
    """Return 1 where an accepted answer is equal after `normalised`, else 0 (exact match of SQuAD)."""
    return int(normalised(answer) in {normalised(one) for one in answers})


def anls(answer: str, answers: Sequence[str]) -> float:
    """Return the normalised Levenshtein similarity to the closest accepted answer; 0 unless it is above 0.5.

    ANLS (Biten et al. 2019, arXiv:1905.13648, equation 1): 1 - NL if NL < 0.5, else 0, where NL is the edit distance
    over the length of the longer text; without regard to case and to white space at the ends.
    """
    given = answer.strip().lower()
    best = max(Levenshtein.normalized_similarity(given, one.strip().lower()) for one in answers)
    return best if 1 - best < ANLS_THRESHOLD else 0.0


def token_f1(answer: str, answers: Sequence[str]) -> float:
    """Return the best F1 of the words in common with an accepted answer, after `normalised` (SQuAD, see there)."""
    return max(_f1(normalised(answer).split(), normalised(one).split()) for one in answers)


def _f1(given: Sequence[str], expected: Sequence[str]) -> float:
    if not given or not expected:
        return float(given == expected)
    return 2 * (Counter(given) & Counter(expected)).total() / (len(given) + len(expected))


def _share(name: str, title: str, measure: Any) -> Metric:
    return Metric(name, title=title, column=name, measure=measure, unit="%", unparsed=0, bounds=(0, 1))


METRICS = (
    _share("normalised_match", "normalised match", normalised_match),
    _share("exact_match", "exact match", exact),
    _share("anls", "ANLS", anls),
    _share("token_f1", "token F1", token_f1),
)


class TextTask(Task):
    """A short answer in words: reads it and measures how close it is to the accepted ones."""

    name = "text"
    metrics = METRICS
    forms = FORMS
    reasons = REASONS

    def target_from_answer(self, text: str) -> dict[str, list[str]]:
        """Return ``{"answers": [answer]}`` from an answer turn.

        Raises:
            ValueError: there is no answer in it.
        """
        found, form = self.read(text)
        if found is None:
            raise ValueError(f"the answer {text[:80]!r} is no text: {self.reason_in_words(form)}")
        return {"answers": [found]}

    def answer(self, truth: Truth) -> str:
        """Return the text of a final answer.

        Raises:
            NotAskedError: the action is not ``finish``.
            ValueError: it has no text.
        """
        if truth.action != FINISH:
            raise NotAskedError(truth.action)
        if not truth.text or not truth.text.strip():
            raise ValueError("the answer has no text")
        return truth.text

    def target_from_truth(self, truth: Truth) -> dict[str, list[str]]:
        """Return ``{"answers": [...]}``: the text, then the others that are accepted."""
        return {"answers": list(dict.fromkeys([self.answer(truth), *truth.accepted]))}

    def read_target(self, target: Mapping[str, Any]) -> list[str]:
        """Return the accepted answers.

        Raises:
            ValueError: the target is not ``{"answers": [...]}`` with at least one text.
        """
        answers = target.get("answers") if isinstance(target, Mapping) else None
        if not isinstance(answers, list) or not answers or not all(isinstance(one, str) for one in answers):
            raise ValueError(f'the target is {target!r}; expected {{"answers": ["...", ...]}}')
        return answers

    def read(self, text: str, ended: bool = True) -> tuple[str | None, str]:
        """Return the text of an answer and its form, or None and the reason; an answer that was cut off is kept."""
        rest = after_thinking(text)
        if rest is None:
            return None, "unfinished_thinking"
        form = "text"
        for name, parts_of in CONTAINERS:
            parts = [part.strip(" \t\r\n{}") for part, _ in parts_of(rest)] if name in FORMS else []
            if len(set(parts)) > 1:
                return None, "disagree"
            if parts:
                form, rest = name, parts[0]
        return (rest.strip(), form) if rest.strip() else (None, "empty")

    def parse(self, text: str) -> Point | None:
        """Return None: no point is asked for."""
        return None

    def outcome(self, row: Mapping[str, Any], threshold: float) -> str:
        """Return what came of one answer, in words."""
        if not row["parsed"]:
            return f"not parsed ({row['form']}), wrong"
        return "right" if row["normalised_match"] else f"wrong, ANLS {row['anls']:.2f}"

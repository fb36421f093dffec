"""What the rows of scores say of a sample beside its measures: what was asked, answered and shown, and its groups."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from usertune.core.formatting import printable
from usertune.evaluation.answers import Answer
from usertune.evaluation.table_names import ABOUT

KEPT = "\n\t"


def facts_of(samples: Sequence[Mapping[str, Any]], answers: Mapping[str, Answer]) -> list[dict[str, Any]]:
    """Return the facts of each sample of one user.

    ``instruction`` (the text of the last user turn), ``answer``, ``image`` (the path of the last image), ``width`` and
    ``height`` (its pixels), ``box`` (of the target, JSON), ``episode_length`` (samples of the episode) and
    ``about.<key>`` for each key of the samples' ``about``. Control characters are escaped, so that every reader of CSV
    finds the same fields.

    Args:
        samples: the user's canonical samples.
        answers: answers by sample id.
    """
    lengths = Counter(sample["episode"] for sample in samples)
    known = [_section(sample.get("about")) for sample in samples]
    keys = dict.fromkeys(key for about in known for key in about)
    rows = []
    for sample, about in zip(samples, known, strict=True):
        image = sample["images"][-1] if sample.get("images") else {}
        box = sample["target"].get("box")
        rows.append(
            {
                "instruction": printable(_instruction(sample), KEPT),
                "answer": printable(answers[sample["id"]].text, KEPT),
                "image": printable(str(image.get("path", ""))),
                "width": _pixels(image.get("width")),
                "height": _pixels(image.get("height")),
                "box": None if box is None else json.dumps(box),
                "episode_length": lengths[sample["episode"]],
                **{f"{ABOUT}{key}": printable(str(about.get(key, "")), KEPT) for key in keys},
            }
        )
    return rows


# A damaged file of samples loses facts here; what measures need is checked where it is read.
def _section(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _pixels(value: Any) -> int | None:
    return value if isinstance(value, int) else None


def _instruction(sample: Mapping[str, Any]) -> str:
    turns = [_section(turn) for turn in sample.get("messages", [])]
    content = next((turn.get("content") for turn in reversed(turns) if turn.get("role") == "user"), None)
    parts = [_section(part) for part in content] if isinstance(content, list) else []
    return "\n".join(str(part.get("text", "")) for part in parts if part.get("type") == "text")

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
    keys = dict.fromkeys(key for sample in samples for key in sample.get("about", {}))
    rows = []
    for sample in samples:
        image = sample["images"][-1] if sample.get("images") else {}
        box = sample["target"].get("box")
        about = sample.get("about", {})
        rows.append(
            {
                "instruction": printable(_instruction(sample), KEPT),
                "answer": printable(answers[sample["id"]].text, KEPT),
                "image": printable(image.get("path", "")),
                "width": image.get("width"),
                "height": image.get("height"),
                "box": None if box is None else json.dumps(box),
                "episode_length": lengths[sample["episode"]],
                **{f"{ABOUT}{key}": printable(str(about.get(key, "")), KEPT) for key in keys},
            }
        )
    return rows


def _instruction(sample: Mapping[str, Any]) -> str:
    turn = next((turn for turn in reversed(sample.get("messages", [])) if turn["role"] == "user"), None)
    parts = turn["content"] if turn else []
    return "\n".join(part["text"] for part in parts if part["type"] == "text")

"""Settings of generation with which the same request always has the same answer."""

from __future__ import annotations

from typing import Any

# Passed to ``generate``; a model's own settings of sampling do not count.
GREEDY: dict[str, Any] = {
    "do_sample": False,
    "num_beams": 1,
    "temperature": None,
    "top_p": None,
    "top_k": None,
    "repetition_penalty": 1.0,
}

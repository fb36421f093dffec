"""Writer for TRL: conversational prompt and completion, with ``images``.

Read in TRL 1.16 (docs/source/dataset_formats.md, trl/data_utils.py, `prepare_multimodal_messages`). With prompt and
completion, ``SFTTrainer`` learns the completion alone without further settings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from usertune.data.samples import Sample, Turn
from usertune.data.writer import about


class TrlWriter:
    """Writes samples for TRL, see `usertune.data.writer.Writer`."""

    title = "TRL"

    def record(self, sample: Sample, images: Sequence[str]) -> dict[str, Any]:
        """Return the question as ``prompt``, the answer as ``completion``, the images, and the sample's names."""
        *question, answer = map(_turn, sample["messages"])
        return {"prompt": question, "completion": [answer], "images": list(images), **about(sample)}

    def further_files(self, name: str, splits: Mapping[str, str]) -> dict[str, str]:
        """Return nothing: `datasets` reads a file by its path."""
        return {}

    def usage(self, name: str, splits: Mapping[str, str]) -> str:
        """Return a program that loads the files."""
        return (
            "TRL learns the last assistant turn; usertune learns earlier ones too, in samples that have some. Image "
            "paths are absolute, or relative to the working directory.\n\n"
            "```python\n"
            "from datasets import Image, List, load_dataset\n\n"
            f'data = load_dataset("json", data_files={dict(splits)!r}).cast_column("images", List(Image()))\n'
            "# SFTTrainer(model=..., args=SFTConfig(max_length=None), train_dataset=data['train'])\n"
            "```\n"
        )


def _turn(turn: Turn) -> dict[str, Any]:
    """Return a turn in which every part has the same keys, as a table needs them."""
    parts = [
        {"type": part["type"], "text": part["text"] if part["type"] == "text" else None} for part in turn["content"]
    ]
    return {"role": turn["role"], "content": parts}

"""Writer for LLaMA-Factory: its sharegpt format with ``messages`` and ``images``, and the entries of dataset_info.json.

Read in LLaMA-Factory 0.9.5 (data/README.md, src/llamafactory/data/converter.py and mm_plugin.py).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from usertune.data.samples import Sample
from usertune.data.writer import about, require_taking_turns, with_placeholders

REPLACED = ("<image>", "<video>", "<audio>")
INFO = "dataset_info.json"


class LlamaFactoryWriter:
    """Writes samples for LLaMA-Factory, see `usertune.data.writer.Writer`."""

    title = "LLaMA-Factory"

    def record(self, sample: Sample, images: Sequence[str]) -> dict[str, Any]:
        """Return the turns as text, the paths of the images, and the sample's names."""
        require_taking_turns(sample, self.title)
        return {"messages": with_placeholders(sample, REPLACED, self.title), "images": list(images), **about(sample)}

    def further_files(self, name: str, splits: Mapping[str, str]) -> dict[str, str]:
        """Return the descriptions of the splits, by which LLaMA-Factory finds them."""
        entries = {
            f"{name}_{split}": {
                "file_name": file,
                "formatting": "sharegpt",
                "columns": {"messages": "messages", "images": "images"},
                "tags": {
                    "role_tag": "role",
                    "content_tag": "content",
                    "user_tag": "user",
                    "assistant_tag": "assistant",
                    "system_tag": "system",
                },
            }
            for split, file in splits.items()
        }
        return {INFO: json.dumps(entries, indent=2, ensure_ascii=False) + "\n"}

    def usage(self, name: str, splits: Mapping[str, str]) -> str:
        """Return the settings of a training that uses the files."""
        lines = [
            "dataset_dir: .  # image paths are relative to it, or absolute",
            f"dataset: {name}_{next(iter(splits))}",
        ]
        if "validation" in splits:
            lines.append(f"eval_dataset: {name}_validation")
        lines.append("template: qwen3_vl_nothink  # qwen3_vl for a model that thinks")
        return (
            "LLaMA-Factory learns every assistant turn, as usertune does, unless `mask_history` is set. Training "
            "settings:\n\n```yaml\n" + "\n".join(lines) + "\n```\n"
        )

"""Writer for ms-swift: ``messages`` with ``<image>`` in the text, and ``images``.

Read in ms-swift 4.6 (docs/source_en/Customization/Custom-dataset.md, swift/template/base.py). Points stay in the
answers, in 0-1000: from ``objects``, ms-swift would write the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from usertune.data.samples import Sample
from usertune.data.writer import about, with_placeholders

REPLACED = ("<image>", "<video>", "<audio>", "<bbox>", "<ref-object>", "<cot-process>", "<start-image>")


class SwiftWriter:
    """Writes samples for ms-swift, see `usertune.data.writer.Writer`."""

    title = "ms-swift"

    def record(self, sample: Sample, images: Sequence[str]) -> dict[str, Any]:
        """Return the turns as text, the paths of the images, and the sample's names."""
        return {"messages": with_placeholders(sample, REPLACED, self.title), "images": list(images), **about(sample)}

    def further_files(self, name: str, splits: Mapping[str, str]) -> dict[str, str]:
        """Return nothing: ms-swift reads a file by its path."""
        return {}

    def usage(self, name: str, splits: Mapping[str, str]) -> str:
        """Return a command that trains an adapter."""
        validation = f" --val_dataset {splits['validation']}" if "validation" in splits else ""
        return (
            "ms-swift learns every assistant turn, as usertune does. Image paths are relative to `ROOT_IMAGE_DIR` or "
            "absolute.\n\n"
            "```bash\n"
            f"ROOT_IMAGE_DIR=$PWD swift sft --model BASE_MODEL --dataset {next(iter(splits.values()))}{validation}\n"
            "```\n"
        )

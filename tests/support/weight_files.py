"""Files of weights that have a header and no content on the disk."""

from __future__ import annotations

import json
import struct
from pathlib import Path


def write_tensors(file: Path, shapes: dict[str, list[int]]) -> None:
    """Write a file of these shapes, in bfloat16, with data that take no space on the disk."""
    header, end = {}, 0
    for name, shape in shapes.items():
        size = 2
        for length in shape:
            size *= length
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text)
    with file.open("ab") as content:
        content.truncate(8 + len(text) + end)

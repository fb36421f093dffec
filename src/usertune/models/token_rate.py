"""How many tokens a text has, without torch: by the base model's tokenizer, or by a rule."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

# Qwen's vocabulary has about four bytes a token in English prose, fewer in names, numbers and most other languages.
BYTES_PER_TOKEN = 3.0


def tokens_per_byte(folder: Path, texts: Sequence[str]) -> tuple[float, bool]:
    """Return how many tokens a byte of UTF-8 makes, and whether the model's tokenizer was asked.

    Args:
        folder: the base model's folder. Without a ``tokenizer.json``, without the library ``tokenizers`` (which comes
            with transformers), or without texts, it is one token for `BYTES_PER_TOKEN` bytes.
        texts: a few texts of the data.
    """
    size = sum(len(text.encode("utf-8", "replace")) for text in texts)
    try:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        counted = sum(len(encoding.ids) for encoding in tokenizer.encode_batch(list(texts), add_special_tokens=False))
    # The library raises plain exceptions for files that it cannot read.
    except Exception:
        return 1 / BYTES_PER_TOKEN, False
    return (counted / size, True) if size else (1 / BYTES_PER_TOKEN, False)

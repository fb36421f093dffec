"""The study's prompt, which is put around the text of every sample, and what may not stand in a text."""

from __future__ import annotations

import re

from usertune.core.errors import shown
from usertune.data.reader import RawSample

# Stands in the study's prompt for the text of a sample.
PROMPT_TEXT = "{text}"
# Of LLaVA and Qwen JSON, of ms-swift, of Qwen3-VL's chat template, and of Qwen-VL.
_PLACEHOLDER = re.compile(
    r"<(?:image|video|audio|image_pad|video_pad|ref-object|bbox|ImageHere|IMG_CONTEXT)>"
    r"|<\|(?:image_pad|video_pad|vision_start|vision_end|vision_pad|image)\|>|<img>[^<\n]*</img>"
)


def put_prompt(sample: RawSample, system: str | None = None, user: str = PROMPT_TEXT) -> None:
    """Put the study's prompt around a sample, in place.

    Args:
        sample: the sample; its last user turn is the one that asks for the answer.
        system: text of the system turn; None keeps the sample's own.
        user: text in which ``{text}`` stands for the texts of the last user turn.
    """
    if system is not None:
        turns = [turn for turn in sample.messages if turn["role"] != "system"]
        sample.messages = [{"role": "system", "content": [{"type": "text", "text": system}]}, *turns]
    before, _, after = user.partition(PROMPT_TEXT)
    asking = next(turn for turn in reversed(sample.messages) if turn["role"] == "user")
    texts = [part for part in asking["content"] if part["type"] == "text"]
    if not texts and (before or after):
        texts = [{"type": "text", "text": ""}]
        asking["content"].extend(texts)
    if texts:
        texts[0]["text"] = before + texts[0]["text"]
        texts[-1]["text"] += after


def placeholder_problem(text: str) -> str | None:
    """Say that a text holds a placeholder which another program would have replaced; None if it does not.

    Here images are parts of their own, so a model would read the placeholder as text.
    """
    if not (found := _PLACEHOLDER.search(text)):
        return None
    return (
        f"{shown(found[0])} is in the text, where other programs put an image or an object in its place; here a model "
        'would read it as text. Give an image as a part {"type": "image", "image": PATH} and leave the placeholder '
        "out (if these characters are meant, write them otherwise, as &lt;image&gt;)"
    )

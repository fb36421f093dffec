"""The study's prompt around the text of every sample, and placeholders that a text must not contain."""

from __future__ import annotations

import re

from usertune.core.errors import shown
from usertune.data.reader import BadSampleError, RawSample

# Marks the sample's text in the study's prompt.
PROMPT_TEXT = "{text}"
# Marks what else is known of a sample, such as {about.app}.
_ABOUT = re.compile(r"\{about\.([A-Za-z_][A-Za-z0-9_]*)\}")
# Placeholders of LLaVA and Qwen JSON, ms-swift, Qwen3-VL's chat template, and Qwen-VL.
_PLACEHOLDER = re.compile(
    r"<(?:image|video|audio|image_pad|video_pad|ref-object|bbox|ImageHere|IMG_CONTEXT)>"
    r"|<\|(?:image_pad|video_pad|vision_start|vision_end|vision_pad|image)\|>|<img>[^<\n]*</img>"
)


def put_prompt(sample: RawSample, system: str | None = None, user: str = PROMPT_TEXT) -> None:
    """Put the study's prompt around a sample, in place.

    Args:
        sample: the sample; its last user turn asks for the answer.
        system: text of the system turn; None keeps the sample's own.
        user: text with ``{text}`` in place of the texts of the last user turn. Here and in ``system``, ``{about.KEY}``
            stands for the key of the sample's ``about``.

    Raises:
        BadSampleError: the sample has no such key, or its value is refused by `placeholder_problem`.
    """
    system = None if system is None else _with_about(system, sample)
    before, _, after = user.partition(PROMPT_TEXT)
    before, after = _with_about(before, sample), _with_about(after, sample)
    if system is not None:
        turns = [turn for turn in sample.messages if turn["role"] != "system"]
        sample.messages = [{"role": "system", "content": [{"type": "text", "text": system}]}, *turns]
    asking = next(turn for turn in reversed(sample.messages) if turn["role"] == "user")
    texts = [part for part in asking["content"] if part["type"] == "text"]
    if not texts and (before or after):
        texts = [{"type": "text", "text": ""}]
        asking["content"].extend(texts)
    if texts:
        texts[0]["text"] = before + texts[0]["text"]
        texts[-1]["text"] += after


def _with_about(template: str, sample: RawSample) -> str:
    def value(match: re.Match[str]) -> str:
        if match[1] not in sample.about:
            known = f"it has {', '.join(sample.about)}" if sample.about else "nothing else is known of it"
            raise BadSampleError("about", f"the prompt of the study uses {match[0]}, which this sample lacks; {known}")
        text = str(sample.about[match[1]])
        if problem := placeholder_problem(text):
            raise BadSampleError(f"about.{match[1]}", problem)
        return text

    return _ABOUT.sub(value, template)


def placeholder_problem(text: str) -> str | None:
    """Describe a placeholder in a text that other programs replace; None if there is none.

    Here images are parts of their own, so a model would read the placeholder as text.
    """
    if not (found := _PLACEHOLDER.search(text)):
        return None
    return (
        f"{shown(found[0])} is in the text. Other programs replace it by an image or an object; here a model would "
        'read it as text. Give an image as a part {"type": "image", "image": PATH} and remove the placeholder '
        "(to keep the characters as text, escape them: &lt;image&gt;)"
    )

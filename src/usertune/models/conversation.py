"""Convert conversations to tensors: token ids, answer labels and padding.

Control tokens (``<|im_start|>`` etc.) come only from the chat template. The same characters in a sample's text are
tokenized as plain text, so no sample can open or close a turn.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from usertune.core.errors import UserError
from usertune.data.images import load_image
from usertune.data.samples import Part, Sample, Turn
from usertune.models.chat_template import ChatTemplate, prompt_difference
from usertune.models.family import Family
from usertune.models.image_memory import IMAGES, BatchImages, Grid

IGNORED_LABEL = -100
# Planes 15 and 16 (private use): Unicode's largest range of characters without a meaning.
_MASKS = range(0xF0000, 0x110000)


@dataclass(frozen=True)
class TokenizedConversation:
    """Token ids of a conversation, and whether each belongs to an answer that the model is trained on."""

    input_ids: list[int]
    is_answer: list[bool]


class ConversationTokenizer:
    r"""Tokenizes conversations with a processor of a model family.

    The answer span follows Qwen's official code: the response, ``<|im_end|>`` and the newline after it, found by the
    header ``<|im_start|>assistant\n`` (QwenLM/Qwen3-VL, ``qwen-vl-finetune``, ``preprocess_qwen_visual``).
    The prompt is tokenized separately from the last response, so its ids are those that generation starts from, even
    if the response begins with white space or the template opens a thought before it.

    Args:
        processor: the base model's processor.
        family: the base model's family.
        thinking: the study's ``base_model.thinking``.
    """

    def __init__(self, processor: Any, family: Family, thinking: bool | None = None) -> None:
        self.processor = processor
        self.family = family
        self._markers = family.markers
        self._limits = family.limits_of(processor)
        self._variables = ChatTemplate(processor.chat_template, family.markers).variables(thinking)
        self.tokenizer = processor.tokenizer
        tokens = self.tokenizer.added_tokens_decoder
        self._control_ids = {token.content: token_id for token_id, token in tokens.items() if token.special}
        longest_first = sorted(self._control_ids, key=len, reverse=True)
        self._control_pattern = re.compile("(" + "|".join(map(re.escape, longest_first)) + ")")
        self.image_token_id: int = self._control_ids[family.markers.image]
        self.end_of_turn_id: int = self._control_ids[family.markers.turn_end]
        self.padding_id: int = self.tokenizer.pad_token_id

    def prompt(self, sample: Sample) -> list[int]:
        """Return the ids that generation of the sample's last turn starts from."""
        masked, hidden = self._hide_control_tokens(sample["messages"][:-1])
        return self._tokenize(
            self._render(masked, asked=True), hidden, iter(self.image_tokens(sample)), False
        ).input_ids

    def conversation(self, sample: Sample) -> TokenizedConversation:
        """Return the ids of the complete conversation, with every assistant turn marked as an answer.

        Raises:
            UserError: the chat template's text of the conversation does not begin with its prompt in prediction.
        """
        masked, hidden = self._hide_control_tokens(sample["messages"])
        asked, whole = self._render(masked[:-1], asked=True), self._render(masked, asked=False)
        if difference := prompt_difference(asked, whole):
            raise UserError(f"sample {sample['id']!r} of user {sample['user']}: {difference}")
        counts = iter(self.image_tokens(sample))
        before = self._tokenize(asked, hidden, counts, False)
        answer = self._tokenize(whole[len(asked) :], hidden, counts, True)
        # The template writes the last turn's header and what it opens there; these are not part of the answer.
        header = len(before.input_ids) - before.input_ids[::-1].index(self._control_ids[self._markers.turn_start])
        is_answer = before.is_answer[:header] + [False] * (len(before.input_ids) - header)
        return TokenizedConversation(before.input_ids + answer.input_ids, is_answer + answer.is_answer)

    def image_tokens(self, sample: Sample) -> list[int]:
        """Return the number of visual tokens of each of the sample's images."""
        return [self.family.image_tokens(image["width"], image["height"], self._limits) for image in sample["images"]]

    def _render(self, masked: Sequence[dict[str, Any]], asked: bool) -> str:
        text: str = self.processor.apply_chat_template(
            masked, tokenize=False, add_generation_prompt=asked, **self._variables
        )
        return text

    def _tokenize(
        self, text: str, hidden: dict[str, str], image_tokens: Iterator[int], in_answer: bool
    ) -> TokenizedConversation:
        ids: list[int] = []
        is_answer: list[bool] = []
        for token_ids, answer in self._pieces(text, hidden, in_answer):
            if token_ids == [self.image_token_id]:
                token_ids = token_ids * next(image_tokens)
            ids.extend(token_ids)
            is_answer.extend([answer] * len(token_ids))
        return TokenizedConversation(ids, is_answer)

    def _pieces(self, text: str, hidden: dict[str, str], in_answer: bool) -> Iterator[tuple[list[int], bool]]:
        """Yield the ids of each control token and each stretch of plain text, and whether they belong to an answer."""
        header = self._markers.answer_header
        after = ""
        for piece in self._control_pattern.split(text):
            if piece in self._control_ids:
                yield [self._control_ids[piece]], in_answer
                after = piece
                continue
            if after == self._markers.turn_start and piece.startswith(header):
                yield self._plain_ids(header, hidden), False
                piece, in_answer = piece.removeprefix(header), True
            elif after == self._markers.turn_end and in_answer:
                yield self._plain_ids(piece[:1], hidden), piece.startswith("\n")
                piece, in_answer = piece[1:], False
            yield self._plain_ids(piece, hidden), in_answer

    def _plain_ids(self, text: str, hidden: dict[str, str]) -> list[int]:
        for mask, original in hidden.items():
            text = text.replace(mask, original)
        if not text:
            return []
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
        return ids

    def _hide_control_tokens(self, messages: Sequence[Turn]) -> tuple[list[dict[str, Any]], dict[str, str]]:
        """Replace control tokens in texts by characters that the template leaves unchanged.

        Returns:
            The turns, and character -> the control token that it replaces.
        """
        everything = "".join(part.get("text", "") for turn in messages for part in turn["content"])
        found = sorted(set(self._control_pattern.findall(everything)))
        used = set(everything)
        free = (chr(code) for code in _MASKS if chr(code) not in used)
        masking = {token: next(free) for token in found}
        turns = [
            {"role": turn["role"], "content": [_masked(part, masking) for part in _joined(turn["content"])]}
            for turn in messages
        ]
        return turns, {mask: token for token, mask in masking.items()}


class Collator:
    """Builds the batch of tensors that a model's ``forward`` and ``generate`` take.

    Args:
        conversations: tokenizer of conversations.
        root: folder of the raw data; image paths are relative to it.
    """

    def __init__(self, conversations: ConversationTokenizer, root: str | Path) -> None:
        self.conversations = conversations
        self.root = Path(root)

    def training_batch(
        self, samples: Sequence[tuple[Sample, TokenizedConversation]], kept: Mapping[str, Grid] | None = None
    ) -> dict[str, Any]:
        """Return a right-padded batch with ``labels``: the token ids in answers, -100 elsewhere.

        Shapes: ``input_ids``, ``attention_mask`` and ``labels`` (samples, tokens); those of the images as the family
        has them (`Family.image_inputs`).

        Args:
            samples: the samples, with their tokens.
            kept: images that need not be opened, as in `ImageMemory.grids`; the batch is then one for
                `ImageMemory.complete`. None: open all.
        """
        ids = [tokens.input_ids for _, tokens in samples]
        batch = self._inputs([sample for sample, _ in samples], ids, "right", kept)
        answers = self._pad([[int(flag) for flag in tokens.is_answer] for _, tokens in samples], 0, "right")
        batch["labels"] = batch["input_ids"].masked_fill(answers == 0, IGNORED_LABEL)
        return batch

    def single(self, sample: Sample) -> dict[str, Any]:
        """Return the `training_batch` of one sample."""
        return self.training_batch([(sample, self.conversations.conversation(sample))])

    def prompt_batch(
        self, samples: Sequence[Sample], prompts: Sequence[list[int]], kept: Mapping[str, Grid] | None = None
    ) -> dict[str, Any]:
        """Return a left-padded batch for generation; otherwise as `training_batch`, without labels."""
        return self._inputs(samples, prompts, "left", kept)

    def _inputs(
        self,
        samples: Sequence[Sample],
        ids: Sequence[list[int]],
        side: Literal["left", "right"],
        kept: Mapping[str, Grid] | None,
    ) -> dict[str, Any]:
        input_ids = self._pad(ids, self.conversations.padding_id, side)
        batch = {
            "input_ids": input_ids,
            "attention_mask": self._pad([[1] * len(row) for row in ids], 0, side),
        }
        images = [image for sample in samples for image in sample["images"]]
        family, processor = self.conversations.family, self.conversations.processor
        if kept is None:
            return batch | family.image_inputs(processor, input_ids, [load_image(self.root, image) for image in images])
        keys = tuple(image["sha256"] for image in images)
        # Each file once, also if several samples of the batch have it.
        files = {key: image for key, image in zip(keys, images, strict=True) if key not in kept}
        opened = [load_image(self.root, image) for image in files.values()]
        batch |= family.image_inputs(processor, input_ids, opened)
        if keys:
            new = dict(zip(files, batch[family.grids].tolist(), strict=True)) if files else {}
            batch[family.grids] = torch.tensor([new.get(key) or kept[key] for key in keys])
            batch[IMAGES] = BatchImages(keys, tuple(files))
        return batch

    def _pad(self, rows: Sequence[list[int]], value: int, side: Literal["left", "right"]) -> torch.Tensor:
        length = max(len(row) for row in rows)
        padding = [[value] * (length - len(row)) for row in rows]
        padded = [fill + row if side == "left" else row + fill for fill, row in zip(padding, rows, strict=True)]
        return torch.tensor(padded, dtype=torch.long)


def _joined(parts: Sequence[Part]) -> Iterator[Part]:
    """Join neighbouring texts, as the template does, so that a control token split across two is found."""
    for is_text, group in itertools.groupby(parts, key=lambda part: part["type"] == "text"):
        if is_text:
            yield {"type": "text", "text": "".join(part["text"] for part in group)}
        else:
            yield from group


def _masked(part: Part, masking: dict[str, str]) -> dict[str, Any]:
    if part["type"] != "text":
        return {"type": part["type"]}
    text = part["text"]
    for token, mask in masking.items():
        text = text.replace(token, mask)
    return {"type": "text", "text": text}

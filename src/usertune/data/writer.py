"""The interface of writers, which write prepared samples as other trainers read them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

from usertune.core.errors import UserError, shown
from usertune.data.samples import Sample, Turn

IMAGE = "<image>"


class Writer(Protocol):
    """Writes samples for one other trainer. A split is one file, with one JSON object a line."""

    title: str
    """Name of the trainer."""

    def record(self, sample: Sample, images: Sequence[str]) -> dict[str, Any]:
        """Return one sample as the trainer reads it.

        Args:
            sample: the prepared sample.
            images: the path of each of its images.

        Raises:
            UserError: the trainer would read the sample as another one.
        """

    def further_files(self, name: str, splits: Mapping[str, str]) -> dict[str, str]:
        """Return ``{file name: text}`` of the files that the trainer needs beside the splits.

        Args:
            name: name of the study.
            splits: split -> its file, at least one; what is learned comes first.
        """

    def usage(self, name: str, splits: Mapping[str, str]) -> str:
        """Return Markdown that says how to train with these files. Commands run in their folder."""


def about(sample: Sample) -> dict[str, Any]:
    """Return the names of a sample, which trainers ignore and people look for."""
    return {key: sample[key] for key in ("id", "user", "episode", "step")}  # type: ignore[literal-required]


def with_placeholders(sample: Sample, replaced: Collection[str], title: str) -> list[dict[str, str]]:
    """Return the turns of a sample with text as content, in which `IMAGE` stands for each image.

    Args:
        sample: the sample.
        replaced: what the trainer replaces in texts by media or objects.
        title: name of the trainer.

    Raises:
        UserError: a text of the sample has one of ``replaced``.
    """
    return [{"role": turn["role"], "content": _joined(turn, sample, replaced, title)} for turn in sample["messages"]]


def _joined(turn: Turn, sample: Sample, replaced: Collection[str], title: str) -> str:
    parts = []
    for part in turn["content"]:
        if part["type"] == "image":
            parts.append(IMAGE)
            continue
        if found := next((word for word in replaced if word in part["text"]), None):
            raise UserError(
                f"{named(sample)}: its text contains {found}, which {title} replaces by something else; change the "
                "sample, or choose another format"
            )
        parts.append(part["text"])
    text = "".join(parts)
    if any(text.count(word) != parts.count(word) for word in replaced):
        raise UserError(f"{named(sample)}: pieces of its text join to a word that {title} replaces; change the sample")
    return text


def require_taking_turns(sample: Sample, title: str) -> None:
    """Check that user and assistant take turns, after at most one system turn.

    Raises:
        UserError: they do not.
    """
    roles = [turn["role"] for turn in sample["messages"] if turn["role"] != "system"]
    if roles != ["user", "assistant"] * (len(roles) // 2):
        raise UserError(
            f"{named(sample)}: its turns are {', '.join(roles)}; {title} leaves out samples in which user and "
            "assistant do not take turns. Join turns of the same role, or choose another format"
        )


def named(sample: Sample) -> str:
    """Return a sample's name for messages."""
    return f"sample {shown(sample['id'])} of user {sample['user']}"

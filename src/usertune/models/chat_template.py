"""Check how a chat template renders conversations, before any training or prediction. Needs no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import Any, NoReturn

import jinja2
from jinja2 import meta, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from usertune.core.errors import UserError, shown
from usertune.models.family import Markers

# The template variable that switches thinking on or off, in models that can do both.
SWITCH = "enable_thinking"
THINKING_BEGINS, THINKING_ENDS = "<think>", "</think>"

Messages = Sequence[Mapping[str, Any]]


def _turn(role: str, *parts: str) -> dict[str, Any]:
    return {"role": role, "content": [{"type": "text", "text": part} if part else {"type": "image"} for part in parts]}


QUESTION = _turn("user", "", "Where is the mail icon?")
ANSWER = "```grounding\n[311, 541]\n```"
# Conversations to try. A template may refuse any but the first by raising an error.
SHAPES = {
    "a question and its answer": [QUESTION, _turn("assistant", ANSWER)],
    "a system turn": [_turn("system", "You are helpful."), QUESTION, _turn("assistant", ANSWER)],
    "several turns": [QUESTION, _turn("assistant", "There."), QUESTION, _turn("assistant", ANSWER)],
    "an answer between line breaks": [QUESTION, _turn("assistant", f"\n{ANSWER}\n")],
}
# Tried too if thinking is on.
THOUGHTS = {
    "an answer with a thought": [QUESTION, _turn("assistant", f"<think>\nAbove.\n</think>\n\n{ANSWER}")],
}


class ChatTemplate:
    """A chat template, rendered as transformers renders it.

    Args:
        text: the template (Jinja).
        markers: how templates of the model's family mark turns and images.
        special_tokens: ``bos_token`` and the like, which a template may use.

    Raises:
        UserError: the template is not valid Jinja.
    """

    def __init__(self, text: str, markers: Markers, special_tokens: Mapping[str, str] | None = None) -> None:
        self.text = text
        self.markers = markers
        self.special_tokens = dict(special_tokens or {})
        self._environment = _environment()
        try:
            self._template = self._environment.from_string(text)
        except jinja2.TemplateError as error:
            _refuse(f"it is not a valid template ({error})")

    @cached_property
    def has_switch(self) -> bool:
        """Whether the template can switch thinking on and off."""
        return SWITCH in meta.find_undeclared_variables(self._environment.parse(self.text))

    def variables(self, thinking: bool | None) -> dict[str, bool]:
        """Return the template variables for a study's ``base_model.thinking``."""
        return {SWITCH: thinking} if self.has_switch and thinking is not None else {}

    def render(self, messages: Messages, add_generation_prompt: bool, thinking: bool | None = None) -> str:
        """Return the text of a conversation.

        Raises:
            jinja2.TemplateError: the template refuses the conversation or fails.
        """
        return self._template.render(
            messages=messages,
            tools=None,
            documents=None,
            add_generation_prompt=add_generation_prompt,
            **self.special_tokens,
            **self.variables(thinking),
        )

    def check(self, thinking: bool | None) -> dict[str, Any]:
        """Check that each prompt is the beginning of its training text, and that ``base_model.thinking`` fits.

        Args:
            thinking: the study's ``base_model.thinking``.

        Returns:
            ``generation_prompt`` (the end of a prompt, where the answer's turn begins), ``thinking`` (whether thoughts
            precede an answer) and ``refused`` (names of the conversations that the template refuses).

        Raises:
            UserError: a prompt is not a prefix of its conversation, the template drops something, or
                ``base_model.thinking`` does not fit the template.
        """
        begin = self._generation_prompt(thinking)
        is_thinking = self._check_thinking(begin, thinking)
        shapes = {**SHAPES, **(THOUGHTS if is_thinking else {})}
        refused = [name for name, messages in shapes.items() if not self._check_shape(name, messages, thinking)]
        return {"generation_prompt": begin, "thinking": is_thinking, "refused": refused}

    def _generation_prompt(self, thinking: bool | None) -> str:
        try:
            prompt = self.render([QUESTION], add_generation_prompt=True, thinking=thinking)
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            _refuse(f"it refuses a question with an image ({error})")
        marks = self.markers
        before, start, begin = prompt.rpartition(marks.turn_start)
        if not start or not begin.startswith(marks.answer_header):
            end = f"{marks.turn_start}{marks.answer_header}"
            _refuse(f"its prompt must end with {end!r}, but ends with {shown(prompt[-40:])}")
        if before.count(marks.image) != 1:
            _refuse(f"the prompt of a question with one image has {before.count(marks.image)} {marks.image}")
        return start + begin

    def _check_thinking(self, begin: str, thinking: bool | None) -> bool:
        opened = begin.rpartition(THINKING_BEGINS)[2]
        opens = THINKING_BEGINS in begin and THINKING_ENDS not in opened
        if thinking is None and (opens or self.has_switch):
            off = ", or false for no thoughts" if self.has_switch else ""
            raise UserError(
                "base_model.thinking: this model thinks before it answers; set true (each answer then begins with "
                f"thoughts, and evaluation.max_new_tokens needs room for them){off}; or use a model that does not "
                "think (Instruct)"
            )
        if thinking and not (opens or self.has_switch):
            raise UserError(
                "base_model.thinking is true, but the model's chat template has no thinking; remove the key"
            )
        if thinking is False and opens:
            raise UserError(
                "base_model.thinking is false, but the model's chat template begins every answer with "
                f"{shown(begin)} and has no switch {SWITCH}; set true, or use a model that does not think (Instruct)"
            )
        return bool(thinking)

    def _check_shape(self, name: str, messages: Messages, thinking: bool | None) -> bool:
        """Check one conversation; return False if the template refuses it."""
        try:
            prompt = self.render(messages[:-1], add_generation_prompt=True, thinking=thinking)
            text = self.render(messages, add_generation_prompt=False, thinking=thinking)
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            if name == next(iter(SHAPES)):
                _refuse(f"it refuses {name} ({error})")
            return False
        if difference := prompt_difference(prompt, text):
            _refuse(f"with {name}, {difference}")
        rest = text[len(prompt) :]
        answer, end, _ = rest.partition(self.markers.turn_end)
        if not end:
            _refuse(f"with {name}, the answer does not end with {self.markers.turn_end}: {shown(rest[-40:])}")
        if ANSWER not in answer:
            _refuse(f"with {name}, the training text changes the answer: {shown(answer)}")
        return True


def prompt_difference(prompt: str, whole: str) -> str:
    """Say where a prompt differs from the beginning of its training text ``whole``; "" if it does not."""
    if whole.startswith(prompt):
        return ""
    position = next(
        (number for number, (asked, trained) in enumerate(zip(prompt, whole, strict=False)) if asked != trained),
        min(len(prompt), len(whole)),
    )
    begin = max(0, position - 30)
    return (
        f"training and prediction have different prompts: {shown(whole[begin : position + 40])} in training, "
        f"{shown(prompt[begin : position + 40])} in prediction"
    )


def _refuse(problem: str) -> NoReturn:
    raise UserError(
        f"base_model: the model's chat template cannot be used: {problem}. Use the one on the model's own hub page"
    )


class _Generation(Extension):
    """The ``generation`` block, in which templates mark the model's own text; here it has no effect."""

    tags = {"generation"}  # noqa: RUF012 (jinja2's own form)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> ImmutableSandboxedEnvironment:
    """Return a Jinja environment like that of transformers (``utils/chat_template_utils.py``)."""

    def raise_exception(message: str) -> NoReturn:
        raise jinja2.TemplateError(message)

    def to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **more: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **more)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment

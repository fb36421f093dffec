"""A prompt is the beginning of its training text, or the chat template is refused by name."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from tests.support.calls import NO_LIMITS
from tests.support.chat_templates import HYBRID, INSTRUCT, QWEN3_5, QWEN3_5_SMALL, THINKING
from tests.unit.conftest import BASE, Prepared
from usertune.core.errors import UserError
from usertune.core.manifest import read_result
from usertune.models.base_model import describe_base_model
from usertune.models.chat_template import SHAPES, THOUGHTS, ChatTemplate
from usertune.models.conversation import ConversationTokenizer
from usertune.models.families.catalogue import family_of
from usertune.models.loading import load_processor
from usertune.models.model_folder import ModelFolder
from usertune.models.recipe import BaseModelRecipe

MARKERS = family_of(BASE).markers
# A template for training; it marks the model's turns.
MARKED = INSTRUCT.replace(
    "{{- render(message.content) -}}", "{%- generation -%}{{- render(message.content) -}}{%- endgeneration -%}"
)
WORKING = {
    "instruct": INSTRUCT,
    "thinking": THINKING,
    "hybrid": HYBRID,
    "qwen3.5": QWEN3_5,
    "qwen3.5, small": QWEN3_5_SMALL,
    "marked": MARKED,
}
PROMPT = "{{- '<|im_start|>assistant\\n' -}}"


def _opening(text: str) -> str:
    """Return the demo's template with more text at the end of its prompt alone."""
    assert INSTRUCT.count(PROMPT) == 1
    return INSTRUCT.replace(PROMPT, PROMPT.replace("assistant\\n", f"assistant\\n{text}"))


@pytest.mark.parametrize("template", WORKING.values(), ids=WORKING)
@pytest.mark.parametrize("thinking", [None, True, False])
@pytest.mark.parametrize("asked", [True, False])
def test_templates_are_rendered_as_transformers_renders_them(template: str, thinking: bool | None, asked: bool) -> None:
    own = ChatTemplate(template, MARKERS)
    for messages in (*SHAPES.values(), *THOUGHTS.values()):
        found = own.render(messages, asked, thinking)
        more = {} if thinking is None else {"enable_thinking": thinking}
        (expected,), _ = render_jinja_template([messages], chat_template=template, add_generation_prompt=asked, **more)
        assert found == expected


@pytest.mark.parametrize(
    ("template", "thinking", "begin"),
    [
        (INSTRUCT, None, "<|im_start|>assistant\n"),
        (INSTRUCT, False, "<|im_start|>assistant\n"),
        (MARKED, None, "<|im_start|>assistant\n"),
        (THINKING, True, "<|im_start|>assistant\n<think>\n"),
        (HYBRID, True, "<|im_start|>assistant\n"),
        (HYBRID, False, "<|im_start|>assistant\n<think>\n\n</think>\n\n"),
        *((template, True, "<|im_start|>assistant\n<think>\n") for template in (QWEN3_5, QWEN3_5_SMALL)),
        *((template, False, "<|im_start|>assistant\n<think>\n\n</think>\n\n") for template in (QWEN3_5, QWEN3_5_SMALL)),
    ],
)
def test_templates_that_fit_pass(template: str, thinking: bool | None, begin: str) -> None:
    found = ChatTemplate(template, MARKERS).check(thinking)
    assert found == {"generation_prompt": begin, "thinking": bool(thinking), "refused": []}


def test_a_form_of_conversation_may_be_refused_by_the_template_itself() -> None:
    template = "{%- if messages[0].role == 'system' %}{{- raise_exception('no system turn') }}{% endif %}" + INSTRUCT
    assert ChatTemplate(template, MARKERS).check(None)["refused"] == ["a system turn"]


ANSWERS = "{{- render(message.content) -}}\n{%- endif -%}"


@pytest.mark.parametrize(
    ("template", "thinking", "message"),
    [
        (
            _opening("<think>\\n"),
            True,
            r"with a question and its answer, training and prediction have .*: '.*gro.*<think>\\n' in prediction",
        ),
        (_opening("Sure: "), None, r"'.*assistant\\nSure: ' in prediction"),
        (THINKING, None, r"^base_model\.thinking: .*set true .*room for them\); or use a model that does not think"),
        (HYBRID, None, r"^base_model\.thinking: .*room for them\), or false for no thoughts; or use"),
        (QWEN3_5, None, r"^base_model\.thinking: .*room for them\), or false for no thoughts; or use"),
        (QWEN3_5_SMALL, None, r"^base_model\.thinking: .*room for them\), or false for no thoughts; or use"),
        (THINKING, False, r"^base_model\.thinking is false, but .* has no switch enable_thinking; set true"),
        (INSTRUCT, True, r"^base_model\.thinking is true, but the model's chat template has no thinking"),
        ("{% if %}", None, "it is not a valid template"),
        ("{{ messages[0].nothing.here }}", None, "it refuses a question with an image"),
        ("{{ messages[0].content }}", None, r"its prompt must end with '<\|im_start\|>assistant\\n'"),
        (INSTRUCT.replace("<|image_pad|>", ""), None, r"a question with one image has 0 <\|image_pad\|>"),
        (
            INSTRUCT.replace("{{- '<|im_end|>\\n' -}}", "{{- '\\n' -}}"),
            None,
            r"the answer does not end with <\|im_end\|>",
        ),
        (
            INSTRUCT.replace("{{- part.text -}}", "{{- part.text|upper -}}"),
            None,
            "the training text changes the answer: '```GROUNDING",
        ),
    ],
)
def test_templates_that_do_not_fit_are_refused(template: str, thinking: bool | None, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        ChatTemplate(template, MARKERS).check(thinking)
    assert str(caught.value).startswith(
        ("base_model.thinking", "base_model: the model's chat template cannot be used: ")
    )


def test_the_template_is_the_one_that_the_processor_uses(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(BASE, tmp_path / "base"))
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(
        json.dumps({**tokenizer, "chat_template": f"{INSTRUCT}{{# tokenizer #}}"})
    )

    def same() -> str:
        found = ModelFolder(folder).chat_template()
        assert found == load_processor(folder, NO_LIMITS).chat_template
        return str(found)

    assert same() == INSTRUCT
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": f"{INSTRUCT}{{# legacy #}}"}))
    assert "legacy" in same()
    (folder / "chat_template.json").unlink()
    (folder / "chat_template.jinja").unlink()
    assert "tokenizer" in same()


def _conversations(folder: Path, template: str, thinking: bool | None) -> ConversationTokenizer:
    shutil.copytree(BASE, folder)
    (folder / "chat_template.jinja").write_text(template)
    return ConversationTokenizer(load_processor(folder, NO_LIMITS), family_of(folder), thinking)


@pytest.mark.parametrize(
    ("template", "thinking", "before", "thought", "labelled"),
    [
        (THINKING, True, "assistant\n<think>\n", "", "\n</think>\n\n{}<|im_end|>\n"),
        (THINKING, True, "assistant\n<think>\n", "<think>\nAbove.\n</think>\n\n", "Above.\n</think>\n\n{}<|im_end|>\n"),
        (HYBRID, True, "assistant\n", "", "<think>\n\n</think>\n\n{}<|im_end|>\n"),
        (HYBRID, False, "assistant\n<think>\n\n</think>\n\n", "", "{}<|im_end|>\n"),
        (
            QWEN3_5,
            True,
            "assistant\n<think>\n",
            "<think>\nAbove.\n</think>\n\n",
            "Above.\n</think>\n\n{}<|im_end|>\n",
        ),
        (QWEN3_5, False, "assistant\n<think>\n\n</think>\n\n", "", "{}<|im_end|>\n"),
        (INSTRUCT, None, "assistant\n", "\n\n", "\n\n{}<|im_end|>\n"),
    ],
)
def test_a_model_is_trained_on_what_follows_its_prompt(
    prepared: Prepared, tmp_path: Path, template: str, thinking: bool | None, before: str, thought: str, labelled: str
) -> None:
    conversations = _conversations(tmp_path / "base", template, thinking)
    (sample,) = prepared.samples("11")[:1]
    (part,) = sample["messages"][-1]["content"]
    answer = part["text"]
    part["text"] = thought + answer
    prompt, whole = conversations.prompt(sample), conversations.conversation(sample)
    assert whole.input_ids[: len(prompt)] == prompt
    assert whole.is_answer == [False] * len(prompt) + [True] * (len(whole.input_ids) - len(prompt))
    decode = conversations.tokenizer.decode
    assert decode(prompt).endswith(f"<|im_start|>{before}")
    assert decode(whole.input_ids[len(prompt) :]) == labelled.format(answer)


def test_a_sample_whose_prompt_would_be_another_is_refused(prepared: Prepared, tmp_path: Path) -> None:
    conversations = _conversations(tmp_path / "base", _opening("<think>\\n"), None)
    (sample,) = prepared.samples("11")[:1]
    with pytest.raises(UserError, match=r"sample '.*' of user 11: training and prediction have different"):
        conversations.conversation(sample)


def test_the_step_records_the_template_and_refuses_it_without_torch(tmp_path: Path) -> None:
    recipe = BaseModelRecipe(step="base_model", path=str(BASE), pixels=NO_LIMITS)
    describe_base_model(recipe, tmp_path / "manifest.json")
    checked = {"generation_prompt": "<|im_start|>assistant\n", "thinking": False, "refused": []}
    assert read_result(tmp_path / "manifest.json")["chat_template"] == checked
    folder = Path(shutil.copytree(BASE, tmp_path / "base"))
    (folder / "chat_template.jinja").write_text(THINKING)
    recipe = BaseModelRecipe(step="base_model", path=str(folder), pixels=NO_LIMITS)
    with pytest.raises(UserError, match="thinks before it answers"):
        describe_base_model(recipe, tmp_path / "manifest.json")
    thinking = recipe.model_copy(update={"thinking": True}).text()
    program = (
        "import sys; from usertune.models.base_model import describe_base_model; "
        "from usertune.models.recipe import BaseModelRecipe; "
        f"describe_base_model(BaseModelRecipe.parse({thinking!r}), {str(tmp_path / 'manifest.json')!r}); "
        "assert not {'torch', 'transformers'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
    assert read_result(tmp_path / "manifest.json")["chat_template"]["thinking"] is True

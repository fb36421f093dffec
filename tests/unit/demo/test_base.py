"""The demo's base model: tokenizer and template, the committed weights, the program that makes it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoProcessor, Qwen3VLForConditionalGeneration, Qwen3VLProcessor

from usertune.core.errors import UserError
from usertune.demo.base import SPECIAL_TOKENS, build_model, build_processor
from usertune.demo.pretraining import generic_accuracy, model_card, pretrain, question
from usertune.demo.screens import HEIGHT, PROMPT, WIDTH, generic_command, generic_screen, reference_answer
from usertune.demo.styles import APPS, NEW_WORDINGS
from usertune.demo.teaching import _Texts

ROOT = Path(__file__).parents[3]
BASE = ROOT / "demo" / "base"


@pytest.fixture(scope="module")
def processor() -> Qwen3VLProcessor:
    return AutoProcessor.from_pretrained(BASE)


@pytest.fixture(scope="module")
def model() -> Qwen3VLForConditionalGeneration:
    return Qwen3VLForConditionalGeneration.from_pretrained(BASE)


@pytest.fixture(scope="module")
def briefly_trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    command = [
        sys.executable,
        "-P",
        "-m",
        "usertune",
        "demo",
        "pretrain",
        str(folder),
        "--seed",
        "5",
        "--steps-scale",
        "0.001",
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def test_text_survives_the_tokenizer(processor: Qwen3VLProcessor) -> None:
    for text in ("show me Mail", "Öffne 微信 №7\n\n", reference_answer(generic_screen(1, _rng()).icons[0])):
        assert processor.tokenizer.decode(processor.tokenizer(text).input_ids) == text


def test_digits_are_single_tokens(processor: Qwen3VLProcessor) -> None:
    tokens = processor.tokenizer("[340, 1000]").input_ids
    assert [processor.tokenizer.decode([token]) for token in tokens] == list("[340, 1000]")


def test_special_tokens_are_whole_and_have_their_roles(processor: Qwen3VLProcessor) -> None:
    tokenizer = processor.tokenizer
    for token in SPECIAL_TOKENS:
        assert tokenizer(token).input_ids == [tokenizer.convert_tokens_to_ids(token)]
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")
    assert len(tokenizer) <= 440


def test_words_of_the_demo_are_short(processor: Qwen3VLProcessor) -> None:
    for app in APPS:
        assert len(processor.tokenizer(f" {app}").input_ids) == 1
    for wording in NEW_WORDINGS:
        assert len(processor.tokenizer(f": {wording} Mail").input_ids) <= 5


def test_the_template_has_the_real_structure(processor: Qwen3VLProcessor) -> None:
    image, text = {"type": "image", "image": "a.png"}, {"type": "text", "text": "Where?"}
    messages = [
        {"role": "system", "content": [image, {"type": "text", "text": "Be brief."}]},
        {"role": "user", "content": [image, text]},
    ]
    prompt = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert prompt == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>Where?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    answered = [*messages, {"role": "assistant", "content": "Here."}]
    assert processor.apply_chat_template(answered, tokenize=False) == prompt + "Here.<|im_end|>\n"


def test_the_prompt_is_a_token_prefix_of_the_answered_conversation(processor: Qwen3VLProcessor) -> None:
    screen = generic_screen(3, _rng())
    asked = question(screen, "tap it")
    answered = [*asked, {"role": "assistant", "content": reference_answer(screen.icons[0])}]
    prompt = _tokens(processor, asked, add_generation_prompt=True)
    whole = _tokens(processor, answered)
    assert whole[: len(prompt)] == prompt
    header = processor.tokenizer("<|im_start|>assistant\n").input_ids
    assert prompt[-len(header) :] == header


def test_a_screen_is_one_token_a_cell(processor: Qwen3VLProcessor) -> None:
    inputs = processor.apply_chat_template(
        question(generic_screen(3, _rng()), "tap it"), tokenize=True, return_dict=True, return_tensors="pt"
    )
    assert inputs["image_grid_thw"].tolist() == [[1, HEIGHT // 16, WIDTH // 16]]
    assert (inputs["input_ids"] == processor.image_token_id).sum() == 15
    assert inputs["pixel_values"].abs().max() <= 1


def test_training_texts_equal_the_template(processor: Qwen3VLProcessor) -> None:
    screen = generic_screen(4, _rng())
    command, answer = "tap the red circle", reference_answer(screen.icons[0])
    tokens, labels = _Texts(processor).encode([(command, answer)])
    whole = _tokens(processor, [*question(screen, command), {"role": "assistant", "content": answer}])
    assert tokens[0].tolist() == whole
    assert processor.tokenizer.decode(labels[0][labels[0] >= 0]) == answer + "<|im_end|>\n"


def test_the_processor_is_built_the_same_every_time() -> None:
    first, second = build_processor().tokenizer, build_processor().tokenizer
    assert first.backend_tokenizer.to_str() == second.backend_tokenizer.to_str()


def test_a_seed_decides_the_initial_weights() -> None:
    first, again, other = (build_model(build_processor(), seed) for seed in (1, 1, 2))
    name = "model.language_model.layers.0.mlp.up_proj.weight"
    assert torch.equal(first.get_parameter(name), again.get_parameter(name))
    assert not torch.equal(first.get_parameter(name), other.get_parameter(name))


def test_the_committed_base_is_small_and_complete() -> None:
    assert sum(path.stat().st_size for path in BASE.iterdir()) < 10e6
    model, report = Qwen3VLForConditionalGeneration.from_pretrained(BASE, output_loading_info=True)
    assert not any(report.values()), report
    assert all(weight.isfinite().all() for weight in load_file(BASE / "model.safetensors").values())
    record = json.loads((BASE / "pretraining.json").read_text())
    assert record["steps_scale"] == 1
    assert record["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert (BASE / "README.md").read_text() == model_card(record)


def test_the_committed_processor_is_the_built_one(processor: Qwen3VLProcessor) -> None:
    built = build_processor()
    assert processor.tokenizer.get_vocab() == built.tokenizer.get_vocab()
    assert processor.chat_template == built.chat_template


def test_the_committed_base_answers_in_the_reference_format(
    model: Qwen3VLForConditionalGeneration, processor: Qwen3VLProcessor
) -> None:
    rng = _rng()
    screen = generic_screen(6, rng)
    inputs = processor.apply_chat_template(
        question(screen, generic_command(screen.icons[0], rng)),
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    output = model.generate(**inputs, max_new_tokens=32, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert output[-1] == processor.tokenizer.eos_token_id
    answer = processor.decode(output, skip_special_tokens=True)
    assert re.fullmatch(r"```referring\n[a-z]+ [a-z]+\n```\n```grounding\n\[\d+, \d+\]\n```", answer)


def test_the_committed_base_finds_icons_on_fresh_screens(
    model: Qwen3VLForConditionalGeneration, processor: Qwen3VLProcessor
) -> None:
    accuracy = generic_accuracy(model, processor, np.random.default_rng(987), 100)
    recorded = json.loads((BASE / "pretraining.json").read_text())["held_out"]["accuracy"]
    assert accuracy > 0.7
    assert abs(accuracy - recorded) < 0.15


def test_the_program_makes_a_model_that_loads(briefly_trained: Path) -> None:
    _, report = Qwen3VLForConditionalGeneration.from_pretrained(briefly_trained, output_loading_info=True)
    assert not any(report.values()), report
    assert AutoProcessor.from_pretrained(briefly_trained).tokenizer.eos_token == "<|im_end|>"
    record = json.loads((briefly_trained / "pretraining.json").read_text())
    assert record["seed"] == 5
    assert record["packages"]["torch"] == torch.__version__.split("+")[0]
    assert 0 <= record["held_out"]["accuracy"] <= 1
    assert "--seed 5" in (briefly_trained / "README.md").read_text()


def test_training_moves_vision_and_language(briefly_trained: Path) -> None:
    trained = Qwen3VLForConditionalGeneration.from_pretrained(briefly_trained)
    untrained = build_model(build_processor(), 5)
    for name in ("visual.patch_embed.proj.weight", "language_model.layers.2.mlp.up_proj.weight"):
        assert not torch.equal(trained.get_parameter(f"model.{name}"), untrained.get_parameter(f"model.{name}"))


@pytest.mark.parametrize(("seed", "scale"), [(-1, 1.0), (0, 0.0), (0, float("nan")), (0, 11.0)])
def test_bad_arguments_are_refused(tmp_path: Path, seed: int, scale: float) -> None:
    with pytest.raises(UserError):
        pretrain(tmp_path / "new", seed, scale)
    assert not (tmp_path / "new").exists()


def test_the_prompt_names_its_coordinates() -> None:
    assert "0-1000" in PROMPT


def _rng() -> np.random.Generator:
    return np.random.default_rng(12)


def _tokens(processor: Qwen3VLProcessor, messages: list[dict], **options: bool) -> list[int]:
    inputs = processor.apply_chat_template(messages, tokenize=True, return_dict=True, return_tensors="pt", **options)
    return inputs["input_ids"][0].tolist()

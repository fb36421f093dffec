"""Answers in batches are the answers one at a time, also when memory runs out."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.support.calls import NO_LIMITS
from tests.support.nvml import StandInNvml
from tests.unit.conftest import BASE, Prepared
from usertune.core.clock import utc_now
from usertune.core.errors import LackOfMemoryError, UserError
from usertune.data.samples import Sample
from usertune.inference.engine import EngineSettings
from usertune.inference.engines.transformers import TransformersEngine
from usertune.inference.prediction_store import Prediction
from usertune.inference.questions import questions_of
from usertune.models.base_model import describe_base_model
from usertune.models.conversation import ConversationTokenizer
from usertune.models.families.catalogue import family_of
from usertune.models.loading import load_processor
from usertune.models.recipe import BaseModelRecipe
from usertune.tasks.points.forms import read


def _generator(prepared: Prepared, max_new_tokens: int = 48) -> TransformersEngine:
    settings = EngineSettings(BASE, "vanilla", None, "float32", NO_LIMITS, prepared.root, max_new_tokens)
    return TransformersEngine(settings)


def _uneven(prepared: Prepared) -> list[Sample]:
    """Return samples with prompts of different lengths."""
    samples = prepared.samples("1", "2")
    for number, sample in enumerate(samples):
        sample["messages"][0]["content"][1]["text"] += " please" * number
    return samples


def _answers(generator: TransformersEngine, samples: Sequence[Sample], batch_size: int) -> dict[str, Prediction]:
    pairs = [pair for batch in generator.answer(questions_of(samples), batch_size) for pair in batch]
    assert sorted(question.sample["id"] for question, _ in pairs) == sorted(sample["id"] for sample in samples)
    return {question.sample["id"]: prediction for question, prediction in pairs}


def test_batches_give_the_answers_of_one_at_a_time(prepared: Prepared) -> None:
    generator, samples = _generator(prepared), _uneven(prepared)
    assert len({len(generator.conversations.prompt(sample)) for sample in samples}) > 3
    alone = _answers(generator, samples, 1)
    assert _answers(generator, samples, 4) == alone
    assert _answers(generator, samples, 10) == alone


def test_answers_say_how_many_were_generated_at_once_at_most(prepared: Prepared, monkeypatch: Any) -> None:
    _limit_memory(monkeypatch, 3, torch.OutOfMemoryError("CUDA out of memory"))
    answers = _answers(_generator(prepared), _uneven(prepared), 10)
    assert {answer.batch_size for answer in answers.values()} == {3}


def test_answers_end_at_the_end_of_the_turn(prepared: Prepared) -> None:
    for answer in _answers(_generator(prepared), prepared.samples("1"), 5).values():
        assert answer.stopped
        assert answer.provenance == "", "engines leave it to prediction"
        assert "<|" not in answer.text
        assert 1 < answer.new_tokens <= 48


END, OTHER_END = "<|im_end|>", "<|endoftext|>"


def _ending_otherwise(folder: Path, ends: Any) -> Path:
    """Copy the base model; the copy gives the same answers, but ends them with the other token."""
    shutil.copytree(BASE, folder)
    tokens = ConversationTokenizer(load_processor(folder, NO_LIMITS), family_of(folder)).tokenizer.get_vocab()
    weights = load_file(folder / "model.safetensors")
    head = weights["model.language_model.embed_tokens.weight"].clone()
    head[[tokens[END], tokens[OTHER_END]]] = head[[tokens[OTHER_END], tokens[END]]]
    save_file({**weights, "lm_head.weight": head}, folder / "model.safetensors", {"format": "pt"})
    for name, key, value in (
        ("config.json", "tie_word_embeddings", False),
        ("generation_config.json", "eos_token_id", [tokens[end] for end in ends] if ends else tokens[OTHER_END]),
    ):
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**content, key: value}))
    return folder


@pytest.mark.parametrize("ends", [(OTHER_END, END), (END, OTHER_END), (OTHER_END,), None])
def test_the_base_models_own_ends_end_an_answer(prepared: Prepared, tmp_path: Path, ends: Any) -> None:
    samples = prepared.samples("1", "2")
    base = _ending_otherwise(tmp_path / "base", ends)
    generator = TransformersEngine(EngineSettings(base, "vanilla", None, "float32", NO_LIMITS, prepared.root, 48))
    found, expected = _answers(generator, samples, 4), _answers(_generator(prepared), samples, 4)
    assert all(answer.stopped for answer in found.values())
    assert found == expected


def test_other_ends_make_another_base_model(tmp_path: Path) -> None:
    # Answers are stored separately for each.
    found = set()
    for number, ends in enumerate([(OTHER_END, END), (END,)]):
        folder = _ending_otherwise(tmp_path / str(number), ends)
        recipe = BaseModelRecipe(step="base_model", path=str(folder), pixels=NO_LIMITS)
        found.add(describe_base_model(recipe, tmp_path / "manifest.json")["output"])
    assert len(found) == 2


def test_the_end_of_a_turn_ends_an_answer_whatever_the_base_model_says(prepared: Prepared, tmp_path: Path) -> None:
    base = Path(shutil.copytree(BASE, tmp_path / "base"))
    for content in ('{"eos_token_id": 413}', "{}", None):
        if content is None:
            (base / "generation_config.json").unlink()
        else:
            (base / "generation_config.json").write_text(content)
        generator = TransformersEngine(EngineSettings(base, "vanilla", None, "float32", NO_LIMITS, prepared.root, 48))
        found = _answers(generator, prepared.samples("1"), 5)
        assert found == _answers(_generator(prepared), prepared.samples("1"), 5)


def test_answers_that_are_cut_short_say_so(prepared: Prepared) -> None:
    samples = prepared.samples("1")
    whole, short = (_answers(_generator(prepared, limit), samples, 5) for limit in (48, 5))
    for name, answer in short.items():
        assert (answer.new_tokens, answer.stopped) == (5, False)
        assert whole[name].text.startswith(answer.text)


def _limit_memory(monkeypatch: pytest.MonkeyPatch, most: int, error: Exception) -> list[int]:
    """Make batches of more than ``most`` samples run out of memory, and record all batch sizes."""
    sizes = []

    def answer(self: TransformersEngine, batch: Any, images: Any) -> list[Prediction]:
        sizes.append(len(batch.samples))
        if len(batch.samples) > most:
            raise error
        return [Prediction(sample["id"], 1, True) for sample in batch.samples]

    monkeypatch.setattr(TransformersEngine, "_answer_batch", answer)
    return sizes


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        MemoryError(),
    ],
)
def test_the_batch_is_halved_when_memory_runs_out(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    sizes = _limit_memory(monkeypatch, 3, error)
    answers = _answers(_generator(prepared), _uneven(prepared), 10)
    assert all(answer.text == name for name, answer in answers.items())
    assert sizes == [10, 5, 3, 3, 3, 1]


def test_every_answer_carries_its_share_of_its_batch(prepared: Prepared) -> None:
    generator = _generator(prepared)
    started, before = time.monotonic(), utc_now()
    answers = list(_answers(generator, _uneven(prepared), 4).values())
    taken = time.monotonic() - started
    assert {before <= str(answer.at) <= utc_now() for answer in answers} == {True}
    seconds = [answer.seconds for answer in answers if answer.seconds]
    assert len(seconds) == len(answers)
    assert 0.2 * taken < sum(seconds) < taken


def test_answers_share_the_energy_of_their_batch(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = _generator(prepared, 4)
    assert {answer.joules for answer in _answers(generator, prepared.samples("1"), 5).values()} == {None}
    monkeypatch.setitem(sys.modules, "pynvml", StandInNvml({"GPU-a": 0}, step=6_000))
    monkeypatch.setattr("usertune.inference.engines.transformers.used_gpus", lambda: ["GPU-a"])
    assert {answer.joules for answer in _answers(generator, prepared.samples("1")[:3], 3).values()} == {2}


def test_a_sample_that_does_not_fit_alone_is_named(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    _limit_memory(monkeypatch, 0, torch.OutOfMemoryError("CUDA out of memory"))
    longest = _uneven(prepared)[-1]["id"]
    with pytest.raises(UserError, match=rf"sample {longest} \(\d+ tokens\) does not fit"):
        list(_generator(prepared).answer(questions_of(_uneven(prepared)), 2))


def test_a_model_that_does_not_fit_is_reported_as_such(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr("usertune.inference.engines.transformers.load_for_prediction", load)
    with pytest.raises(LackOfMemoryError, match=r"while loading the model \(CUDA out of memory\. Tried"):
        _generator(prepared)


def test_another_error_is_not_taken_for_a_lack_of_memory(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    _limit_memory(monkeypatch, 0, RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes do not match"):
        list(_generator(prepared).answer(questions_of(_uneven(prepared)), 2))


@pytest.mark.parametrize(("opened", "reason"), [("<think>\\n", "unfinished_thinking"), ("<think>\\n</think>\\n", None)])
def test_a_thought_that_the_prompt_opens_is_part_of_the_answer(
    prepared: Prepared, tmp_path: Path, opened: str, reason: str | None
) -> None:
    base = tmp_path / "base"
    shutil.copytree(BASE, base)
    template = base / "chat_template.jinja"
    begin = "if add_generation_prompt -%}{{- '<|im_start|>assistant\\n"
    assert begin in template.read_text()
    template.write_text(template.read_text().replace(begin, begin + opened))
    generator = TransformersEngine(EngineSettings(base, "vanilla", None, "float32", NO_LIMITS, prepared.root, 3))
    (answer, *_) = _answers(generator, prepared.samples("1"), 5).values()
    assert answer.text.startswith("<think>\n") == (reason is not None)
    assert answer.new_tokens == 3
    assert reason in (None, read(answer.text).form)

"""Adapters on a server count only if it is seen to apply them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.support.calls import NO_LIMITS, predict, train
from tests.support.chat_server import ChatServer, completion
from tests.support.fold_training import train_on_folds
from tests.support.stand_in_vllm import BASE_NAME, StandInVllm
from tests.unit.conftest import BASE, LORA, Prepared
from usertune.core.errors import UserError
from usertune.core.manifest import read_result
from usertune.inference.engine import EngineSettings
from usertune.inference.engines.openai import OpenAIEngine
from usertune.inference.engines.transformers import TransformersEngine
from usertune.inference.questions import Question
from usertune.inference.server.adapters import adapter_name, max_rank, served_adapter
from usertune.inference.server.canary import NO_LOG_PROBABILITIES
from usertune.inference.server.options import ServerOptions
from usertune.models.families.catalogue import family_of
from usertune.models.loading import load_model, prepare_for_training
from usertune.models.recipe import LoraSettings

KEYS = ("1/1", "1/2")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two adapters that change answers, and one that is still zero."""
    out = tmp_path_factory.mktemp("adapters")
    found = {}
    for number, (key, size) in enumerate([*zip(KEYS, (0.02, 0.02), strict=True), ("zero", 0.0)]):
        adapted: Any = prepare_for_training(load_model(BASE, "float32"), LoraSettings(**LORA))
        torch.manual_seed(number)
        for name, value in adapted.named_parameters():
            if ".lora_B." in name:
                torch.nn.init.normal_(value)
                value.data *= size
        found[key] = out / str(number)
        adapted.save_pretrained(str(found[key]))
    return found


def names(folders: dict[str, Path]) -> dict[str, str]:
    return {key: adapter_name(folder) for key, folder in folders.items()}


@pytest.fixture
def start(folders: dict[str, Path]) -> Iterator[Callable[..., ChatServer]]:
    """Return a function that starts a stand-in with all adapters; ``ignored`` and ``swapped`` are keys."""
    opened: list[Any] = []

    def start(ignored: tuple[str, ...] = (), swapped: dict[str, str] | None = None) -> ChatServer:
        named = names(folders)
        served = {named[key]: folder for key, folder in folders.items()}
        others = {named[key]: named[other] for key, other in (swapped or {}).items()}
        stand_in = StandInVllm(BASE, served, tuple(named[key] for key in ignored), others)
        opened.append(stand_in.server().running())
        server: ChatServer = opened[-1].__enter__()
        return server

    yield start
    for context in opened:
        context.__exit__(None, None, None)


def engine(prepared: Prepared, server: ChatServer, folders: dict[str, Path], **options: Any) -> OpenAIEngine:
    settings = {"url": server.url, "model": BASE_NAME, "adapters": True, "retries": 0, **options}
    found = EngineSettings(BASE, "lora", None, "float32", NO_LIMITS, prepared.root, 16, None)
    return OpenAIEngine(replace(found, options=ServerOptions.model_validate(settings), adapters=folders))


def questions(prepared: Prepared, *keys: str) -> list[Question]:
    """Return five samples for each key."""
    samples = prepared.samples("1", "2")
    return [Question(samples[5 * number + count], key) for number, key in enumerate(keys) for count in range(5)]


def test_an_honest_server_answers_with_the_adapters_of_the_study(
    prepared: Prepared, folders: dict[str, Path], start: Callable[..., ChatServer]
) -> None:
    own = {key: folders[key] for key in KEYS}
    server = start()
    made, asked = engine(prepared, server, own), questions(prepared, *KEYS)
    effects = made.effects(asked)
    assert effects.keys() == set(KEYS)
    for effect in effects.values():
        assert effect["probes"] == 4
        assert effect["largest_change"] > 0.1
        assert effect["disagreement"] < effect["bound"] == 0.01
        assert effect["identical_answers"] == [4, 4]
    answers = {id(question): prediction for batch in made.answer(asked, 1) for question, prediction in batch}
    here = TransformersEngine(EngineSettings(BASE, "lora", None, "float32", NO_LIMITS, prepared.root, 16, adapters=own))
    expected = {id(question): prediction for batch in here.answer(asked, 5) for question, prediction in batch}
    assert [answers[id(question)].text for question in asked] == [expected[id(question)].text for question in asked]
    base = TransformersEngine(EngineSettings(BASE, "vanilla", None, "float32", NO_LIMITS, prepared.root, 16))
    plain = [
        own.text for batch in base.answer([replace(question, model="") for question in asked], 5) for _, own in batch
    ]
    assert sorted(plain) != sorted(prediction.text for prediction in answers.values())


def test_a_trained_experiment_is_predicted_by_a_server(prepared: Prepared, tmp_path: Path) -> None:
    trained = train(**prepared.train_arguments(tmp_path / "lora", prepared.train_recipe(learning_rate=0.05)))
    folder = tmp_path / "lora" / trained["weights_folder"]
    here = {**prepared.predict_arguments(tmp_path / "here"), "train_manifest": tmp_path / "lora" / "manifest.json"}
    there = {**prepared.predict_arguments(tmp_path / "there"), "train_manifest": tmp_path / "lora" / "manifest.json"}
    with StandInVllm(BASE, {adapter_name(folder): folder}).server().running() as server:
        there["recipe"] |= {"engine": "openai", "engine_settings": {"url": server.url, "model": BASE_NAME}}
        made = predict(**there, engine={"adapters": True})
    own = predict(**here)
    assert [row["text"] for row in made["predictions"]] == [row["text"] for row in own["predictions"]]
    assert made["model"] == own["model"]
    assert made["store_folder"] != own["store_folder"]
    effect = made["adapter_effect"]
    assert effect["identical_answers"] == [4, 4]
    assert effect["disagreement"] < effect["bound"] < effect["largest_change"]
    assert made["tokens"]["prompt"] > 0


def test_personal_adapters_on_a_fully_trained_model_are_predicted_by_a_server(
    prepared: Prepared, tmp_path: Path
) -> None:
    full = train(**prepared.train_arguments(tmp_path / "full", prepared.train_recipe("full", epochs=1)))
    started, personal = tmp_path / "full" / full["weights_folder"], tmp_path / "personal"
    weights = [
        train_on_folds(prepared, personal / f"users_{user}.json", [user], start=tmp_path / "full/manifest.json")
        for user in ("1", "2")
    ]
    folders = [personal / fold["weights_folder"] for own in weights for fold in read_result(own)["folds"].values()]
    found = {
        name: {
            **prepared.predict_arguments(tmp_path / name, users=("1", "2")),
            "train_manifest": None,
            "weights_manifests": weights,
            "start_manifest": tmp_path / "full" / "manifest.json",
        }
        for name in ("here", "there")
    }
    with StandInVllm(started, {adapter_name(folder): folder for folder in folders}).server().running() as server:
        found["there"]["recipe"] |= {"engine": "openai", "engine_settings": {"url": server.url, "model": BASE_NAME}}
        made = predict(**found["there"], engine={"adapters": True})
    own = predict(**found["here"])
    assert len(folders) == 4
    for key in ("model", "text"):
        assert [row[key] for row in made["predictions"]] == [row[key] for row in own["predictions"]]
    assert {body["model"] for body in server.requests} == {BASE_NAME, *map(adapter_name, folders)}
    assert (made["adapter_effect"]["adapters"], made["adapter_effect"]["identical_answers"]) == (4, [4, 4])
    # On the untrained base model, the same adapters are refused.
    other = {**found["there"], "store_folder": tmp_path / "other", "predictions_file": tmp_path / "other.json"}
    with StandInVllm(BASE, {adapter_name(folder): folder for folder in folders}).server().running() as server:
        other["recipe"]["engine_settings"]["url"] = server.url
        with pytest.raises(UserError, match="the base model: the server does not say what the same model says here"):
            predict(**other, engine={"adapters": True})


@pytest.mark.parametrize("canary", ["transformers", "server"])
def test_an_adapter_that_the_server_ignores_is_refused(
    prepared: Prepared, folders: dict[str, Path], start: Callable[..., ChatServer], canary: str
) -> None:
    made = engine(prepared, start(ignored=KEYS[1:]), folders, canary=canary)
    message = rf"{folders[KEYS[1]]}: the server lists it as adapter-\w+, but answers as its base model"
    with pytest.raises(UserError, match=message):
        made.effects(questions(prepared, *KEYS))


@pytest.mark.parametrize("canary", ["transformers", "server"])
def test_one_adapter_that_answers_for_two_is_refused(
    prepared: Prepared, folders: dict[str, Path], start: Callable[..., ChatServer], canary: str
) -> None:
    made = engine(prepared, start(swapped={KEYS[0]: KEYS[1]}), folders, canary=canary)
    with pytest.raises(UserError, match="the server answers with the same model for both"):
        made.effects(questions(prepared, *KEYS))


def test_exchanged_adapters_are_seen_by_comparing_with_this_process(
    prepared: Prepared, folders: dict[str, Path], start: Callable[..., ChatServer]
) -> None:
    server = start(swapped={KEYS[0]: KEYS[1], KEYS[1]: KEYS[0]})
    asked = questions(prepared, *KEYS)
    message = r"adapter-\w+: the server does not say what the same model says here: a log-probability of an answer's"
    with pytest.raises(UserError, match=message):
        engine(prepared, server, folders).effects(asked)
    # The server alone cannot show it.
    assert engine(prepared, server, folders, canary="server").effects(asked)[KEYS[0]].keys() == {
        "probes",
        "largest_change",
    }


def test_another_base_model_is_refused(
    prepared: Prepared, folders: dict[str, Path], start: Callable[..., ChatServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(folder: Any, *rest: Any, **settings: Any) -> Any:
        model = load_model(folder, *rest, **settings)
        with torch.no_grad():
            model.model.language_model.layers[0].mlp.down_proj.weight.mul_(1.5)
        return model

    monkeypatch.setattr("usertune.models.loading.load_model", load)
    with pytest.raises(UserError, match="the base model: the server does not say what the same model says here"):
        engine(prepared, start(), folders).effects(questions(prepared, KEYS[0]))


def test_images_of_another_size_are_seen(
    prepared: Prepared, folders: dict[str, Path], start: Callable[..., ChatServer]
) -> None:
    made = engine(prepared, start(), folders)
    made.messages._limits = {"min": 0, "max": 64 * 64, "token": 32 * 32}
    with pytest.raises(UserError, match=r"the server's prompt has other tokens than the same one here: \d+, not \d+"):
        made.effects(questions(prepared, KEYS[0]))


def test_an_adapter_that_is_still_zero_is_reported(
    prepared: Prepared, folders: dict[str, Path], start: Callable[..., ChatServer], caplog: pytest.LogCaptureFixture
) -> None:
    effects = engine(prepared, start(), folders).effects(questions(prepared, "zero"))
    assert effects["zero"]["largest_change"] == 0
    assert "the adapter is still all zero, so its answers are those of the base model" in caplog.text


def test_a_server_without_log_probabilities_cannot_answer_for_adapters(
    prepared: Prepared, folders: dict[str, Path]
) -> None:
    cards = [{"id": name} for name in names(folders).values()]
    pages = {"/v1/models": (200, {"data": cards})}
    with ChatServer(lambda _: (200, completion("a")), pages=dict(pages)).running() as server:
        with pytest.raises(UserError) as refused:
            engine(prepared, server, folders).effects(questions(prepared, KEYS[0]))
        assert NO_LOG_PROBABILITIES in str(refused.value)
        cards.pop(0)
        message = rf"{server.url} does not have this adapter, {adapter_name(folders[KEYS[0]])} \(of model 1/1\); its m"
        with pytest.raises(UserError, match=message):
            engine(prepared, server, folders)


def test_an_adapter_has_another_name_when_it_is_trained_again(folders: dict[str, Path], tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (copy / name).write_bytes((folders[KEYS[0]] / name).read_bytes())
    assert adapter_name(copy) == adapter_name(folders[KEYS[0]]) != adapter_name(folders[KEYS[1]])
    tensors = load_file(copy / "adapter_model.safetensors")
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, copy / "adapter_model.safetensors")
    assert adapter_name(copy) != adapter_name(folders[KEYS[0]])


@pytest.mark.parametrize(
    ("rename", "config", "message"),
    [
        # As written by a training of the language model alone (vLLM's issue 48019).
        (
            lambda name: name.replace("model.language_model.", "model."),
            {},
            "do not belong to a linear layer of the lan",
        ),
        (lambda name: name.replace("language_model.layers.0.mlp", "visual.blocks.0.mlp"), {}, "do not belong to a lin"),
        (lambda name: name.removeprefix("base_model.model."), {}, "do not belong to a linear layer"),
        (lambda name: name, {"use_dora": True}, "use_dora of its adapter_config.json is True"),
        (lambda name: name, {"modules_to_save": ["lm_head"]}, "modules_to_save of its adapter_config.json is"),
    ],
)
def test_an_adapter_that_a_server_would_ignore_is_refused_before_it_is_asked(
    folders: dict[str, Path], tmp_path: Path, rename: Callable[[str], str], config: dict[str, Any], message: str
) -> None:
    tensors = load_file(folders[KEYS[0]] / "adapter_model.safetensors")
    save_file({rename(name): tensor for name, tensor in tensors.items()}, tmp_path / "adapter_model.safetensors")
    settings = json.loads((folders[KEYS[0]] / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**settings, **config}))
    with pytest.raises(UserError, match=message):
        served_adapter(tmp_path, family_of(BASE))


def test_the_rank_is_one_that_vllm_knows(folders: dict[str, Path]) -> None:
    adapter = served_adapter(folders[KEYS[0]], family_of(BASE))
    assert (adapter.rank, max_rank([adapter])) == (LORA["rank"], 8)
    assert [max_rank([adapter, replace(adapter, rank=rank)]) for rank in (1, 9, 64, 400)] == [8, 16, 64, 512]
    with pytest.raises(UserError, match="its rank is 513; vLLM's largest is 512"):
        max_rank([replace(adapter, rank=513)])

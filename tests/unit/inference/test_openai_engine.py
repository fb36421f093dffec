"""A server answers: every sample is answered and stored once, whatever goes wrong in between."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.calls import predict
from tests.support.chat_server import ChatServer, Fault, completion, text_of
from tests.unit.conftest import Prepared
from usertune.core.errors import UserError
from usertune.core.hashing import digest
from usertune.core.manifest import read_result

KEY = "sk-geheim-1234567890"
MODELS = {"object": "list", "data": [{"id": "m", "owned_by": "vllm"}, {"id": "other", "owned_by": "vllm"}]}
# Predicts with the JSON argument, as the job does.
PREDICT = """
import json, sys
from pathlib import Path
arguments = json.loads(sys.argv.pop())
for key, value in arguments.items():
    if key.endswith("_manifests"):
        arguments[key] = [Path(item) for item in value]
    elif key.endswith(("base_manifest", "file", "folder", "root")):
        arguments[key] = Path(value)
from usertune.runtime import step_main
from tests.support.calls import predict
step_main.run(step_main.argument_parser("predict"), lambda _: predict(**arguments), [])
"""

Start = Callable[..., subprocess.Popen[str]]


def answer(body: Any) -> tuple[int, Any]:
    return 200, completion(f"to {digest(text_of(body))[:8]}", system_fingerprint="fp_1")


@pytest.fixture
def server() -> Iterator[ChatServer]:
    pages = {"/v1/models": (200, MODELS), "/version": (200, {"version": "0.99"})}
    with ChatServer(answer, pages=pages).running() as running:
        yield running


def arguments(prepared: Prepared, out: Path, server: ChatServer, **settings: Any) -> dict[str, Any]:
    """Return the arguments of a prediction of users 1 and 2 by the server; ``settings`` are those of the engine."""
    out.mkdir(exist_ok=True)
    found = prepared.predict_arguments(out, users=("1", "2"))
    without_effect = {"concurrent", "per_minute", "timeout", "retries", "api_key_env"}
    deciding = {key: value for key, value in settings.items() if key not in without_effect}
    found["recipe"] |= {"engine": "openai", "engine_settings": {"url": server.url, "model": "m", **deciding}}
    found["engine"] = {key: value for key, value in settings.items() if key in without_effect}
    return found


def texts(prepared: Prepared) -> list[str]:
    """Return the texts of the samples of users 1 and 2; each is another."""
    found = [
        "".join(part.get("text", "") for part in sample["messages"][-2]["content"])
        for sample in prepared.samples("1", "2")
    ]
    assert len(set(found)) == len(found) == 10
    return found


def test_answers_and_their_cost_are_stored(prepared: Prepared, tmp_path: Path, server: ChatServer) -> None:
    made = predict(**arguments(prepared, tmp_path, server, seed=3, parameters={"top_k": 1, "temperature": None}))
    asked = {text_of(body): body for body in server.requests}
    assert [row["text"] for row in made["predictions"]] == [f"to {digest(text)[:8]}" for text in texts(prepared)]
    assert made["tokens"] == {"prompt": 70, "completion": 20}
    assert made["system_fingerprints"] == ["fp_1"]
    (record,) = made["provenance"]["predict"]
    assert record["device"] == f"m at {server.url} (vllm 0.99)"
    for body in asked.values():
        settings = {key: value for key, value in body.items() if key != "messages"}
        assert settings == {"model": "m", "max_tokens": 12, "seed": 3, "top_k": 1}
    assert server.headers
    assert not [headers for headers in server.headers if "authorization" in headers]
    again = predict(**arguments(prepared, tmp_path, server, seed=3, parameters={"top_k": 1, "temperature": None}))
    assert (again["generated"], again["tokens"], len(server.requests)) == (0, made["tokens"], 10)


FAULTS: dict[str, tuple[Fault, ...]] = {
    "too many": ((429, {"Retry-After": "1"}, {"error": {"message": "slow down"}}),) * 2,
    "broken": ((500, {}, "Internal Server Error"), (503, {}, {"error": {"message": "loading"}})),
    "late": ("slow",),
    "cut off": ("cut", "cut"),
    "closed": ("refused", "cut"),
    "half a response": ("half",),
    "a page": ("page", "half"),
    "no answer in it": ("empty",),
}


def test_nothing_is_lost_or_asked_again_after_it_was_answered(
    prepared: Prepared, tmp_path: Path, server: ChatServer
) -> None:
    server.faults = dict(zip(texts(prepared), FAULTS.values(), strict=False))
    made = predict(**arguments(prepared, tmp_path, server, timeout=0.7))
    assert [row["text"] for row in made["predictions"]] == [f"to {digest(text)[:8]}" for text in texts(prepared)]
    assert made["generated"] == 10
    assert server.answered == dict.fromkeys(texts(prepared), 1)
    tries = [1 + len(server.faults.get(text, ())) for text in texts(prepared)]
    assert [server.seen(text) for text in texts(prepared)] == tries
    first, second, third = (
        time for time, body in zip(server.times, server.requests, strict=True) if text_of(body) == texts(prepared)[0]
    )
    assert second - first >= 1
    assert third - second >= 1


def test_what_is_answered_is_kept_when_a_sample_is_refused(
    prepared: Prepared, tmp_path: Path, server: ChatServer
) -> None:
    bad = texts(prepared)[4]
    server.faults = {bad: [(400, {}, {"error": {"message": "this image is too large " + "x" * 1000}})]}
    server.delay = 0.2
    with pytest.raises(UserError, match=rf"sample '1-0004' of user 1: {server.url} answered 400: this image is too la"):
        predict(**arguments(prepared, tmp_path, server, concurrent=3))
    # Not repeated, since it cannot help; what was under way with it is stored, and no more was asked.
    assert server.seen(bad) == 1
    before = len(server.requests)
    assert before <= 8
    made = predict(**arguments(prepared, tmp_path, server, concurrent=3))
    assert (made["generated"], made["reused"]) == (10 - (before - 1), before - 1)
    assert server.answered == dict.fromkeys(texts(prepared), 1)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ((429, {"Retry-After": "0.01"}, {"error": {"message": "no quota"}}), r"answered 429, twice: no quota"),
        ((429, {"Retry-After": "3000"}, {"error": {"message": "later"}}), r"asks to wait 3000 s; run again after that"),
        ((502, {}, "Bad gateway"), r"answered 502, twice: Bad gateway"),
        ("slow", r"did not answer within 0.3 s, twice"),
        ("cut", r"cannot be reached, twice: "),
        ("page", r"sent no usable answer, twice: "),
    ],
)
def test_what_stays_broken_is_said(
    prepared: Prepared, tmp_path: Path, server: ChatServer, fault: Fault, message: str
) -> None:
    server.faults = {texts(prepared)[0]: (fault,) * 2}
    with pytest.raises(UserError, match=f"sample '1-0000' of user 1: {server.url} {message}"):
        predict(**arguments(prepared, tmp_path, server, retries=1, timeout=0.3, concurrent=1))


def test_a_model_that_the_server_does_not_have(prepared: Prepared, tmp_path: Path, server: ChatServer) -> None:
    server.respond = lambda body: (404, {"error": {"message": f"The model `{body['model']}` does not exist."}})
    message = rf"{server.url} has no model n; its models: m, other \(it said: 404 The model `n` does not exist.\)"
    with pytest.raises(UserError, match=message):
        predict(**arguments(prepared, tmp_path, server, model="n"))


def test_a_server_that_is_not_there(prepared: Prepared, tmp_path: Path, server: ChatServer) -> None:
    nowhere = arguments(prepared, tmp_path, server, retries=0)
    nowhere["recipe"]["engine_settings"]["url"] = "http://127.0.0.1:9/v1"
    with pytest.raises(UserError, match=r"http://127.0.0.1:9/v1 cannot be reached, once: .*(refused|failed)"):
        predict(**nowhere)


def test_bounds_on_requests(prepared: Prepared, tmp_path: Path, server: ChatServer) -> None:
    server.delay = 0.1
    predict(**arguments(prepared, tmp_path / "many", server, concurrent=4))
    assert server.most_at_once == 4
    server.times.clear()
    server.faults = {texts(prepared)[3]: ["", (500, {"retry-after-ms": "1"}, "")]}
    predict(**arguments(prepared, tmp_path / "spaced", server, seed=1, concurrent=10, per_minute=600))
    # Eleven requests, since one is repeated: ten pauses of 0.1 s, but for what this process was kept waiting.
    assert len(server.times) == 11
    assert server.times[-1] - server.times[0] > 0.8


@pytest.mark.parametrize(
    ("said", "text", "stopped"),
    [
        (completion("a b", finish="length"), "a b", False),
        (completion("a b", finish="content_filter"), "a b", False),
        (completion("a b"), "a b", True),
    ],
)
def test_how_an_answer_ended(
    prepared: Prepared, tmp_path: Path, server: ChatServer, said: Any, text: str, stopped: bool
) -> None:
    server.respond = lambda _: (200, said)
    rows = predict(**arguments(prepared, tmp_path, server))["predictions"]
    assert {(row["text"], row["stopped"], row["new_tokens"]) for row in rows} == {(text, stopped, 2)}


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"content": "a", "reasoning_content": "why"}, "<think>\nwhy\n</think>\n\na"),
        ({"content": "a", "reasoning": "why"}, "<think>\nwhy\n</think>\n\na"),
        # A thought that was cut off is no answer.
        ({"content": None, "reasoning_content": "why"}, "<think>\nwhy"),
        ({"content": None, "refusal": "I cannot"}, "I cannot"),
        ({"content": None}, ""),
    ],
)
def test_thoughts_and_refusals(
    prepared: Prepared, tmp_path: Path, server: ChatServer, message: dict[str, Any], text: str
) -> None:
    said = completion("")
    said["choices"][0]["message"] = message
    del said["usage"]
    server.respond = lambda _: (200, said)
    made = predict(**arguments(prepared, tmp_path, server))
    assert {row["text"] for row in made["predictions"]} == {text}
    assert {row["new_tokens"] for row in made["predictions"]} == {None}
    assert "tokens" not in made


def test_thinking_is_passed_to_the_chat_template(prepared: Prepared, tmp_path: Path, server: ChatServer) -> None:
    asked = arguments(prepared, tmp_path, server, length_key="max_completion_tokens", temperature=None, seed=None)
    asked["recipe"]["thinking"] = False
    predict(**asked)
    settings = {key: value for key, value in server.requests[0].items() if key != "messages"}
    template = {"enable_thinking": False}
    assert settings == {"model": "m", "max_completion_tokens": 12, "chat_template_kwargs": template}


def files_with(folder: Path, text: str) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]


def test_a_key_reaches_the_server_and_nothing_else(
    prepared: Prepared, tmp_path: Path, server: ChatServer, monkeypatch: pytest.MonkeyPatch, run_python: Start
) -> None:
    monkeypatch.setenv("SERVER_KEY", KEY)
    # For another server; the client library would send it.
    monkeypatch.setenv("OPENAI_API_KEY", "sk-other")
    asked = arguments(prepared, tmp_path, server, api_key_env="SERVER_KEY")
    predict(**asked)
    assert {headers["authorization"] for headers in server.headers} == {f"Bearer {KEY}"}
    server.respond = lambda _: (401, {"error": {"message": f"Incorrect API key provided: {KEY}."}})
    process = run_python(PREDICT, {**asked, "recipe": {**asked["recipe"], "max_new_tokens": 13}}, OPENAI_LOG="debug")
    out, error = process.communicate(timeout=60)
    assert process.returncode == 2
    assert f"{server.url} refuses the key in SERVER_KEY: 401 Incorrect API key provided: ***." in error
    assert KEY not in out + error
    assert not files_with(tmp_path, KEY)
    assert files_with(tmp_path, server.url)
    monkeypatch.delenv("SERVER_KEY")
    asked["recipe"]["max_new_tokens"] = 14
    with pytest.raises(UserError, match=r"the environment variable SERVER_KEY \(api_key_env\) is not set; export it"):
        predict(**asked)


def test_a_server_that_moves_keeps_its_answers(
    prepared: Prepared, tmp_path: Path, server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = arguments(prepared, tmp_path, server, url_env="MY_SERVER")
    del asked["recipe"]["engine_settings"]["url"]
    with pytest.raises(UserError, match=r"the environment variable MY_SERVER \(url_env\) is not set"):
        predict(**asked)
    monkeypatch.setenv("MY_SERVER", server.url + "/")
    made = predict(**asked)
    assert made["provenance"]["predict"][0]["device"] == f"m at {server.url} (vllm 0.99)"
    monkeypatch.setenv("MY_SERVER", "http://127.0.0.1:9/v1")
    assert predict(**asked)["generated"] == 0


def test_proxies_of_the_environment_are_for_other_machines(
    prepared: Prepared, tmp_path: Path, server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    predict(**arguments(prepared, tmp_path / "here", server))
    asked = len(server.requests)
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, server.url.removesuffix("/v1"))
    monkeypatch.setenv("no_proxy", "")
    far = arguments(prepared, tmp_path / "far", server)
    far["recipe"]["engine_settings"]["url"] = "http://models.invalid/v1"
    predict(**far)
    assert len(server.requests) == asked + 10
    assert {headers["host"] for headers in server.headers[asked:]} == {"models.invalid"}


def test_ctrl_c_keeps_what_is_answered_and_ends_at_once(
    prepared: Prepared, tmp_path: Path, server: ChatServer, run_python: Start
) -> None:
    quick = set(texts(prepared)[:4])

    def respond(body: Any) -> tuple[int, Any]:
        if text_of(body) not in quick:
            time.sleep(20)
        return answer(body)

    server.respond = respond
    asked = arguments(prepared, tmp_path, server, concurrent=2)
    process = run_python(PREDICT, asked)
    deadline = time.monotonic() + 60
    while len(server.requests) < 6:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(0.2)
    began = time.monotonic()
    os.kill(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=30)
    assert time.monotonic() - began < 15
    assert process.returncode == 130, error
    assert "Traceback" not in error
    server.respond = answer
    made = predict(**asked)
    assert (made["generated"], made["reused"]) == (6, 4)
    assert {text: server.seen(text) for text in quick} == dict.fromkeys(quick, 1)


def test_lines_of_other_engines_do_not_change(prepared: Prepared, tmp_path: Path, server: ChatServer) -> None:
    predict(**arguments(prepared, tmp_path, server))
    (line, *_) = next((tmp_path / "store").rglob("user_1/*.jsonl")).read_text().splitlines()
    assert {"prompt_tokens", "system_fingerprint"} <= json.loads(line).keys()
    assert read_result(tmp_path / "predictions.json")["batch_sizes"] == [8]

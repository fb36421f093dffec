"""A real `transformers serve` on this machine answers as the engine transformers does, over a bad connection too."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.calls import NO_LIMITS, predict
from tests.support.chat_server import ChatServer, passed_on, text_of
from tests.unit.conftest import BASE, LORA, Prepared
from usertune.core.errors import UserError
from usertune.inference.engine import EngineSettings
from usertune.inference.engines.openai import OpenAIEngine
from usertune.inference.questions import questions_of
from usertune.inference.server.options import ServerOptions
from usertune.models.loading import load_model, prepare_for_training
from usertune.models.recipe import LoraSettings

pytest.importorskip("fastapi", reason="transformers serve needs fastapi and uvicorn (envs/requirements-test.txt)")
pytest.importorskip("uvicorn", reason="transformers serve needs fastapi and uvicorn (envs/requirements-test.txt)")

START_SECONDS = 120


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server with the tests' base model in float32."""
    folder = tmp_path_factory.mktemp("serve")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [Path(sys.executable).with_name("transformers"), "serve", str(BASE), "--host", "127.0.0.1"]
    options = ["--port", str(port), "--device", "cpu", "--dtype", "float32"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [*command, *options], stdout=log, stderr=log,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder), "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
    try:
        end = time.monotonic() + START_SECONDS
        while not _answers(port):
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < end, (folder / "log").read_text()
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(30)


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def arguments(prepared: Prepared, out: Path, url: str, **settings: Any) -> dict[str, Any]:
    found = prepared.predict_arguments(out, users=("1", "2"))
    found["recipe"] |= {"max_new_tokens": 30, "engine": "openai"}
    found["recipe"]["engine_settings"] = {"url": url, "model": str(BASE), **settings}
    return found


def test_the_server_answers_as_the_engine_transformers_does(prepared: Prepared, tmp_path: Path, serve: str) -> None:
    here = prepared.predict_arguments(tmp_path / "here", users=("1", "2"))
    here["recipe"]["max_new_tokens"] = 30
    own = predict(**here)
    samples = [sample["messages"][0]["content"] for sample in prepared.samples("1", "2")]
    asked = ["".join(part.get("text", "") for part in content) for content in samples]
    kinds = (["slow"], ["cut", "half"], [(500, {}, "")], [(429, {"Retry-After": "1"}, "")], ["page"], ["refused"])
    # Images have the size that the processor would give them, so both see the same pixels.
    with ChatServer(passed_on(serve), dict(zip(asked, kinds, strict=False))).running() as between:
        made = predict(**arguments(prepared, tmp_path / "there", between.url), engine={"timeout": 30, "concurrent": 4})
    assert made["generated"] == 10
    assert between.answered == dict.fromkeys(asked, 1)
    # The server takes white space off the end of an answer, and drops the token that ended it from neither count.
    pairs = list(zip(own["predictions"], made["predictions"], strict=True))
    assert [there["text"] for _, there in pairs] == [row["text"].rstrip() for row, _ in pairs]
    for key in ("new_tokens", "stopped"):
        assert [there[key] for _, there in pairs] == [row[key] for row, _ in pairs]
    assert made["tokens"]["completion"] == sum(row["new_tokens"] for row in own["predictions"])
    assert {text_of(body) for body in between.requests} == set(asked)
    message = rf"answered 400: Server is pinned to '{BASE}'; requested 'other'"
    with pytest.raises(UserError, match=message):
        predict(**arguments(prepared, tmp_path / "other", serve, model="other"))


def test_adapters_are_refused_since_it_gives_no_log_probabilities(
    prepared: Prepared, tmp_path: Path, serve: str
) -> None:
    adapted: Any = prepare_for_training(load_model(BASE, "float32"), LoraSettings(**LORA))
    adapted.save_pretrained(str(tmp_path))
    options = ServerOptions(url=serve, model=str(BASE), adapters=True, retries=0)
    settings = EngineSettings(BASE, "lora", tmp_path, "float32", NO_LIMITS, prepared.root, 12, options=options)
    with pytest.raises(UserError, match=r"answered 422: Unexpected fields.*; the server gives no log-probabilities of"):
        OpenAIEngine(settings).effects(questions_of(prepared.samples("1")))

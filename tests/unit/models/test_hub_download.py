"""Models are downloaded by the hub's own client, from a server on this machine that answers as the hub does."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from tests.unit.conftest import BASE

NAME = "owner/tiny"
COMMITS = {"main": "a" * 40, "v2": "b" * 40}
# The hub's client reads its variables when it is imported, so it has a process of its own.
DESCRIBE = """
import json, sys
from usertune.core.errors import UserError
from usertune.models.base_model import describe_base_model
from usertune.models.recipe import BaseModelRecipe
recipe, manifest = json.loads(sys.argv.pop())
try:
    describe_base_model(BaseModelRecipe(step="base_model", **recipe), manifest)
except UserError as problem:
    print(problem)
"""


class Hub:
    """Serves the files of one model, the same at every revision, and notes which were fetched."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fetched: list[str] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub.answer(self, True)

            def do_HEAD(self) -> None:
                hub.answer(self, False)

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        Thread(target=self.server.serve_forever, daemon=True).start()
        self.address = f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, request: BaseHTTPRequestHandler, with_body: bool) -> None:
        """Answer what the client asks: which commit and files a revision has, and their content."""
        sizes = {path.name: path.stat().st_size for path in self.folder.iterdir()}
        words = unquote(urlsplit(request.path).path).strip("/").split("/")
        match words:
            case ["api", "models", "owner", "tiny", "revision", revision] if commit := COMMITS.get(
                revision, revision if revision in COMMITS.values() else None
            ):
                # Releases of the client take the names from here, or from the tree.
                about = {"id": NAME, "sha": commit, "siblings": [{"rfilename": name} for name in sizes]}
                send(request, json.dumps(about).encode(), {"Content-Type": "application/json"}, with_body)
            case ["api", "models", "owner", "tiny", "tree", commit] if commit in COMMITS.values():
                tree = [{"type": "file", "path": name, "size": size, "oid": "0"} for name, size in sizes.items()]
                send(request, json.dumps(tree).encode(), {"Content-Type": "application/json"}, with_body)
            case ["owner", "tiny", "resolve", commit, name] if name in sizes and commit in COMMITS.values():
                body = (self.folder / name).read_bytes()
                if with_body:
                    self.fetched.append(name)
                tag = hashlib.sha256(body).hexdigest()
                send(request, body, {"ETag": f'"{tag}"', "X-Repo-Commit": commit}, with_body)
            case ["api", "models", "owner", "tiny", "revision", _]:
                send(request, b"{}", {"X-Error-Code": "RevisionNotFound"}, with_body, 404)
            case _:
                send(request, b"{}", {"X-Error-Code": "RepoNotFound"}, with_body, 404)


def send(
    request: BaseHTTPRequestHandler, body: bytes, headers: dict[str, str], with_body: bool, status: int = 200
) -> None:
    """Send an answer; to HEAD without its body."""
    request.send_response(status)
    for name, value in {**headers, "Content-Length": str(len(body))}.items():
        request.send_header(name, value)
    request.end_headers()
    if with_body:
        request.wfile.write(body)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    hub = Hub(Path(shutil.copytree(BASE, tmp_path / "model")))
    yield hub
    hub.server.shutdown()
    hub.server.server_close()


@pytest.fixture
def describe(
    tmp_path: Path, hub: Hub, run_python: Callable[..., subprocess.Popen[str]]
) -> Callable[..., dict[str, Any] | str]:
    """Return a function that describes a model of the hub and returns the manifest, or what was said instead."""

    def described(path: str = NAME, **recipe: str) -> dict[str, Any] | str:
        manifest = tmp_path / "manifest.json"
        manifest.unlink(missing_ok=True)
        environment = {
            "HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0",
            "TRANSFORMERS_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1",
        }  # fmt: skip
        arguments = [{"path": path, **recipe}, str(manifest)]
        output, error = run_python(DESCRIBE, arguments, **environment).communicate(timeout=300)
        if not manifest.exists():
            assert output, error
            return output
        found: dict[str, Any] = json.loads(manifest.read_text())
        return found

    return described


def test_a_model_is_downloaded(hub: Hub, describe: Callable[..., Any], tmp_path: Path) -> None:
    found = describe()
    folder = tmp_path / "home/hub/models--owner--tiny/snapshots" / COMMITS["main"]
    assert found["folder"] == str(folder)
    assert found["about"]["commit"] == COMMITS["main"]
    assert hub.fetched[0] == "config.json"
    assert (folder / "model.safetensors").read_bytes() == (BASE / "model.safetensors").read_bytes()


def test_a_model_of_an_unknown_family_is_refused_before_its_weights_are_fetched(
    hub: Hub, describe: Callable[..., Any]
) -> None:
    config = json.loads((hub.folder / "config.json").read_text())
    (hub.folder / "config.json").write_text(json.dumps({**config, "model_type": "llava"}))
    said = describe()
    assert "base_model.path: owner/tiny: " in said
    assert "llava" in said
    assert "qwen3_vl" in said
    assert hub.fetched == ["config.json"]


def test_the_revision_is_part_of_the_fingerprint_but_not_of_the_content(
    describe: Callable[..., Any],
) -> None:
    newest, main, tagged = describe(), describe(revision="main"), describe(revision="v2")
    assert tagged["folder"].endswith(COMMITS["v2"])
    assert len({one["fingerprint"] for one in (newest, main, tagged)}) == 3
    # The same files: nothing is trained again.
    assert newest["output"] == main["output"] == tagged["output"]


def test_a_model_or_revision_that_the_hub_does_not_have_is_named(describe: Callable[..., Any]) -> None:
    assert "owner/tiny has no commit, tag or branch 'v3' on the hub" in describe(revision="v3")
    assert "owner/other is neither a folder here nor a model on the hub" in describe("owner/other")

"""A server of OpenAI's chat API for tests: it answers by a function, or passes requests on, with faults in between."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

Body = Mapping[str, Any]
# Status and JSON of a response; a text is sent as it is.
Response = tuple[int, Any]
# What happens to a request: "" nothing, a status with its headers, or one of the words in `_Handler._fail`.
Fault = str | tuple[int, Mapping[str, str], Any]
SLOW_SECONDS = 1.0


@dataclass
class ChatServer:
    """What a server does, and what it saw.

    Attributes:
        respond: answers a chat request.
        faults: for each request text, what happens to its first, second, ... request; then it is answered.
        pages: path -> response of other requests.
        delay: seconds before each answer.
        requests: the bodies of chat requests, in order of arrival.
        times: when each arrived, monotonic seconds.
        answered: how often each request text got its complete answer.
        headers: headers of each request, by name in lower case.
        url: address of the API, once it runs.
    """

    respond: Callable[[Body], Response]
    faults: Mapping[str, Sequence[Fault]] = field(default_factory=dict)
    pages: dict[str, Response] = field(default_factory=dict)
    delay: float = 0
    requests: list[Body] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    answered: Counter[str] = field(default_factory=Counter)
    headers: list[dict[str, str]] = field(default_factory=list)
    url: str = ""
    at_once: int = 0
    most_at_once: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def running(self) -> Iterator[ChatServer]:
        """Serve on a free port of this machine while the block runs."""
        server = _Listener(("127.0.0.1", 0), _Handler)
        server.owner = self
        self.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        thread = threading.Thread(target=lambda: server.serve_forever(0.02), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()

    def seen(self, text: str) -> int:
        """Return how often a request with this text arrived."""
        return sum(text_of(body) == text for body in self.requests)


def text_of(body: Body) -> str:
    """Return the text of the last user turn of a request."""
    content = [turn["content"] for turn in body["messages"] if turn["role"] == "user"][-1]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def completion(text: str, finish: str = "stop", prompt: int = 7, **more: Any) -> dict[str, Any]:
    """Return the JSON of an answer."""
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [{"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text}}],
        "usage": {"prompt_tokens": prompt, "completion_tokens": len(text.split()), "total_tokens": 0},
        **more,
    }


def passed_on(url: str) -> Callable[[Body], Response]:
    """Return a function that asks another server."""
    place = urlsplit(url)

    def respond(body: Body) -> Response:
        other = http.client.HTTPConnection(str(place.hostname), place.port, timeout=60)
        other.request("POST", f"{place.path}/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
        response = other.getresponse()
        text = response.read().decode()
        other.close()
        return response.status, text

    return respond


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    owner: ChatServer


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Listener

    def log_message(self, *arguments: Any) -> None:
        pass

    def do_GET(self) -> None:
        page = self.server.owner.pages.get(self.path, (404, {"detail": "Not Found"}))
        self._send(*page)

    def do_POST(self) -> None:
        owner = self.server.owner
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = text_of(body)
        with owner.lock:
            fault = dict(enumerate(owner.faults.get(text, ()))).get(owner.seen(text), "")
            owner.requests.append(body)
            owner.times.append(time.monotonic())
            owner.headers.append({name.lower(): value for name, value in self.headers.items()})
            owner.at_once += 1
            owner.most_at_once = max(owner.most_at_once, owner.at_once)
        try:
            time.sleep(owner.delay)
            if isinstance(fault, tuple):
                status, headers, said = fault
                self._send(status, said, headers)
                return
            status, said = owner.respond(body)
            content = said if isinstance(said, str) else json.dumps(said)
            if fault:
                self._fail(fault, content)
                return
            self._send(status, content)
            with owner.lock:
                owner.answered[text] += status == 200
        except (BrokenPipeError, ConnectionResetError):
            pass
        finally:
            with owner.lock:
                owner.at_once -= 1

    def _fail(self, fault: str, content: str) -> None:
        half = content[: len(content) // 2]
        if fault == "slow":
            time.sleep(SLOW_SECONDS)
            self.close_connection = True
        elif fault == "cut":
            self.send_response(200)
            self.send_header("Content-Length", str(len(content.encode())))
            self.end_headers()
            self.wfile.write(half.encode())
            self.wfile.flush()
            self.connection.shutdown(2)
            self.close_connection = True
        elif fault == "refused":
            self.connection.shutdown(2)
            self.close_connection = True
        elif fault == "half":
            self._send(200, half)
        elif fault == "page":
            self._send(200, "<html>Bad gateway</html>")
        elif fault == "empty":
            self._send(200, {"choices": []})
        else:
            raise ValueError(fault)

    def _send(self, status: int, said: Any, headers: Mapping[str, str] | None = None) -> None:
        content = (said if isinstance(said, str) else json.dumps(said)).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

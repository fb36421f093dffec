"""A server answers some experiments of a study: its bounds and its key are kept by all jobs together."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.chat_server import ChatServer, completion
from tests.support.workplace import new_workplace
from usertune.demo.dataset import Counts

pytestmark = pytest.mark.workflow
KEY = "sk-geheim-1234567890"


def test_jobs_that_ask_the_same_server_run_one_after_another(tmp_path: Path) -> None:
    workplace = new_workplace(tmp_path / "study", Counts(train=2, validation=1, test=3), (1, 2, 3, 4))
    workplace.replace("  test: 1-2", "  test: 1-4")
    workplace.replace("  users_per_job: 2", "  users_per_job: 1")
    engine = "{kind: openai, url_env: TEST_SERVER, model: m, concurrent: 2, api_key_env: TEST_KEY}"
    workplace.replace("  vanilla:\n    mode: vanilla\n", f"  vanilla:\n    mode: vanilla\n    engine: {engine}\n")
    with ChatServer(lambda _: (200, completion("a")), delay=0.3).running() as server:
        workplace.environment |= {"TEST_SERVER": server.url, "TEST_KEY": KEY}
        workplace.run("vanilla", cores=16)
    assert len(server.requests) == 12
    assert server.most_at_once == 2
    assert {headers["authorization"] for headers in server.headers} == {f"Bearer {KEY}"}
    manifest = workplace.json("predictions/vanilla/users_1.json")
    assert manifest["tokens"] == {"prompt": 21, "completion": 3}
    written = [path for path in workplace.folder.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
    assert not written

"""A base model that is not found is refused with names that are similar, of folders and in the hub's cache."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.calls import NO_LIMITS
from tests.unit.conftest import BASE
from usertune.core.errors import UserError
from usertune.models.base_model import check_base_model


@pytest.mark.parametrize(
    ("path", "folders", "message"),
    [
        (
            "models/Qwen3-VL-8B",
            ["models/Qwen3-VL-8B-Instruct"],
            "similar folders: models/Qwen3-VL-8B-Instruct; .*revision: main",
        ),
        ("models/x", ["models"], "is not a folder, but looks like one: the folder models is here; if it is a name"),
        ("model/base", ["models/base"], "the folder models/base is here"),
        ("./a/base", [], "is not a folder; a name on the hub"),
        ("bsae", ["base"], "is not a folder; similar folders: base; a name on the hub has the form owner/name"),
        ("Base", ["base"], "similar folders: base"),
        ("data/modls/base", ["data/models"], "similar folders: data/models"),
        ("models", ["models/base"], "config.json is missing; did you mean models/base"),
        ("models/file", ["models"], "is a file; give the folder"),
    ],
)
def test_a_mistyped_folder_is_said_to_look_like_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, folders: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    for folder in folders:
        Path(folder).mkdir(parents=True)
        if folder == "models/base":
            shutil.copytree(BASE, folder, dirs_exist_ok=True)
    if path == "models/file":
        Path(path).write_text("")
    with pytest.raises(UserError, match=rf"^base_model\.path: {re.escape(path)}.*{message}"):
        check_base_model(path, None, NO_LIMITS)


def _cache(home: Path, name: str) -> Path:
    """Put the demo's model into a hub cache, as the hub's client lays it out, and return its snapshot."""
    folder = home / "hub" / f"models--{name.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc")
    return Path(shutil.copytree(BASE, folder / "snapshots" / "abc"))


def test_a_name_on_the_hub_is_checked_in_the_cache_where_nothing_may_be_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    name = "Qwen/Qwen3-VL-8B-Instruct"
    check_base_model(name, None, NO_LIMITS)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    snapshot = _cache(tmp_path / "home", name)
    check_base_model(name, None, NO_LIMITS)
    with pytest.raises(
        UserError, match=r"nor a hub model in the cache .*home/hub, and .*similar models in .*: Qwen/Qwen3"
    ):
        check_base_model("Qwen/Qwen3-VL-8B-Instrct", None, NO_LIMITS)
    with pytest.raises(UserError, match="nor a hub model in the cache"):
        check_base_model(name, "v2", NO_LIMITS)
    (snapshot / "model.safetensors").unlink()
    with pytest.raises(
        UserError, match=rf"(?s){name} .*weights are missing.*complete the cached copy.*hf download {name}"
    ):
        check_base_model(name, None, NO_LIMITS)


# The hub's client reads its variables when it is imported, so it has a process of its own.
DESCRIBE = """
import json, sys
from usertune.models.base_model import describe_base_model
from usertune.models.recipe import BaseModelRecipe
from usertune.core.errors import UserError
path, manifest = json.loads(sys.argv.pop())
try:
    describe_base_model(BaseModelRecipe(step="base_model", path=path), manifest)
except UserError as problem:
    print(problem)
"""


def test_a_cached_model_without_a_network(tmp_path: Path, run_python: Callable[..., subprocess.Popen[str]]) -> None:
    snapshot = _cache(tmp_path / "home", "Qwen/Qwen3-VL-2B-Instruct")

    def say(name: str) -> str:
        arguments = [name, str(tmp_path / "manifest.json")]
        output, error = run_python(
            DESCRIBE, arguments, HF_HOME=str(tmp_path / "home"), HF_HUB_OFFLINE="1"
        ).communicate()
        assert not error
        return output

    assert say("Qwen/Qwen3-VL-2B-Instruct") == ""
    assert json.loads((tmp_path / "manifest.json").read_text())["folder"] == str(snapshot)
    missing = say("Qwen/Qwen3-VL-2B-Instuct")
    assert (
        "cannot be downloaded (LocalEntryNotFoundError); similar models in the hub's cache: Qwen/Qwen3-VL-2B" in missing
    )
    (snapshot / "tokenizer.json").unlink()
    assert "tokenizer's files are missing" in say("Qwen/Qwen3-VL-2B-Instruct")

"""Nothing that comes from data, models or studies is executed."""

from __future__ import annotations

import ast
import json
import pickle
import re
from pathlib import Path

import pytest

from tests.support.calls import train
from tests.unit.conftest import Prepared
from usertune.core.errors import StopRequested

REPOSITORY = Path(__file__).resolve().parents[2]
CODE = sorted(path for folder in ("src", "scripts") for path in (REPOSITORY / folder).rglob("*.py"))
EXECUTING = {"eval", "exec", "compile", "__import__"}
UNSAFE_MODULES = {"pickle", "dill", "joblib", "marshal", "shelve"}
# Numbers that the study's types have checked.
NUMBERS = {
    "resources.attempt", "resources.batch_size", "resources.gpu", "resources.gpus_per_node",
    "resources.minutes_for_others", "resources.nodes", "threads",
}  # fmt: skip
# What torch pickles in a sharded checkpoint is read with a list of what may be in it; tests/unit/test_checkpoints.py.
GUARDED = "checkpoints.py"


@pytest.mark.parametrize("path", CODE, ids=lambda path: path.name)
def test_no_code_executes_or_unpickles_data(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            assert not (isinstance(node.func, ast.Name) and name in EXECUTING), f"line {node.lineno}: {name}"
            keywords = {keyword.arg: getattr(keyword.value, "value", None) for keyword in node.keywords}
            assert keywords.get("shell") is not True, f"line {node.lineno}: shell=True"
            assert keywords.get("trust_remote_code") is not True, f"line {node.lineno}: trust_remote_code"
            if name == "from_pretrained" and "AutoProcessor" in ast.dump(node.func):
                assert keywords["trust_remote_code"] is False
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = {alias.name for alias in node.names} | {getattr(node, "module", None)}
            assert path.name == GUARDED or not names & UNSAFE_MODULES, f"line {node.lineno}: {names}"


@pytest.mark.parametrize("path", sorted((REPOSITORY / "rules").glob("*.smk")), ids=lambda path: path.name)
def test_shell_commands_quote_everything_but_numbers(path: Path) -> None:
    text = path.read_text()
    commands = [match[2] for match in re.finditer(r"^( +)shell:\n((?:\1    .+\n)+)", text, re.MULTILINE)]
    assert len(commands) == text.count("shell:")
    for command in commands:
        for field in re.findall(r"\{([^{}]+)\}", command):
            assert field.endswith(":q") or field in NUMBERS, field


class _Touch:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.path,)


def test_a_pickle_in_a_working_checkpoint_is_not_executed(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from usertune.training.callbacks import StopOnSignal, newest_checkpoint

    recipe = prepared.train_recipe(mode="full", epochs=4)
    arguments = prepared.train_arguments(tmp_path, recipe)
    began = StopOnSignal.on_step_end

    def stop(self: StopOnSignal, *positional: object, **keywords: object) -> object:
        self.signal = 15
        return began(self, *positional, **keywords)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(StopOnSignal, "on_step_end", stop)
        with pytest.raises(StopRequested):
            train(**arguments)
    (optimizer,) = tmp_path.rglob("checkpoint-*/optimizer.pt")
    executed = tmp_path / "executed"
    harmful = pickle.dumps(_Touch(executed))
    # As long as the file that was there: another size would be noticed before anything is read.
    optimizer.write_bytes(harmful.ljust(optimizer.stat().st_size, b"."))
    with pytest.raises(Exception, match=r"(?i)weights_only|unpickl"):
        train(**arguments)
    assert not executed.exists()
    assert newest_checkpoint(optimizer.parents[1]) is not None


def test_weights_hold_tensors_and_texts_only(prepared: Prepared, tmp_path: Path) -> None:
    train(**prepared.train_arguments(tmp_path))
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    endings = {Path(name).suffix for name in manifest["weights_files"]}
    assert endings <= {".safetensors", ".json", ".jinja", ".md", ".txt"}

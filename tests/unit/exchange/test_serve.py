"""The command that starts a server with a study's adapters."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.stand_ins import StandInTrainer
from tests.support.synthetic_study import BASE, SyntheticStudy
from usertune.core.errors import UserError
from usertune.exchange.serve import server_command
from usertune.inference.server.adapters import adapter_name
from usertune.models.loading import load_model, prepare_for_training

SERVER = {"kind": "openai", "url": "http://localhost:8123/v1", "model": "qwen", "adapters": True}
# Says how it was called.
PROGRAM = """#!{python}
import json, os, sys
print(json.dumps([sys.argv, os.environ.get("VLLM_API_KEY")]))
sys.exit(7)
"""


@pytest.fixture
def real_adapters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the stand-in of training write adapters, of rank 4 for one experiment and of 12 for others."""
    usual = StandInTrainer.fine_tune

    def fine_tune(run: Any, work: Path, weights_folder: Path, *rest: Any) -> dict[str, Any]:
        found = usual(run, work, weights_folder, *rest)
        if run.recipe.mode == "lora":
            (weights_folder / "weights.safetensors").unlink()
            lora = run.recipe.training.lora
            adapted: Any = prepare_for_training(load_model(BASE, "float32"), lora)
            torch.manual_seed(lora.rank)
            for name, value in adapted.named_parameters():
                if ".lora_B." in name:
                    torch.nn.init.normal_(value)
            adapted.save_pretrained(str(weights_folder))
        return found

    monkeypatch.setattr(StandInTrainer, "fine_tune", staticmethod(fine_tune))


@pytest.fixture
def study(make_study: Callable[..., SyntheticStudy], real_adapters: None) -> SyntheticStudy:
    experiments = {
        "vanilla": {"mode": "vanilla"},
        "lora": {"mode": "lora", "training": {"lora": {"rank": 4}}},
        "wide": {"mode": "lora", "training": {"lora": {"rank": 12}}},
    }
    return make_study(experiments=["vanilla"], changes={"experiments": experiments}, users=["1"])


def weights(study: SyntheticStudy, name: str) -> Path:
    return next((study.root / "checkpoints" / name).glob("*/weights"))


def with_engine(study: SyntheticStudy, **engine: Any) -> SyntheticStudy:
    """Return the study in which a server answers lora and wide."""
    experiments = {name: dict(values) for name, values in study.changes["experiments"].items()}
    for name in ("lora", "wide"):
        experiments[name]["engine"] = {**SERVER, **engine}
    return SyntheticStudy(study.root, users=["1"], changes={"experiments": experiments})


def test_the_command_names_every_adapter(study: SyntheticStudy) -> None:
    command = server_command(with_engine(study, api_key_env="SERVER_KEY").study, [], None, ["--seed", "3"])
    modules = [f"{adapter_name(weights(study, name))}={weights(study, name)}" for name in ("lora", "wide")]
    assert command.words == [
        "vllm", "serve", str(study.root / "base"), "--served-model-name", "qwen", "--host", "localhost",
        "--port", "8123", "--dtype", "bfloat16", "--generation-config", "vllm", "--enable-lora",
        "--max-lora-rank", "16", "--max-loras", "2", "--max-cpu-loras", "2", "--lora-modules", *modules, "--seed", "3",
    ]  # fmt: skip
    comments, _, shell = command.text().partition("\nexport ")
    assert comments.splitlines()[1:] == [
        f"#   {adapter_name(weights(study, name))}: {name}, all users" for name in ("lora", "wide")
    ]
    first, _, rest = shell.partition("\n")
    assert first == 'VLLM_API_KEY="$SERVER_KEY"'
    assert shlex.split(rest.replace("\\\n", "")) == command.words


def test_an_experiment_can_be_named(study: SyntheticStudy) -> None:
    words = server_command(study.study, ["lora"], Path("/opt/vllm"), []).words
    assert words[0] == "/opt/vllm/bin/vllm"
    assert words[words.index("--max-lora-rank") + 1] == "8"
    assert words[-1] == f"{adapter_name(weights(study, 'lora'))}={weights(study, 'lora')}"


@pytest.mark.parametrize(
    ("experiments", "message"),
    [
        (
            [],
            r"no experiment is answered by a server with adapters: set engine: \{kind: openai, .*; experiments of",
        ),
        (["vanilla"], "--experiment vanilla: it has no adapter; experiments of mode lora: lora, wide"),
        (["nope"], "--experiment nope: it has no adapter"),
    ],
)
def test_experiments_without_adapters(study: SyntheticStudy, experiments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        server_command(study.study, experiments, None, [])


def test_experiments_of_different_servers_are_refused(study: SyntheticStudy) -> None:
    served = with_engine(study)
    served.changes["experiments"]["wide"]["engine"]["model"] = "other"
    with pytest.raises(UserError, match="the experiments lora, wide ask servers with another model; choose some"):
        server_command(served.study, [], None, [])
    assert server_command(served.study, ["wide"], None, []).words[4] == "other"


def test_an_adapter_that_is_not_current_is_refused(study: SyntheticStudy) -> None:
    shutil.rmtree(weights(study, "lora"))
    with pytest.raises(UserError, match="these results are not what the study says; make them by: snakemake"):
        server_command(study.study, ["lora"], None, [])


def test_the_command_is_run_in_an_environment_of_its_own(study: SyntheticStudy, tmp_path: Path) -> None:
    program = tmp_path / "vllm" / "bin" / "vllm"
    program.parent.mkdir(parents=True)
    program.write_text(PROGRAM.format(python=sys.executable))
    program.chmod(0o755)
    served = with_engine(study, api_key_env="SERVER_KEY")
    values = served.study.model_dump(mode="json")
    (tmp_path / "study.yaml").write_text(json.dumps(values))
    command = [sys.executable, "-m", "usertune", "serve", "--study", str(tmp_path / "study.yaml"), "--start"]
    source = Path(__file__).parents[3] / "src"

    def run(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, "--environment", str(folder), "--", "--max-model-len", "4096"],
            env={"PATH": "/usr/bin", "PYTHONPATH": str(source), **environment},
            capture_output=True,
            text=True,
            check=False,
        )

    done = run(tmp_path / "vllm", SERVER_KEY="sk-geheim")
    assert done.returncode == 7, done.stderr
    said, key = json.loads(done.stdout)
    assert key == "sk-geheim"
    assert said[0] == str(program)
    assert said[-2:] == ["--max-model-len", "4096"]
    assert "SERVER_KEY (api_key_env) is not set" in run(tmp_path / "vllm").stderr
    assert "there is no such program; install vLLM" in run(tmp_path / "nowhere", SERVER_KEY="x").stderr

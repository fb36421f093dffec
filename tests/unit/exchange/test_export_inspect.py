"""``usertune export --format inspect``: the answers as logs of Inspect."""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from PIL import Image

from tests.support.synthetic_study import SyntheticStudy
from usertune.cli.main import main
from usertune.core.errors import UserError
from usertune.exchange.export_inspect import export_inspect

# A Python that has inspect_ai; its pins exclude some of this project's, so it is in an environment of its own.
INSPECT = os.environ.get("USERTUNE_INSPECT_PYTHON") or (
    sys.executable if importlib.util.find_spec("inspect_ai") else None
)
READ = """
import json, sys
from inspect_ai.log import list_eval_logs, read_eval_log
logs = [read_eval_log(log) for log in list_eval_logs(sys.argv[1])]
print(json.dumps([[
    log.status, log.eval.model, len(log.samples), log.results.scores[0].name,
    {name: metric.value for name, metric in log.results.scores[0].metrics.items()},
    [sample.output.completion for sample in log.samples],
    [type(part).__name__ for part in log.samples[0].input[0].content],
    log.samples[0].scores[log.results.scores[0].name].value,
] for log in logs]))
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> SyntheticStudy:
    """A study that has scores, but not yet tables."""
    made = SyntheticStudy(tmp_path_factory.mktemp("inspect") / "study", users=["1", "ana"]).write()
    made.make_all("score")
    return made


@pytest.fixture(scope="module")
def logs(study: SyntheticStudy, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Experiment -> its log, with screenshots."""
    folder = tmp_path_factory.mktemp("logs") / "logs"
    said = export_inspect(study.study, folder, copy_images=True)
    assert said.startswith(f"{folder}: 3 logs of 24 samples; ")
    found = [json.loads(path.read_text()) for path in folder.glob("*_*.json")]
    return {log["eval"]["metadata"]["experiment"]: log for log in found}


def test_logs_have_every_answer_and_score(study: SyntheticStudy, logs: dict[str, dict[str, Any]]) -> None:
    assert set(logs) == set(study.experiments)
    for name, log in logs.items():
        predictions = json.loads(study.predictions(name).read_text())["predictions"]
        texts = {f"{answer['user']}/{answer['id']}": answer["text"] for answer in predictions}
        assert {sample["id"]: sample["output"]["completion"] for sample in log["samples"]} == texts
        rows = pd.concat(
            [
                pd.read_csv(study.root / f"scores/{name}/user_{user}.csv", dtype={"user": str, "id": str})
                for user in study.users
            ]
        )
        hits = dict(zip(rows["user"] + "/" + rows["id"], rows["hit_140"], strict=True))
        assert {sample["id"]: sample["scores"]["click_accuracy"]["value"] for sample in log["samples"]} == hits
        first = log["results"]["scores"][0]
        assert (first["name"], first["scored_samples"]) == ("click_accuracy", 24)
        assert first["metrics"]["mean"]["value"] == pytest.approx(rows["hit_140"].mean())
        unparsed = [sample for sample in log["samples"] if not sample["scores"]["click_accuracy"]["metadata"]["parsed"]]
        assert len(unparsed) == (rows["parsed"] == 0).sum()
        assert not any("mean_l2" in sample["scores"] for sample in unparsed)


def test_screenshots_are_in_the_logs_or_named_by_their_paths(
    study: SyntheticStudy, logs: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    def image_of(log: dict[str, Any]) -> str:
        (image,) = (part["image"] for part in log["samples"][3]["input"][0]["content"] if part["type"] == "image")
        return str(image)

    content = base64.b64decode(image_of(logs["lora"]).removeprefix("data:image/jpeg;base64,"))
    assert Image.open(io.BytesIO(content)).size == (90, 180)
    export_inspect(study.study, tmp_path / "logs")
    (path,) = tmp_path.glob("logs/*_lora.json")
    assert Image.open(image_of(json.loads(path.read_text()))).size == (90, 180)


def test_equal_results_give_equal_logs(study: SyntheticStudy, tmp_path: Path) -> None:
    for name in ("one", "two"):
        export_inspect(study.study, tmp_path / name)
    files = [sorted((tmp_path / name).glob("*_*.json")) for name in ("one", "two")]
    assert [path.read_bytes() for path in files[0]] == [path.read_bytes() for path in files[1]]


def test_scores_that_are_missing_are_said(study: SyntheticStudy, tmp_path: Path) -> None:
    scores = study.root / "scores/lora/user_1.json"
    content = scores.read_bytes()
    scores.unlink()
    try:
        with pytest.raises(UserError, match=r"scores/lora/user_1.json: it does not exist yet\n.*snakemake"):
            export_inspect(study.study, tmp_path / "logs")
        assert not (tmp_path / "logs").exists()
    finally:
        scores.write_bytes(content)


def test_the_command(
    study: SyntheticStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(study.config))))
    words = f"usertune export --format inspect --study {tmp_path}/study.yaml --to {tmp_path}/logs"
    monkeypatch.setattr(sys, "argv", words.split())
    main()
    assert "inspect view --log-dir" in capsys.readouterr().out
    assert len(list(tmp_path.glob("logs/*_*.json"))) == 3


@pytest.mark.skipif(not INSPECT, reason="inspect_ai is not there; name a Python that has it in USERTUNE_INSPECT_PYTHON")
def test_inspect_itself_reads_the_logs(study: SyntheticStudy, logs: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    export_inspect(study.study, tmp_path / "logs", copy_images=True)
    command = [str(INSPECT), "-c", READ, str(tmp_path / "logs")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    read = {model: rest for _, model, *rest in json.loads(done.stdout.splitlines()[-1])}
    assert set(read) == {f"usertune/{name}" for name in study.experiments}
    for name, log in logs.items():
        count, score, metrics, texts, parts, first = read[f"usertune/{name}"]
        assert (count, score) == (24, "click_accuracy")
        assert metrics == {"mean": log["results"]["scores"][0]["metrics"]["mean"]["value"]}
        assert texts == [sample["output"]["completion"] for sample in log["samples"]]
        assert parts == ["ContentImage", "ContentText"]
        assert first == log["samples"][0]["scores"]["click_accuracy"]["value"]

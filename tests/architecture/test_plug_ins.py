"""Plug-ins are added as docs/extending.md says: each is one file and one line, in a copy of the package."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from usertune.data.readers.catalogue import READERS
from usertune.inference.engines.catalogue import ENGINES
from usertune.pipeline.plug_ins import current_code
from usertune.reporting.figure_files import figure_files
from usertune.study.load import study_from_config
from usertune.tasks.catalogue import TASKS

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = REPOSITORY / "docs" / "extending.md"
BLOCK = re.compile(r"^```python\n# (one line in )?src/usertune/(\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ENTRY = re.compile(r'^ +"\w+": "usertune\.[\w.]+:\w+",\n', re.MULTILINE)
CONFIG: dict[str, Any] = {
    "name": "small",
    "dataset": {"root": "data"},
    "users": {"test": 1},
    # Of the same family as the base model of the studies below.
    "base_model": {"path": str(REPOSITORY / "demo" / "base")},
    "experiments": {"vanilla": {"mode": "vanilla"}},
}
# Makes two small studies with the plug-ins of the page, by the package's own steps, and says what came out.
PROGRAM = """
import json, sys
from pathlib import Path
from PIL import Image
from tests.support.synthetic_study import SyntheticStudy
import usertune
from usertune.core.manifest import read_result
from usertune.data.samples import read_samples
from usertune.evaluation.answers import Answer
from usertune.evaluation.score import score_samples
from usertune.pipeline.plug_ins import current_code
from usertune.study.load import schema_text, study_from_config
from usertune.tasks.catalogue import get_task
from usertune.tasks.metrics import aggregates, at_thresholds

root, config = Path(sys.argv[1]), json.loads(sys.argv[2])


class Clicks(SyntheticStudy):
    def write_raw(self, user):
        self.dataset.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (90, 180), "red").save(self.dataset / "screen.png")
        table = self.dataset / "clicks.csv"
        if not table.exists():
            table.write_text("user,image,instruction,x,y\\n")
        with table.open("a") as file:
            file.write(f"{user},screen.png,Tap it,45,90\\n{user},screen.png,Tap that,9,18\\n")


changes = {
    "dataset": {"root": str(root / "clicks/dataset"), "format": "clicks"},
    "experiments": {
        "vanilla": {"mode": "vanilla", "engine": "point"},
        "corner": {"mode": "vanilla", "engine": {"kind": "point", "x": 0, "y": 10}},
    },
}
clicks = Clicks(root / "clicks", ["1", "2"], experiments=["vanilla"], changes=changes).write()
clicks.report()


class Taps(SyntheticStudy):
    def write_raw(self, user):
        self.dataset.mkdir(parents=True, exist_ok=True)
        turns = [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": "tap 512 304"}]
        (self.dataset / f"user_{user}.jsonl").write_text(json.dumps({"id": "a", "messages": turns}))


dataset = {"root": str(root / "taps/dataset"), "task": "tap"}
taps = Taps(root / "taps", ["1"], experiments=["vanilla"], changes={"dataset": dataset})
taps.write_raw("1")
taps.make("data/user_1.manifest.json")
tapped = read_samples(taps.samples_of("1"), "1")
metrics = at_thresholds(get_task("tap").metrics, [140, 5])
(row,) = score_samples("tap", metrics, tapped, {"a": Answer("tap 512 314")}, taps.samples_of("1"))

predictions, corner = (read_result(clicks.predictions(name)) for name in ("vanilla", "corner"))
print(json.dumps({
    "package": usertune.__file__,
    "targets": [sample["target"]["point"] for sample in read_samples(clicks.samples_of("1"), "1")],
    "answers": sorted({row["text"] for row in predictions["predictions"]}),
    "corner": corner,
    "device": predictions["provenance"]["predict"][0]["device"],
    "accuracy": read_result(root / "clicks/scores/vanilla/user_1.json")["click_accuracy"],
    "report": (root / "clicks/report.html").read_text(),
    "figure": read_result(root / "clicks/figures/samples_by_user.manifest.json"),
    "tapped": tapped[0]["target"]["point"],
    "tap_metrics": aggregates(metrics, [row]),
    "schema": schema_text(),
    "code": current_code(study_from_config(config)),
    "code_of_clicks": current_code(clicks.study),
}))
"""


def blocks() -> list[tuple[bool, str, str]]:
    """Return (whether it is one line for a file, the file in the package, the text) of the page's code blocks."""
    return [(bool(line), path, text) for line, path, text in BLOCK.findall(PAGE.read_text(encoding="utf-8"))]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the studies with the page's plug-ins give, in a copy of the package."""
    folder = tmp_path_factory.mktemp("plug_ins")
    package = folder / "src" / "usertune"
    shutil.copytree(REPOSITORY / "src" / "usertune", package, ignore=shutil.ignore_patterns("__pycache__"))
    for is_line, path, text in blocks():
        file = package / path
        assert file.exists() == is_line, path
        if is_line:
            assert ENTRY.fullmatch(text), text
            before = file.read_text(encoding="utf-8")
            last = list(ENTRY.finditer(before))[-1].end()
            text = before[:last] + text + before[last:]
        file.write_text(text, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder / "src"), str(REPOSITORY)])}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder), json.dumps(CONFIG)],
        env=environment, cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert found["package"] == str(package / "__init__.py")
    return found


def test_the_page_shows_one_file_and_one_line_for_each_kind() -> None:
    found = [(is_line, Path(path).parent.as_posix()) for is_line, path, _ in blocks()]
    folders = ["data/readers", "tasks", "inference/engines", "reporting/figures"]
    assert found == [(is_line, folder) for folder in folders for is_line in (False, True)]


def test_a_reader_of_the_page_reads(made: dict[str, Any]) -> None:
    assert made["targets"] == [[500, 500], [100, 100]]


def test_a_task_of_the_page_reads_answers_and_measures(made: dict[str, Any]) -> None:
    assert made["tapped"] == [512, 304]
    accuracy = {"tap_accuracy": 1, "tap_accuracy_at": {"140": 1, "5": 0}}
    assert made["tap_metrics"] == {**accuracy, "mean_distance": 10}


def test_an_engine_of_the_page_answers(made: dict[str, Any]) -> None:
    assert made["answers"] == ["```grounding\n[500, 500]\n```"]
    assert (made["device"], made["accuracy"]) == ("a point", 0.5)


def test_an_engine_of_the_page_has_settings_for_one_experiment(made: dict[str, Any]) -> None:
    corner = made["corner"]
    assert (corner["recipe"]["engine"], corner["recipe"]["engine_settings"]) == ("point", {"x": 0, "y": 10})
    assert {row["text"] for row in corner["predictions"]} == {"```grounding\n[0, 10]\n```"}
    (record,) = corner["provenance"]["predict"]
    assert record["code"] == made["code_of_clicks"]["predict:point"] != made["code_of_clicks"]["predict"]


def test_a_figure_of_the_page_is_drawn_and_reported_with_its_own_words(made: dict[str, Any]) -> None:
    manifest = made["figure"]
    assert set(manifest["files"]) == set(figure_files("samples_by_user").values())
    for key in ("title", "alternative", "caption"):
        assert manifest[key] in made["report"]
    assert manifest["title"] == "Samples of each user"


def test_the_schema_names_the_plug_ins_of_the_page(made: dict[str, Any]) -> None:
    schema = json.loads(made["schema"])["$defs"]
    assert schema["Dataset"]["properties"]["format"]["enum"] == [*READERS, "clicks"]
    assert schema["Dataset"]["properties"]["task"]["enum"] == [*TASKS, "tap"]
    name, with_settings = schema["EngineChoice"]["anyOf"]
    assert name["enum"] == with_settings["properties"]["kind"]["enum"] == [*ENGINES, "point"]
    assert list(schema["Figures"]["properties"])[-1] == "samples_by_user"


def test_plug_ins_change_the_code_version_of_no_step_that_does_not_use_them(made: dict[str, Any]) -> None:
    before = current_code(study_from_config(CONFIG))
    assert made["code"] == before | {"figure:samples_by_user": made["code"]["figure:samples_by_user"]}
    changed = {step for step, version in before.items() if made["code_of_clicks"][step] != version}
    # Two experiments: the report draws their costs.
    assert changed == {"prepare", "audit", "report"}
    assert made["code_of_clicks"].keys() - before.keys() == {"predict:point"} | {"figure:samples_by_user"}

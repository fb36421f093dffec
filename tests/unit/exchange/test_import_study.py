"""A study for raw data in one command: the format, the frame, the users, and what the data do not decide."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.support.datasets import LAYOUTS
from tests.support.fingertip_tree import write_users
from usertune.core.errors import UserError
from usertune.data.prepare import check_user
from usertune.data.readers.catalogue import READERS
from usertune.data.recipe import PrepareRecipe
from usertune.data.recognise import Recognises
from usertune.exchange.import_study import import_study
from usertune.exchange.look import look_at
from usertune.pipeline.recipes import Recipes
from usertune.study.load import load_study
from usertune.study.schema.study import Study

REPOSITORY = Path(__file__).resolve().parents[3]
BASE = REPOSITORY / "demo" / "base"
RECOGNISED = [name for name, layout in LAYOUTS.items() if isinstance(READERS.load(layout.format), Recognises)]


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def imported(source: str | Path, **options: Any) -> Study:
    """Import data, and prepare every user of the study that was written."""
    import_study(Path(source), Path("mine.yaml"), base_model=str(BASE), **options)
    study = load_study([Path("mine.yaml")])
    for user in study.all_users:
        recipe = PrepareRecipe.parse(Recipes(study).prepare())
        assert check_user(recipe, Path(study.dataset.root), user).samples
    return study


def test_these_formats_are_recognised() -> None:
    assert {LAYOUTS[name].format for name in RECOGNISED} >= {"messages", "qwen", "screenspot"}


@pytest.mark.parametrize("name", RECOGNISED)
@pytest.mark.parametrize("as_file", [False, True], ids=["folder", "file"])
def test_every_format_is_recognised_and_its_study_prepares(name: str, as_file: bool) -> None:
    layout = LAYOUTS[name]
    layout.write(Path("data"))
    one_file = "{user}" not in layout.file
    study = imported(layout.path(Path("data")) if as_file and one_file else "data")
    assert study.dataset.format == layout.format
    assert study.dataset.options.get("images", "") == layout.options.get("images", "")
    assert study.dataset.options.get("box") == layout.options.get("box")
    if layout.format == "messages":
        assert len(study.all_users) == 2
        assert "lora" in study.experiments


def test_a_fingertip_tree_is_recognised() -> None:
    write_users(Path("data"), range(1, 21))
    study = imported("data")
    assert (study.dataset.format, study.dataset.frame) == ("fingertip", "pixels")
    counts = [len(getattr(study.users, split)) for split in ("train", "validation", "test")]
    assert (counts[0], sum(counts)) == (16, 20)
    assert list(study.experiments) == ["vanilla", "lora"]


def spread(frame: str, count: int = 100) -> None:
    """Write a Qwen JSON with points all over large screens, in a frame."""
    chance = random.Random(0)
    size = (1080, 2340)
    Path("data").mkdir()
    Image.new("RGB", size, "white").save("data/screen.png")
    samples = []
    for number in range(count):
        x, y = chance.random(), chance.random()
        at = {"relative_1": (x, y), "relative_1000": (1000 * x, 1000 * y), "pixels": (size[0] * x, size[1] * y)}[frame]
        digits = 3 if frame == "relative_1" else 0
        turns = [
            {"from": "human", "value": f"<image>\nWhere is part {number}?"},
            {"from": "gpt", "value": f"```grounding\n[{at[0]:.{digits}f}, {at[1]:.{digits}f}]\n```"},
        ]
        samples.append({"image": "screen.png", "conversations": turns})
    Path("data/train.json").write_text(json.dumps(samples))


@pytest.mark.parametrize("frame", ["relative_1000", "relative_1", "pixels"])
def test_the_frame_of_many_numbers_is_found(frame: str) -> None:
    spread(frame)
    look = look_at(Path("data/train.json"))
    assert (look.frame, look.is_decided) == (frame, True), look.decided
    assert imported("data").dataset.frame == frame
    assert "NOT DECIDED" not in Path("mine.yaml").read_text()


def test_a_frame_that_the_numbers_do_not_decide_is_said() -> None:
    spread("relative_1000", count=3)
    said = import_study(Path("data"), None, base_model=str(BASE))
    assert (
        "frame: relative_1000 (the numbers fit relative_1000 and pixels; this one is usual for the format) - NOT D"
        in said
    )
    assert said.endswith("wrote data.yaml; run it by: snakemake --profile local --configfile data.yaml")
    assert "# NOT DECIDED by the data; check it before you train." in Path("data.yaml").read_text()


def test_data_without_users_are_evaluated_and_the_study_says_how_to_train() -> None:
    LAYOUTS["screenspot"].write(Path("data"))
    study = imported("data/screenspot_desktop_v2.json")
    assert (study.users.train, study.users.test, list(study.experiments)) == ((), ("all",), ["vanilla"])
    assert "To train, split them between users: dataset.options.user" in " ".join(
        Path("mine.yaml").read_text().split("\n  # ")
    )


def test_bad_samples_are_said_and_left_out() -> None:
    layout = LAYOUTS["qwen-lines"]
    layout.write(Path("data"))
    path = layout.path(Path("data"))
    lines = path.read_text().splitlines()
    broken = json.loads(lines[0]) | {"image": "images/missing.png", "id": "b\nc"}
    path.write_text("\n".join([*lines, json.dumps(broken)]) + "\n")
    study = imported("data")
    assert study.dataset.on_bad_sample == "skip"
    said = import_study(Path("data"), Path("other.yaml"))
    assert "format: qwen" in said
    assert "1 of 7 samples looked at cannot be used:\n" in said
    assert "the image images/missing.png does not exist" in said


def test_data_with_some_damaged_samples_are_recognised() -> None:
    layout = LAYOUTS["qwen"]
    layout.write(Path("data"))
    path = layout.path(Path("data"))
    layout.dump(path, [{"image": "images/user_1/1.png"}, *json.loads(path.read_text())])
    assert imported("data").dataset.on_bad_sample == "skip"
    assert "conversations: a list of turns is needed" in Path("mine.yaml").read_text()


def test_what_fits_no_format_is_answered_with_what_was_looked_for() -> None:
    Path("data").mkdir()
    with pytest.raises(UserError, match=r"^data: the folder is empty$"):
        import_study(Path("data"), None)
    Path("data/notes.txt").write_text("nothing")
    with pytest.raises(
        UserError, match=r"(?s)^data: no format fits\. Looked for:\n  messages: user_<id>\.jsonl\n.*data\.md$"
    ):
        import_study(Path("data"), None)
    with pytest.raises(UserError, match="there is no such file or folder"):
        import_study(Path("nowhere"), None)
    with pytest.raises(UserError, match="'clay' is not known; use one of:"):
        import_study(Path("data"), None, "clay")
    for name, content in (("a.json", b"\xff\xfe"), ("b.jsonl", b"{" * 50), ("c.json", b"[1, 2]"), ("d.json", b"")):
        Path(name).write_bytes(content)
        with pytest.raises(UserError, match="no format fits"):
            import_study(Path(name), None)
    assert sorted(path.suffix for path in Path().iterdir()) == ["", ".json", ".json", ".json", ".jsonl"]


def test_a_format_can_be_asked_for() -> None:
    LAYOUTS["qwen"].write(Path("data"))
    with pytest.raises(UserError, match=r"^data: no format fits\. Looked for:\n  messages: "):
        import_study(Path("data"), None, "messages")
    assert imported("data", wanted="qwen").dataset.format == "qwen"


def test_a_study_is_never_overwritten() -> None:
    LAYOUTS["qwen"].write(Path("data"))
    Path("data.yaml").write_text("mine")
    with pytest.raises(UserError, match=r"data\.yaml: the file exists; name another one"):
        import_study(Path("data"), None)
    with pytest.raises(UserError, match="the folder nowhere does not exist"):
        import_study(Path("data"), Path("nowhere/a.yaml"))
    assert Path("data.yaml").read_text() == "mine"
    assert sorted(path.name for path in Path().iterdir()) == ["data", "data.yaml"]


def test_names_that_yaml_would_read_otherwise_are_quoted(tmp_path: Path) -> None:
    folder = tmp_path / "1e3: #données"
    LAYOUTS["messages-table"].write(folder)
    shutil.move(folder / "samples.jsonl", folder / "no")
    shutil.move(folder / "no", folder / "on: # x.jsonl")
    study = imported(folder / "on: # x.jsonl")
    assert study.dataset.options["file"] == "on: # x.jsonl"
    assert Path(study.dataset.root).name == folder.name


@pytest.mark.workflow
@pytest.mark.parametrize("name", ["screenspot", "qwen"])
def test_from_raw_data_to_a_dry_run_in_one_command(name: str) -> None:
    layout = LAYOUTS[name]
    layout.write(Path("data"))
    command = [sys.executable, "-m", "usertune", "import", str(layout.path(Path("data"))), "--base-model", str(BASE)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    study = done.stdout.split()[-1]
    dry = [sys.executable, "-m", "snakemake", "-n", "--snakefile", str(REPOSITORY / "Snakefile"), "--configfile", study]
    planned = subprocess.run([*dry, "--cores", "1"], capture_output=True, text=True, timeout=120)
    assert planned.returncode == 0, planned.stdout + planned.stderr
    assert "predict" in planned.stdout

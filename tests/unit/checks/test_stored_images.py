"""A complete study with images inside the raw data's files: every later step finds the copies."""

from __future__ import annotations

import json
import shutil
from contextlib import chdir
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.support.auditing import audit, found
from tests.support.datasets import save_to_disk
from tests.support.synthetic_study import SyntheticStudy
from usertune.checks.freshness import Freshness
from usertune.core.hashing import digest_file
from usertune.core.manifest import read_result
from usertune.data.measure_leakage import hashes_of
from usertune.data.perceptual_hash import HashStore
from usertune.data.recipe import PrepareRecipe
from usertune.data.samples import read_user
from usertune.exchange.export_samples import export_samples

COLUMNS = {"instruction": "instruction", "image": "image", "answer": "answer", "id": "id"}
DATASET = {
    "root": "dataset",
    "format": "parquet",
    "frame": "relative_1000",
    "options": {"columns": COLUMNS, "user": "user"},
}


def row(line: str, user: str) -> dict[str, Any]:
    sample = json.loads(line)
    question, answer = (turn["content"] for turn in sample["messages"])
    image = Path("dataset", question[0]["image"]).read_bytes()
    texts = {"instruction": question[1]["text"], "answer": answer, "id": sample["id"], "user": user}
    return {**texts, "image": {"bytes": image, "path": "../nowhere.png"}}


def new_study() -> SyntheticStudy:
    return SyntheticStudy(Path(), users=["1", "2"], samples=2, experiments=["vanilla"], changes={"dataset": DATASET})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a complete study whose screenshots are inside the raw data; their files are gone."""
    folder = tmp_path_factory.mktemp("study")
    with chdir(folder):
        make()
    return folder


@pytest.fixture
def study(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SyntheticStudy:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return new_study()


def make() -> None:
    study = new_study()
    table = []
    for user in ("t1", "t2", "v1", "1", "2"):
        study.write_raw(user)
        table += [row(line, user) for line in Path(f"dataset/user_{user}.jsonl").read_text().splitlines()]
    shutil.rmtree("dataset")
    save_to_disk(Path("dataset"), pa.Table.from_pylist(table))
    shutil.copytree(Path(__file__).parents[3] / "demo" / "base", "base")
    study.make_all("prepare", "base_model", "predict", "leakage", "score", "compare", "figure", "audit")
    study.report()


def test_every_step_finds_the_copies(study: SyntheticStudy) -> None:
    assert Path("report.html").read_text().count("data:image/jpeg;base64,") >= 2
    outcome = audit(study)
    assert (outcome.findings, outcome.unreferenced) == ([], [])
    _, samples = read_user("data/user_1.manifest.json")
    hashes, unreadable = hashes_of("1", samples, Path("dataset"), HashStore(Path("other")))
    assert (len(hashes), unreadable) == (2, 0)
    for written in Path("predictions").rglob("*.json*"):
        assert "data/images/" not in written.read_text()


@pytest.mark.parametrize("copied", [False, True], ids=["by path", "copied"])
def test_an_export_names_or_copies_them(study: SyntheticStudy, copied: bool) -> None:
    export_samples(study.study, "swift", Path("out/exported"), copied)
    lines = Path("out/exported/test.jsonl").read_text().splitlines()
    samples = [sample for user in ("1", "2") for sample in read_user(f"data/user_{user}.manifest.json")[1]]
    for line, sample in zip(lines, samples, strict=True):
        (path,) = json.loads(line)["images"]
        assert Path(path).is_absolute() is not copied
        assert digest_file(Path("out/exported") / path) == sample["images"][0]["sha256"]


def test_a_copy_that_is_gone_or_cut_short_is_made_again(study: SyntheticStudy) -> None:
    manifest = "data/user_1.manifest.json"
    copy = Path("data", next(iter(read_result(manifest)["stored_images"])))
    whole = copy.read_bytes()
    for damage, kind in ((copy.unlink, "missing"), (lambda: copy.write_bytes(whole[:20]), "modified")):
        damage()
        assert (kind, copy.as_posix()) in found(study)
        freshness = Freshness(study.study, study.recipes)
        assert manifest in freshness.to_repair()
        recipe = json.loads(freshness.recipe(manifest))
        assert "rebuild" in recipe
        study.make(manifest, PrepareRecipe.model_validate(recipe).as_json())
        assert copy.read_bytes() == whole
        assert (kind, copy.as_posix()) not in found(study)


def test_a_store_that_is_gone_is_reported_for_every_user(study: SyntheticStudy) -> None:
    shutil.rmtree("data/images")
    missing = [path for kind, path in found(study) if kind == "missing"]
    assert len(missing) == 5
    assert all(path.startswith("data/images/") for path in missing)

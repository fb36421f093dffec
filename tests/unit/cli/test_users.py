"""`usertune users` lists the users of each split, with their ids in the data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.fingertip_tree import write_users
from usertune.cli.main import main


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study of five users, whose ids in the data have gaps."""
    write_users(tmp_path / "data", [1, 3, 4, 9, 10])
    study = {
        "name": "small",
        "dataset": {"root": "data", "format": "fingertip", "options": {"renumber": True}},
        "users": {"train": "rest", "validation": "20 %", "test": "1-2"},
        "base_model": {"path": "base"},
        "experiments": {"vanilla": {"mode": "vanilla"}},
    }
    (tmp_path / "study.yaml").write_text(json.dumps(study))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "study.yaml"


def test_each_split_is_listed(study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["usertune", "users", "--study", "study.yaml"])
    main()
    assert capsys.readouterr().out.splitlines() == [
        "train: 2 users: 3,5 (in the data: 4,10)",
        "validation: 1 users: 4 (in the data: 9)",
        "test: 2 users: 1-2 (in the data: 1,3)",
    ]
    monkeypatch.setattr("sys.argv", ["usertune", "users", "--study", "study.yaml", "--csv"])
    main()
    assert capsys.readouterr().out.splitlines() == [
        "split,user,id_in_data", "train,3,4", "train,5,10", "validation,4,9", "test,1,1", "test,2,3"
    ]  # fmt: skip


def test_a_user_without_raw_data_is_an_error(
    study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["usertune", "users", "--study", "study.yaml", "--config", "test_users=6"])
    with pytest.raises(SystemExit):
        main()
    assert "users.test: no raw data in data for user 6; found 5 users there: 1-5" in "".join(capsys.readouterr())

"""Variables of launchers count only in processes that usertune launched."""

from __future__ import annotations

import os

import pytest

from usertune.runtime.launchers import PARENT, launched_rank, no_launcher

LEFT = {"RANK": "1", "WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "x", "OMPI_COMM_WORLD_SIZE": "2", "PMI_RANK": "1"}


def test_they_are_gone_inside_and_back_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**LEFT, "SLURM_PROCID": "1", "RANKING": "kept"}.items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)
    with pytest.raises(RuntimeError), no_launcher():
        assert not LEFT.keys() & os.environ.keys()
        assert os.environ["SLURM_PROCID"] == "1", "srun and usertune read it, no training library does"
        assert os.environ["RANKING"] == "kept"
        raise RuntimeError
    assert dict(os.environ) == before


def test_only_a_launched_process_has_a_rank() -> None:
    assert launched_rank({"RANK": "3"}) == 0
    assert launched_rank({"RANK": "3", PARENT: "17"}) == 3

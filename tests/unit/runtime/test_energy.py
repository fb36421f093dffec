"""The energy of GPUs, from a stand-in for NVIDIA's management library."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from tests.support.nvml import StandInNvml
from usertune.core.files import read_json, write_json
from usertune.runtime.energy import EnergyMeter, added
from usertune.training.effort import RECORD, Effort

GPUS = ("GPU-a", "GPU-b")


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> StandInNvml:
    library = StandInNvml(dict.fromkeys(GPUS, 7_000))
    monkeypatch.setitem(sys.modules, "pynvml", library)
    return library


def test_energy_is_what_the_counters_gained(nvml: StandInNvml) -> None:
    meter = EnergyMeter(GPUS)
    assert meter.joules() == 0
    nvml.counters["GPU-a"] += 1_500
    nvml.counters["GPU-b"] += 500
    assert meter.joules() == 2


def test_what_cannot_be_measured_is_not_known(nvml: StandInNvml, monkeypatch: pytest.MonkeyPatch) -> None:
    assert EnergyMeter([]).joules() is None
    assert EnergyMeter(["GPU-c"]).joules() is None
    assert EnergyMeter(["GPU-a", "MIG-a"]).joules() is None
    meter = EnergyMeter(GPUS)
    nvml.counters["GPU-a"] = 0
    assert meter.joules() is None, "the driver was loaded anew"
    nvml.refuses = True
    assert EnergyMeter(GPUS).joules() is None
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert EnergyMeter(GPUS).joules() is None


def test_the_energy_of_a_training_is_that_of_all_attempts(tmp_path: Path) -> None:
    first = Effort(tmp_path, time.monotonic(), {})
    first.energy = lambda: 40.0
    first.note()
    second = Effort(tmp_path, time.monotonic(), {})
    assert second.total()["energy_joules"] is None, "that of the second attempt is not known"
    second.energy = lambda: 2.5
    assert second.total()["energy_joules"] == 42.5
    record = read_json(tmp_path / RECORD)
    del record["attempts"][0]["energy_joules"]
    write_json(tmp_path / RECORD, record)
    older = Effort(tmp_path, time.monotonic(), {})
    older.energy = lambda: 2.5
    assert older.total()["energy_joules"] is None
    assert older.total()["attempts"] == 2


def test_a_sum_is_known_if_all_its_parts_are() -> None:
    assert [added([1.0, 2.0]), added([1.0, None]), added([])] == [3.0, None, None]

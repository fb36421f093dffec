"""Stands in for NVIDIA's management library, as its package `pynvml` offers it."""

from __future__ import annotations

from types import ModuleType


class NVMLError(Exception):
    """What the library raises."""


class StandInNvml(ModuleType):
    """Counters of millijoules by UUID: each look adds ``step`` to one."""

    def __init__(self, counters: dict[str, int], step: int = 0) -> None:
        super().__init__("pynvml")
        self.counters, self.step, self.refuses = counters, step, False

    def nvmlInit(self) -> None:  # noqa: N802 (its name there)
        pass

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        if uuid not in self.counters:
            raise NVMLError("Not Found")
        return uuid

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:  # noqa: N802
        if self.refuses:
            raise NVMLError("Not Supported")
        self.counters[handle] += self.step
        return self.counters[handle]

"""Energy that GPUs use, from the counter of NVIDIA's management library (NVML), where it is known."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Sequence
from typing import Any

logger = logging.getLogger(__name__)

# The module of the package nvidia-ml-py, which usertune does not need.
LIBRARY = "pynvml"


class EnergyMeter:
    """Measures the energy of GPUs since it was made. Never raises: what is not known is None.

    It is not known without GPUs, without the package or the driver, on GPUs older than Volta, for slices of a GPU
    (MIG), whose counter is that of the complete GPU, and if the driver was loaded anew in between.

    Args:
        gpus: UUIDs as nvidia-smi writes them.
    """

    def __init__(self, gpus: Sequence[str]) -> None:
        self._library: Any = None
        self._handles: list[Any] = []
        self._start: list[int] = []
        if not gpus or not all(gpu.startswith("GPU-") for gpu in gpus):
            return
        try:
            library = importlib.import_module(LIBRARY)
            # Counted by the library: others in this process can end theirs. The end of the process ends this one.
            library.nvmlInit()
            self._handles = [library.nvmlDeviceGetHandleByUUID(gpu) for gpu in gpus]
            self._start = [library.nvmlDeviceGetTotalEnergyConsumption(handle) for handle in self._handles]
            self._library = library
        except Exception as problem:
            logger.debug("energy is not measured: %r", problem)

    def joules(self) -> float | None:
        """Return the energy of all GPUs together since the meter was made, in joules."""
        if self._library is None:
            return None
        try:
            # The counter is in millijoules.
            now = [self._library.nvmlDeviceGetTotalEnergyConsumption(handle) for handle in self._handles]
        except Exception as problem:
            logger.debug("energy is not measured: %r", problem)
            return None
        used = [end - start for start, end in zip(self._start, now, strict=True)]
        return sum(used) / 1000 if min(used) >= 0 else None


def added(values: Sequence[float | None]) -> float | None:
    """Return the sum of energies; None if one of them is not known, or there are none."""
    known = [value for value in values if value is not None]
    return sum(known) if known and len(known) == len(values) else None

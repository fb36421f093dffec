"""Commands run in the process of the tests, which must find its logging and its signals as they were."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator

import pytest

from usertune.runtime.signals import obeyed_signals


@pytest.fixture(autouse=True)
def _restored_process() -> Iterator[None]:
    logger = logging.getLogger("usertune")
    before = (logger.handlers, logger.level, logger.propagate, logging.raiseExceptions)
    handlers = {number: signal.getsignal(number) for number in obeyed_signals()}
    yield
    logger.handlers, logger.level, logger.propagate, logging.raiseExceptions = before
    for number, handler in handlers.items():
        signal.signal(number, handler)

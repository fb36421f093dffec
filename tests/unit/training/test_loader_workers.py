"""Loader workers send their batches however long TMPDIR is; a batch that cannot be sent ends training."""

from __future__ import annotations

import multiprocessing.connection
import resource
import signal
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch.utils.data import DataLoader

from tests.support.calls import train
from tests.unit.conftest import EXECUTION, TRAIN_STEP_BY_STEP, Prepared
from usertune.core.errors import FinalError
from usertune.training import loader_workers
from usertune.training.loader_workers import MAX_SOCKET_PATH_BYTES, SOCKET, socket_folder, worker_setup

WITH_A_WORKER = {**EXECUTION, "micro_batch_size": 2, "dataloader_num_workers": 1}


def _folder_of_length(length: int, below: Path) -> str:
    folder = below / ("x" * (length - len(f"{below}/")))
    folder.mkdir()
    return str(folder)


def _loader(setup: Callable[[int], None]) -> DataLoader[Any]:
    # The timeout is for a batch that is never sent.
    samples: Any = [torch.ones(1000), torch.zeros(1000)]
    return DataLoader(samples, collate_fn=torch.stack, num_workers=1, worker_init_fn=setup, timeout=30)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_training_with_a_long_tmpdir_leaves_no_socket_however_it_ends(
    number: int, prepared: Prepared, tmp_path: Path, run_python: Callable[..., subprocess.Popen[str]]
) -> None:
    arguments = prepared.train_arguments(tmp_path / "out", prepared.train_recipe(epochs=1, batch_size=2))
    arguments["execution"] = WITH_A_WORKER
    process = run_python(TRAIN_STEP_BY_STEP, arguments, TMPDIR=_folder_of_length(120, tmp_path))
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "1\n"
        (worker,) = psutil.Process(process.pid).children()
        sockets = [Path(connection.laddr) for connection in worker.net_connections("unix") if connection.laddr]
        assert sockets
        assert all(path.exists() and path.parent.parent == socket_folder() for path in sockets)
        process.send_signal(number)
        if number == signal.SIGINT:
            _, error = process.communicate("\n" * 9, timeout=60)
            assert "Traceback" not in error
            assert process.returncode == 128 + signal.SIGINT, error
        else:
            process.wait()
        # A worker asks every few seconds whether its parent still runs.
        worker.wait(30)
        assert not any(path.parent.exists() for path in sockets)
    finally:
        process.kill()
        process.communicate()


def test_tmpdir_is_used_as_long_as_a_socket_fits_into_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    longest = MAX_SOCKET_PATH_BYTES - len(SOCKET) - 1
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        usual = _folder_of_length(longest, Path(short))
        monkeypatch.setattr(tempfile, "tempdir", usual)
        assert socket_folder() == Path(usual)
        assert len(list(_loader(worker_setup()))) == 2
        monkeypatch.setattr(tempfile, "tempdir", _folder_of_length(longest + 1, Path(short)))
        assert socket_folder() == Path("/tmp")
        assert len(list(_loader(worker_setup()))) == 2


def test_the_length_is_that_of_the_sockets_that_python_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    # Otherwise this process keeps the folder, and so do its workers.
    monkeypatch.setitem(multiprocessing.current_process()._config, "tempdir", None)  # type: ignore[attr-defined]
    path = multiprocessing.connection.arbitrary_address("AF_UNIX")  # type: ignore[attr-defined]
    assert len(path) == len(f"{tempfile.gettempdir()}/{SOCKET}")


def test_without_a_short_folder_training_ends_before_it_waits_for_a_gpu(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 60 characters, 120 bytes.
    monkeypatch.setattr(tempfile, "tempdir", "/" + "ü" * 60)
    monkeypatch.setattr(loader_workers, "SHORT_FOLDERS", (tmp_path / "missing",))
    with pytest.raises(FinalError, match=r"^TMPDIR is /üü.*, too long .* at most 75 bytes, or dataloader_num_workers"):
        # More GPUs than any machine has, so this is what an attempt would fail with.
        train(**{**prepared.train_arguments(tmp_path / "out"), "gpus": 999, "execution": WITH_A_WORKER})


def _without_space(worker: int) -> None:
    worker_setup()(worker)
    # Shared memory is a file, so this is what a full /dev/shm is.
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))


def _removing_the_folder(worker: int) -> None:
    worker_setup()(worker)
    Path(tempfile.gettempdir()).rmdir()


def test_a_batch_that_cannot_be_sent_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError, match=r"(?s)could not send a batch.*unable to resize file .*File too large"):
        list(_loader(_without_space))
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        monkeypatch.setattr(tempfile, "tempdir", _folder_of_length(40, Path(short)))
        with pytest.raises(FileNotFoundError, match=r"(?s)could not send a batch.*pymp-"):
            list(_loader(_removing_the_folder))

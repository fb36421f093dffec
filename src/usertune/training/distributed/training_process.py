"""One training process; torchrun starts it with a task file."""

from __future__ import annotations

import logging
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any, NoReturn

from usertune.core.errors import FinalError, LackOfMemoryError, StopRequested, UserError
from usertune.core.files import read_json, write_json
from usertune.runtime import step_main
from usertune.runtime.launchers import PARENT, launched_rank
from usertune.runtime.memory import ran_out
from usertune.runtime.signals import EXIT_ENDED, SignalWatch, end_with_parent
from usertune.training.distributed.launch import STOP_REQUEST, report_file
from usertune.training.processes import Processes
from usertune.training.recipe import TrainTask
from usertune.training.train import train_in_this_process

# torchrun polls for ended processes ten times a second and reports the first it finds. When one process is killed, the
# others fail at once because it no longer answers; they wait this long so that torchrun finds the cause first.
WAIT_SECONDS = 3.0


def main(task_file: Path) -> int:
    """Train with the other processes as the task file says, and write a report.

    Returns:
        The exit code; 0 also after a stop, which is not a failure.
    """
    signals = SignalWatch()
    end_with_parent()
    if os.getppid() != int(os.environ[PARENT]):
        return EXIT_ENDED
    step_main.configure_logging(None)
    rank = launched_rank()
    if rank:
        logging.getLogger("usertune").setLevel(logging.WARNING)
    exchange = task_file.parent

    def report(kind: str, **more: Any) -> None:
        write_json(report_file(exchange, rank), {"kind": kind, **more})

    try:
        measured = _train(read_json(task_file), exchange, rank, signals)
    except StopRequested as stopped:
        report("stopped", signal=stopped.signal)
    except UserError as error:
        report(_kind(error), message=str(error))
        return step_main.EXIT_USER_ERROR
    except OSError as error:
        report("disk", number=error.errno, message=error.strerror or str(error), file=error.filename)
        return step_main.EXIT_FAILURE
    except Exception as error:
        if ran_out(error):
            report("lack_of_memory", message=f"out of memory before training started ({error})")
            return step_main.EXIT_USER_ERROR
        report("failed", message=traceback.format_exc())
        time.sleep(WAIT_SECONDS)
        return step_main.EXIT_FAILURE
    else:
        report("done", measured=measured)
    _destroy_process_group()
    return 0


def _kind(error: UserError) -> str:
    if isinstance(error, LackOfMemoryError):
        return "lack_of_memory"
    return "final" if isinstance(error, FinalError) else "user_error"


def _train(message: dict[str, Any], exchange: Path, rank: int, signals: SignalWatch) -> dict[str, Any]:
    # Imported here, after the signals are blocked, so that torch's threads inherit this.
    from usertune.training.callbacks import StopTogether

    def stop_signal() -> int | None:
        if rank == 0 and (request := exchange / STOP_REQUEST).exists():
            return int(request.read_text(encoding="utf-8"))
        return signals.signal

    processes = Processes(**message["processes"])
    task = TrainTask.model_validate({key: message[key] for key in TrainTask.model_fields})
    return train_in_this_process(task, processes, rank, StopTogether(stop_signal))


def _destroy_process_group() -> None:
    from torch import distributed

    if distributed.is_initialized():
        distributed.destroy_process_group()


def _exit_now(exit_code: int) -> NoReturn:
    # Not sys.exit: torch's threads may wait for processes that have ended, or abort during the interpreter's shutdown.
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)


if __name__ == "__main__":
    _exit_now(main(Path(sys.argv[1])))

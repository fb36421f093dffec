"""One of the processes of a training, as torchrun starts it with the file of its task."""

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

# torchrun looks ten times a second for processes that ended, and names the first that it finds. Where one is killed,
# the others fail at once, for lack of an answer; they wait so long that the cause is found before the consequence.
WAIT_SECONDS = 3.0


def main(task_file: Path) -> int:
    """Train as the task says, with the other processes, and report how it ended.

    Returns:
        The exit code: 0 also after a stop, which is no failure.
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
            report("lack_of_memory", message=f"out of memory before training began ({error})")
            return step_main.EXIT_USER_ERROR
        report("failed", message=traceback.format_exc())
        time.sleep(WAIT_SECONDS)
        return step_main.EXIT_FAILURE
    else:
        report("done", measured=measured)
    _part()
    return 0


def _kind(error: UserError) -> str:
    if isinstance(error, LackOfMemoryError):
        return "lack_of_memory"
    return "final" if isinstance(error, FinalError) else "user_error"


def _train(message: dict[str, Any], exchange: Path, rank: int, signals: SignalWatch) -> dict[str, Any]:
    # Imported here, after the signals were blocked: the threads that torch starts inherit that.
    from usertune.training.callbacks import StopTogether

    def stop_signal() -> int | None:
        if rank == 0 and (request := exchange / STOP_REQUEST).exists():
            return int(request.read_text(encoding="utf-8"))
        return signals.signal

    processes = Processes(**message["processes"])
    task = TrainTask.model_validate({key: message[key] for key in TrainTask.model_fields})
    return train_in_this_process(task, processes, rank, StopTogether(stop_signal))


def _part() -> None:
    from torch import distributed

    if distributed.is_initialized():
        distributed.destroy_process_group()


def _leave(exit_code: int) -> NoReturn:
    # At once, since torch's threads may wait for processes which are gone, or abort while the interpreter ends.
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)


if __name__ == "__main__":
    _leave(main(Path(sys.argv[1])))

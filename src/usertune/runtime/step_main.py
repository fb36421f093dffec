"""What the programs in ``scripts/`` share: arguments, a log file, and how an error reaches the person."""

from __future__ import annotations

import argparse
import json
import logging
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from usertune.core.errors import StopRequested, UserError
from usertune.runtime import cpu_threads, job_record
from usertune.runtime.memory import ran_out
from usertune.runtime.signals import obeyed_signals

EXIT_FAILURE = 1
EXIT_USER_ERROR = 2
# EX_TEMPFAIL of sysexits.h: "temporary failure, user is invited to retry".
EXIT_TRY_AGAIN = 75

logger = logging.getLogger("usertune")


def argument_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser whose ``--help`` shows the program's docstring and which knows ``--log``."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--log", type=Path, metavar="FILE", help="also write messages and errors to this file")
    return parser


def add_recipe(parser: argparse.ArgumentParser, keys: str) -> None:
    """Add ``--recipe``, the part of the study that the program depends on, as JSON; ``keys`` documents it."""
    parser.add_argument("--recipe", required=True, type=_json_object, metavar="JSON", help=keys)


def run(
    parser: argparse.ArgumentParser,
    main: Callable[[argparse.Namespace], object],
    words: Sequence[str] | None = None,
) -> None:
    """Parse the command line, call ``main`` and leave with an exit code.

    A `UserError` and a lack of memory are shown as their message alone (exit code 2); a full or read-only disk
    likewise; anything else with its traceback (exit code 1). SIGTERM and SIGUSR1, which schedulers send before they
    end a job, and SIGHUP of a closed terminal unwind like Ctrl-C, so that ``with`` blocks clean up, and give exit
    code 75: the same command goes on from there.
    Beside the log a record is kept of how it goes (see `job_record`).
    """
    arguments = parser.parse_args(words)
    cpu_threads.wait_asleep()
    for number in obeyed_signals():
        if number != signal.SIGINT:
            signal.signal(number, _stop)
    try:
        configure_logging(arguments.log)
        with job_record.kept(arguments.log):
            main(arguments)
    except UserError as error:
        logger.error("%s", error)
        sys.exit(EXIT_USER_ERROR)
    except BrokenPipeError:
        # Who read the output has enough of it, as in: ... | head
        sys.stdout = None  # type: ignore[assignment]
        sys.exit(EXIT_FAILURE)
    except OSError as error:
        logger.error("%s", error, exc_info=error.filename is None)
        sys.exit(EXIT_FAILURE)
    except KeyboardInterrupt as stop:
        logger.error("interrupted; what was finished is kept, and the next run continues from there")
        by_person = not isinstance(stop, StopRequested) or stop.signal == signal.SIGINT
        sys.exit(128 + signal.SIGINT if by_person else EXIT_TRY_AGAIN)
    except Exception as error:
        if ran_out(error):
            logger.error("out of memory (%s: %s); give the job more of it", type(error).__name__, error)
            sys.exit(EXIT_USER_ERROR)
        logger.exception("this should not have happened; please report it with the lines below")
        sys.exit(EXIT_FAILURE)


def configure_logging(log_file: Path | None) -> None:
    """Send the package's messages to standard error and, with the time, to ``log_file``."""
    # A log file on a full disk must not bury in tracebacks the message that says so.
    logging.raiseExceptions = False
    screen = logging.StreamHandler(sys.stderr)
    screen.setFormatter(logging.Formatter("%(message)s"))
    logger.handlers = [screen]
    logger.setLevel(logging.INFO)
    logger.propagate = False
    if log_file is not None:
        log_file.parent.mkdir(parents=True, exist_ok=True)
        file = logging.FileHandler(log_file, mode="w", encoding="utf-8")
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logger.addHandler(file)


def _json_object(text: str) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError("a JSON object is needed")
    return value


def _stop(number: int, _frame: object) -> None:
    raise StopRequested(number)

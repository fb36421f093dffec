"""Shared parts of the programs in ``scripts/``: arguments, log file and error messages."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from usertune.core.errors import StopRequested, UserError
from usertune.core.users import format_users, parse_users
from usertune.runtime import cpu_threads, job_log, job_record
from usertune.runtime.memory import ran_out
from usertune.runtime.signals import obeyed_signals

if TYPE_CHECKING:
    # Programs without settings start faster without pydantic.
    from usertune.core.recipe import Recipe, Settings

EXIT_FAILURE = 1
EXIT_USER_ERROR = 2
# EX_TEMPFAIL of sysexits.h: "temporary failure, user is invited to retry".
EXIT_TRY_AGAIN = 75

logger = logging.getLogger("usertune")


def argument_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with ``--log``, and with ``description`` in its ``--help``."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--log", type=Path, metavar="FILE", help="also write messages and errors to this file")
    return parser


def add_users(parser: argparse.ArgumentParser) -> None:
    """Add ``--users`` and ``--user-log``, for programs that process several users."""
    parser.add_argument(
        "--users", required=True, type=_users, metavar="IDS", help="such as 1-3,alice, or @FILE with one id per line"
    )
    parser.add_argument("--user-log", metavar="FILE", help="log of each user; {user} stands for the id")


def add_recipe(parser: argparse.ArgumentParser, kind: type[Recipe]) -> None:
    """Add ``--recipe``: the configuration of the step, as JSON or a file; see `add_settings`."""
    add_settings(parser, "--recipe", kind)


def add_list(parser: argparse.ArgumentParser, option: str, items: str, required: bool = True) -> None:
    """Add an option for a file with one path per line, because command lines are limited; ``items`` names the files."""

    def read(text: str) -> list[Path]:
        return [Path(line) for line in _lines(text)]

    help = f"file that lists {items}, one path per line"
    parser.add_argument(option, required=required, type=read, default=[], metavar="FILE", help=help)


def add_settings(parser: argparse.ArgumentParser, option: str, kind: type[Settings], required: bool = True) -> None:
    """Add an option for settings: a JSON object, or a file with one. Invalid settings end the program."""

    def parse(text: str) -> Settings:
        try:
            return kind.parse(text if text.lstrip().startswith("{") else Path(text).read_text(encoding="utf-8"))
        except (OSError, UserError) as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    keys = ", ".join(kind.model_fields)
    summary = str(kind.__doc__).splitlines()[0]
    parser.add_argument(
        option, required=required, type=parse, metavar="JSON", help=f"{summary} A JSON object or a file; keys: {keys}"
    )


def run(
    parser: argparse.ArgumentParser,
    main: Callable[[argparse.Namespace], object],
    words: Sequence[str] | None = None,
    record: bool = True,
) -> None:
    """Parse the command line, call ``main`` and exit with a code.

    Exit codes: 2 for a `UserError` or out of memory (message only), 1 for a disk error (message only) and for any other
    error (with traceback), 130 for Ctrl-C. SIGTERM and SIGUSR1, which schedulers send before they end a job, and SIGHUP
    of a closed terminal raise `StopRequested`, so that ``with`` blocks clean up, and give 75: the same command then
    continues.

    Args:
        parser: parser from `argument_parser`.
        main: called with the parsed arguments.
        words: command line; default: that of the process.
        record: whether to keep a job record next to the log (see `job_record`). `for_each_user` keeps one per user.
    """
    arguments = parser.parse_args(words)
    cpu_threads.limit_spinning()
    for number in obeyed_signals():
        if number != signal.SIGINT:
            signal.signal(number, _stop)
    try:
        configure_logging(arguments.log)
        with job_record.kept(arguments.log if record else None):
            main(arguments)
    except UserError as error:
        logger.error("%s", error)
        sys.exit(EXIT_USER_ERROR)
    except BrokenPipeError:
        # The reader closed the pipe, as in: ... | head
        sys.stdout = None  # type: ignore[assignment]
        sys.exit(EXIT_FAILURE)
    except OSError as error:
        logger.error("%s", error, exc_info=error.filename is None)
        sys.exit(EXIT_FAILURE)
    except KeyboardInterrupt as stop:
        logger.error("interrupted; finished work is kept, and the next run continues from there")
        by_person = not isinstance(stop, StopRequested) or stop.signal == signal.SIGINT
        sys.exit(128 + signal.SIGINT if by_person else EXIT_TRY_AGAIN)
    except Exception as error:
        if ran_out(error):
            logger.error("out of memory (%s: %s); give the job more memory", type(error).__name__, error)
            sys.exit(EXIT_USER_ERROR)
        logger.exception("this should not have happened; please report it with the lines below")
        sys.exit(EXIT_FAILURE)


def for_each_user(users: Sequence[str], log: str | None, work: Callable[[str], object]) -> None:
    """Process the users of a job in sequence, each with its own log and record.

    Args:
        users: user ids.
        log: path of a user's log, with ``{user}`` in it; None: neither log nor record.
        work: called with each user id.

    Raises:
        UserError: some users failed with a `UserError`, which was logged; the other users are done.
    """
    bad = []
    for user in users:
        file = of_user(log, user) if log else None
        handler = _add_log_file(file) if file else None
        try:
            with job_record.kept(file):
                work(user)
        except UserError as error:
            logger.error("%s", error)
            bad.append(user)
        finally:
            if handler:
                logger.removeHandler(handler)
                handler.close()
    if bad:
        raise UserError(f"{len(bad)} of the {len(users)} users of this job failed: {format_users(bad)}")


def of_user(path: str, user: str) -> Path:
    """Return ``path`` with ``{user}`` replaced by the id."""
    return Path(path.replace("{user}", user))


def configure_logging(log_file: Path | None) -> None:
    """Log the package's messages to standard error and, with timestamps, to ``log_file``.

    If the run that started this job shows its messages (see `job_log.SCREEN_VARIABLE`), everything that this process
    and its children write goes to the log alone; messages that the log cannot take go to standard error.
    """
    # On a full disk, tracebacks of the log file must not hide the error message.
    logging.raiseExceptions = False
    screen = logging.StreamHandler(sys.stderr)
    screen.setFormatter(logging.Formatter("%(message)s"))
    logger.handlers = [screen]
    logger.setLevel(logging.INFO)
    logger.propagate = False
    if log_file is not None:
        handler = _add_log_file(log_file)
        if job_log.is_shown_by_a_run(sys.stderr):
            _write_to_log_alone(handler, screen)


class _LogFile(logging.FileHandler):
    """A log file; ``instead`` gets the messages that cannot be written to it, for example on a full disk."""

    instead: logging.Handler | None = None

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        if self.instead:
            self.instead.handle(record)
        else:
            super().handleError(record)


def _write_to_log_alone(log: _LogFile, screen: logging.StreamHandler[TextIO]) -> None:
    assert log.stream is not None
    screen.setStream(os.fdopen(os.dup(sys.stderr.fileno()), "w", encoding=sys.stderr.encoding))
    log.instead = screen
    logger.removeHandler(screen)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(log.stream.fileno(), stream.fileno())


def _add_log_file(path: Path) -> _LogFile:
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = _LogFile(path, mode="w", encoding="utf-8")
    handler.setFormatter(logging.Formatter(job_log.FORMAT))
    logger.addHandler(handler)
    return handler


def _users(text: str) -> list[str]:
    """Return user ids from a text or a file; ten thousand ids do not fit into a command line."""
    try:
        return parse_users(text) if not text.startswith("@") else _lines(text[1:])
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _lines(file: str) -> list[str]:
    try:
        return [line for line in Path(file).read_text(encoding="utf-8").splitlines() if line]
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{file}: {error.strerror or error}") from None


def _stop(number: int, _frame: object) -> None:
    raise StopRequested(number)

"""The logger ``usertune`` for Snakemake: one view of a run instead of four lines for each job.

On a terminal, the view shows what is done of what, what runs, how far each job is, and how long yet; lines above it
stay, for failures, warnings, long jobs and the result of each experiment when all its users are scored. Elsewhere,
every finished job is one line. A run ends with its results, where the time went, and the path of the report.
`usertune.monitoring` knows and renders all of it; this module translates Snakemake's events. With ``-n``,
``--verbose`` or ``--debug-dag``, Snakemake's own output is unchanged.

Planning must stay fast, so modules that are not needed by then are imported when jobs start.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

    from usertune.monitoring.first_results import FirstResults
    from usertune.monitoring.run_jobs import Job
    from usertune.pipeline.recipes import Recipes
    from usertune.runtime.job_log import Entry
    from usertune.study.schema.study import Study

REFRESH_PER_SECOND = 2
# On a terminal, jobs that took as long leave a line.
LONG_JOB_SECONDS = 10.0
# Time between two looks at the logs of jobs that were interrupted.
STOPPING_SECONDS = 0.5
# Tables in files are not folded to the width of a terminal.
WIDTH_OF_FILES = 120
# What Snakemake says of itself; its log file has it too.
NOISE = (
    "Assuming unrestricted shared filesystem usage", "Building DAG of jobs", "Using shell:", "Complete log(s):",
    "Conda environments: ignored", "Singularity containers: ignored", "Select jobs to execute", "Elapsed time:",
    "Shutting down, this might take some time", "Provided remote nodes:",
)  # fmt: skip
# Repeated by the view itself: the failed jobs, and what runs.
SAID_AT_THE_END = (
    "Exiting because a job execution failed", "WorkflowError:\nAt least one job did not complete successfully",
)  # fmt: skip
SUBMITTED = "has been submitted with SLURM jobid"
NOTHING_TO_DO = "Nothing to be done"
# The error of a failed command: Snakemake repeats the command, and says with JOB_ERROR what failed.
COMMAND_FAILED = re.compile(
    r"CalledProcessError in file .* (?:returned non-zero (exit status \d+)|died with <Signals\.(\w+): \d+>)\.$",
    re.DOTALL,
)
JOB_NUMBER = re.compile(r"^(Job|Trying to restart job) (\d+)\b")


class LogHandler(LogHandlerBase):
    """Handler of Snakemake's log records; Snakemake calls it in a thread of its own, and `close` at the end."""

    def __post_init__(self) -> None:
        """Choose between the view and Snakemake's own output."""
        settings = self.common_settings
        self._quiet = {str(choice) for choice in settings.quiet or ()}
        self._stream = sys.stdout if settings.stdout else sys.stderr
        self._usual = self._usual_handler() if settings.dryrun or settings.verbose or settings.debug_dag else None
        self._jobs: Any = None
        self._screen: Console | None = None
        self._live: Live | None = None
        self._study: tuple[Study, Recipes] | None = None
        self._first_results: FirstResults | None = None
        self._warned: dict[int, int] = {}
        self._endings: dict[int, str] = {}
        self._nothing_to_do = self._closed = False
        self._over = threading.Event()
        self._stopping: threading.Thread | None = None
        if self._usual is None and "all" not in self._quiet:
            from usertune.runtime.job_log import SCREEN_VARIABLE, screen_of

            os.environ[SCREEN_VARIABLE] = screen_of(self._stream)

    def follow(self, study: Study, recipes: Recipes) -> None:
        """Take the study that is run; rules/study.smk calls it."""
        self._study = study, recipes

    def emit(self, record: logging.LogRecord) -> None:
        """Show a record, or update the view."""
        if self._usual is not None:
            self._usual.handle(record)
            return
        try:
            self._show(record)
        except Exception:
            self.handleError(record)

    def close(self) -> None:
        """End the view, and print the end of the run."""
        if not self._closed:
            self._closed = True
            self._over.set()
            if self._stopping is not None:
                self._stopping.join()
            self._end_view()
            try:
                self._print_end()
            except KeyboardInterrupt:
                pass
            except Exception as error:
                self._print([f"The end of the run cannot be shown ({type(error).__name__}: {error})."])
        super().close()

    @property
    def writes_to_stream(self) -> bool:
        """It replaces Snakemake's own output."""
        return True

    @property
    def writes_to_file(self) -> bool:
        """Snakemake writes its log file as always."""
        return False

    @property
    def has_filter(self) -> bool:
        """The view needs the records that --quiet hides."""
        return True

    @property
    def has_formatter(self) -> bool:
        """It formats events itself."""
        return True

    @property
    def needs_rulegraph(self) -> bool:
        """It shows no graph."""
        return False

    def _usual_handler(self) -> logging.Handler:
        from snakemake.logging import ColorizingTextHandler, DefaultFilter, DefaultFormatter

        known = self.common_settings
        shown = DefaultFilter(known.quiet, known.debug_dag, known.verbose, known.dryrun, known.printshellcmds)
        texts = DefaultFormatter(known.quiet, known.show_failed_logs)
        usual: logging.Handler = ColorizingTextHandler(
            nocolor=known.nocolor, stream=self._stream, formatter=texts, filter=shown
        )
        return usual

    def _show(self, record: logging.LogRecord) -> None:
        event = getattr(record, "event", None)
        known = {
            LogEvent.RUN_INFO: self._plan,
            LogEvent.JOB_INFO: self._start,
            LogEvent.JOB_FINISHED: self._finish,
            LogEvent.JOB_ERROR: self._fail,
            LogEvent.SHELLCMD: self._show_command,
        }
        if event in known:
            known[event](record)
        elif event in (None, LogEvent.ERROR, LogEvent.GROUP_ERROR) or record.levelno >= logging.WARNING:
            self._show_message(record)

    def _show_message(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if message in ("", "None"):
            return
        if message.startswith(NOTHING_TO_DO):
            self._nothing_to_do = True
        if getattr(record, "interrupted", False) and self._jobs is not None and self._stopping is None:
            self._stopping = threading.Thread(target=self._show_stopping_jobs, daemon=True)
            self._stopping.start()
        if record.levelno >= logging.ERROR and (ending := COMMAND_FAILED.search(message)):
            self._endings[record.thread or 0] = ending[1] or ending[2]
            return
        if self._jobs is not None and self._jobs.failed and message.startswith(SAID_AT_THE_END):
            return
        if record.levelno < logging.WARNING:
            if "all" in self._quiet or message.startswith(NOISE):
                return
            if SUBMITTED in message and self._live is not None:
                return
        style = "red" if record.levelno >= logging.ERROR else "yellow" if record.levelno >= logging.WARNING else ""
        self._print([self._with_labels(message)], style)

    def _with_labels(self, message: str) -> str:
        """Return a message with what a job does after its number."""

        def name(found: re.Match[str]) -> str:
            label = self._jobs.label(int(found[2]))
            return f"{found[0]} ({label})" if label else found[0]

        return JOB_NUMBER.sub(name, message) if self._jobs is not None else message

    def _plan(self, record: logging.LogRecord) -> None:
        from usertune.monitoring.run_jobs import RunJobs
        from usertune.monitoring.run_lines import planned_line
        from usertune.monitoring.run_view import RunView

        self._jobs = RunJobs(records_of=self._records())
        stats: dict[str, int] = dict(record.stats)  # type: ignore[attr-defined]
        stats.pop("total", None)
        self._jobs.plan(stats)
        if self._quiet & {"progress", "all"}:
            return
        self._print([planned_line(self._jobs)])
        console = self._console()
        if console.is_terminal and not console.is_dumb_terminal:
            from rich.live import Live

            view = RunView(self._jobs, with_jobs="rules" not in self._quiet)
            self._live = Live(
                console=console,
                get_renderable=view.render,
                refresh_per_second=REFRESH_PER_SECOND,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._live.start()

    def _records(self) -> dict[Any, list[Path]]:
        """Return the records of the jobs that keep one for each user."""
        from usertune.pipeline.layout import job_of, results_of
        from usertune.runtime.job_record import record_file

        found: dict[Any, list[Path]] = {}
        if self._study is not None:
            study, recipes = self._study
            for result in results_of(study, recipes).values():
                rule, wildcards = job_of(study, result)
                if path := record_file(Path(study.results, result.log)):
                    found.setdefault((rule, frozenset(wildcards.items())), []).append(path)
        return found

    def _start(self, record: Any) -> None:
        if self._jobs is None:
            return
        from usertune.monitoring.run_jobs import Job

        wildcards = {str(key): str(value) for key, value in record.wildcards.items()}
        label = record.rule_msg or " ".join([record.rule_name, *wildcards.values()])
        logs = [Path(log) for log in record.log]
        job = Job(record.jobid, record.rule_name, wildcards, label, logs, record.created)
        job.remote, job.has_command = not record.local, bool(record.shellcmd)
        self._jobs.start(job)

    def _show_command(self, record: Any) -> None:
        command = getattr(record, "shellcmd", None) or getattr(record, "cmd", None)
        if self.common_settings.printshellcmds and command and "all" not in self._quiet:
            self._print([command])

    def _finish(self, record: Any) -> None:
        from usertune.monitoring.run_lines import finished_line

        job = self._jobs.finish(record.job_id, record.created) if self._jobs is not None else None
        if job is None:
            return
        self._warn(job, job.new_messages())
        seconds = record.created - job.started
        if not self._quiet & {"progress", "rules", "all"} and (self._live is None or seconds >= LONG_JOB_SECONDS):
            self._print([finished_line(self._jobs, job, seconds)])
        self._print_first_results(job)

    def _print_first_results(self, job: Job) -> None:
        if job.scored is None or self._study is None or self._quiet & {"progress", "all"}:
            return
        if self._first_results is None:
            from usertune.monitoring.first_results import FirstResults

            self._first_results = FirstResults(*self._study)
        self._print(self._first_results.after(job.scored))

    def _fail(self, record: Any) -> None:
        from usertune.monitoring.run_lines import failed_lines

        job = self._jobs.fail(record.jobid) if self._jobs is not None else None
        if job is None:
            self._print([f"{record.getMessage()}; its log: {', '.join(record.log) or 'none'}"], "red")
            return
        # SLURM's log is known only now.
        job.logs = [Path(log) for log in record.log]
        ending = self._endings.pop(record.thread or 0, "")
        # Why, in the words of the executor; it names the job of SLURM.
        reason = str(getattr(record, "rule_msg", None) or "").strip().removesuffix(".")
        if not reason and (number := record.aux.get("external_jobid")):
            ending = f"SLURM job {number}"
        show_logs = self.common_settings.show_failed_logs
        self._print(failed_lines(job, record.created - job.started, ending, show_logs, reason))

    def _warn(self, job: Job, said: Iterable[Entry]) -> None:
        from usertune.monitoring.run_lines import warning_lines

        if problems := [entry for entry in said if entry.level == "WARNING"]:
            shown = self._warned.get(job.number, 0)
            self._warned[job.number] = shown + len(problems)
            self._print(warning_lines(job, problems, shown))

    def _show_stopping_jobs(self) -> None:
        """After Ctrl-C, show what the running jobs say: a training saves a checkpoint, which can take minutes."""
        from rich.text import Text

        jobs = list(self._jobs.running.values())
        for job in jobs:
            said = job.new_messages()
            self._warn(job, said)
            # It may have answered already.
            self._print(Text(f"{job.label}: {entry.text}") for entry in said[-1:] if entry.level == "INFO")
        last = False
        while not last:
            last = self._over.wait(STOPPING_SECONDS)
            for job in jobs:
                self._print(Text(f"{job.label}: {entry.text}") for entry in job.new_messages())

    def _print_end(self) -> None:
        if self._usual is not None or self._quiet & {"progress", "all"} or self._study is None:
            return
        done = self._jobs is not None and self._jobs.total and self._jobs.done.total() >= self._jobs.total
        from usertune.monitoring.run_end import failures_of_run, results_of_run

        if done or self._nothing_to_do:
            from usertune.checks.freshness import Freshness

            self._print(results_of_run(Freshness(*self._study), ran=not self._nothing_to_do))
        elif self._jobs is not None and self._jobs.failed:
            self._print(failures_of_run(self._jobs))
        elif self._jobs is not None and self._jobs.began is not None:
            self._print([f"{self._jobs.done.total()} of {self._jobs.total} jobs are done."])

    def _end_view(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _console(self) -> Console:
        from usertune.monitoring.console import console_of

        if self._screen is None:
            self._screen = console_of(self._stream, self.common_settings.nocolor, WIDTH_OF_FILES)
        return self._screen

    def _print(self, parts: Iterable[RenderableType], style: str = "") -> None:
        from rich.text import Text

        console = self._console()
        for part in parts:
            # Files get long lines as they are; terminals wrap at words.
            soft_wrap = not console.is_terminal and isinstance(part, str | Text)
            console.print(part, style=style, soft_wrap=soft_wrap, crop=False)

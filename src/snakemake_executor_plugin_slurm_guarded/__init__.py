"""Snakemake's SLURM executor, guarded: no fault of the cluster leaves a run waiting for ever or doubles a job.

Snakemake finds it by the name of this package: ``--executor slurm-guarded``. Submission is that of
snakemake-executor-plugin-slurm. These differ, each because of what release 2.8.0 does:

- **Watching.** One ``squeue`` lists all jobs, and `slurm_guard.job_states` judges them. Upstream drops every job when
  its query fails (controller or database away), and waits for ever for jobs that were preempted, held, cancelled under
  a database, or are no longer listed.
- **Polling.** Soon after a submission, then less often, at least every 30 seconds, and at once when a job has written
  its results. Upstream goes up to 180 seconds, and sleeps on when the last job has ended.
- **Orphans.** Jobs have a name that outlives the run, and are written into a journal. After a crash the next run
  re-attaches to them instead of submitting them a second time.
- **Mistakes.** Before anything runs, SLURM is asked whether it accepts the jobs, so that a missing account or partition
  is reported at once, with what to do.

A workflow sets three environment variables in its Snakefile. Without the first two every run has a job name of its
own, and finds no jobs of an earlier run:

- ``SNAKEMAKE_SLURM_GUARDED_JOB_NAME``: the name of its SLURM jobs, the same in every run on the same results.
- ``SNAKEMAKE_SLURM_GUARDED_JOURNAL``: the file of the journal, on a file system that outlives the run.
- ``SNAKEMAKE_SLURM_GUARDED_PROFILE``: the file that people edit when SLURM refuses their jobs, for messages.

This overrides private names of upstream, so the version of upstream has an upper bound. When upstream has fixed these
faults, a profile can name ``slurm`` as its executor again.
"""

# Annotations are needed as objects here: Snakemake makes command line options of the settings' types.
import asyncio
import hashlib
import json
import os
import shlex
import shutil
import threading
import time
from collections.abc import AsyncGenerator, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import snakemake_executor_plugin_slurm as slurm
from snakemake_interface_common.exceptions import WorkflowError
from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo
from snakemake_interface_executor_plugins.jobs import JobExecutorInterface

from slurm_guard import queue
from slurm_guard.awaited_results import AwaitedResults
from slurm_guard.job_states import ACTIVE, JobStateJudge
from slurm_guard.journal import Journal
from slurm_guard.orphans import Identity, Orphans
from slurm_guard.submission_errors import advice
from snakemake_executor_plugin_slurm_guarded.config_errors import name_broken_files

# Not SLURM_...: upstream deletes those variables inside a SLURM job.
JOB_NAME, JOURNAL, PROFILE = (f"SNAKEMAKE_SLURM_GUARDED_{name}" for name in ("JOB_NAME", "JOURNAL", "PROFILE"))

SECONDS_BETWEEN_LOOKS_AT_RESULTS = 2

common_settings = slurm.common_settings

name_broken_files()


@dataclass
class ExecutorSettings(slurm.ExecutorSettings):
    """Upstream's settings, and how long the guard waits."""

    init_seconds_before_status_checks: int = field(
        default=5,
        metadata={"help": "Seconds between a submission, or the end of a job, and the next look at the queue."},
    )
    longest_seconds_between_status_checks: int = field(
        default=30,
        metadata={"help": "While no job ends, looks at the queue become rarer, down to one in so many seconds."},
    )
    patience_seconds: int = field(
        default=60,
        metadata={
            "help": "A job counts as failed, and is cancelled, after so many seconds in a state that never ends: "
            "preempted or on a failed node and not requeued, requeued and held, pending for a permanent reason, no "
            "longer listed."
        },
    )
    unreachable_minutes: int = field(
        default=60,
        metadata={
            "help": "End the run when SLURM has not answered for so many minutes. Its jobs continue, and the next run "
            "re-attaches to them."
        },
    )


class Executor(slurm.Executor):
    """Upstream's executor, guarded; see the module's docstring."""

    def __post_init__(self, test_mode: bool = False) -> None:
        super().__post_init__(test_mode)
        # Upstream takes it for the name of the jobs.
        self.run_uuid: str = os.environ.get(JOB_NAME) or str(self.run_uuid)
        settings = self.workflow.executor_settings
        self._judge = JobStateJudge(patience=settings.patience_seconds)
        self._journal = Journal(Path(os.environ.get(JOURNAL, f".snakemake/{self.run_uuid}.jsonl")))
        self._silent_since: float | None = None
        self._stopping = False
        self._keys: dict[str, str] = {}
        self._results: dict[str, AwaitedResults] = {}
        self._first_submission = threading.Lock()
        if shutil.which("sbatch") is None:
            raise WorkflowError(
                "sbatch is not found: start the run where SLURM's commands are, on the cluster's login node (on some "
                "clusters after: module load slurm), or on this machine alone with --executor local, or a profile "
                "without SLURM"
            )
        try:
            self._orphans = Orphans(queue.list_jobs(self.run_uuid), self._journal)
        except queue.NoAnswerError as error:
            raise WorkflowError(f"SLURM does not answer ({error}); try again when it does") from None
        self._check_that_slurm_takes_the_jobs()
        self.logger.info(f"SLURM jobs of this workflow are listed by: squeue --me --name={self.run_uuid}")
        if message := self._orphans.describe(self.run_uuid):
            self.logger.warning(message)
        # Made now: two jobs that are submitted at once would make it twice, and one of them would be left behind.
        _ = self.tmpdir

    # How jobs are submitted.

    def run_job(self, job: JobExecutorInterface) -> None:
        """Re-attach to the same job of an earlier run if there is one; submit it otherwise."""
        try:
            self._adopt_or_submit(job)
        except Exception as error:
            # This runs in a thread whose exceptions nobody sees: the run would wait for the job for ever.
            self._report_job_error_threadsafe(SubmittedJobInfo(job), f"It could not be submitted: {error!r}. ")

    def _adopt_or_submit(self, job: JobExecutorInterface) -> None:
        orphans = []
        if not job.is_group():
            self._keys[str(job.jobid)] = self._key(job)
            orphans = self._orphans.take(_identity(job))
        adopted = None
        if orphans and orphans[0].adoptable and orphans[0].key == self._keys[str(job.jobid)]:
            adopted = orphans.pop(0)
        outdated = [orphan.id for orphan in orphans]
        if not (self._end_unknown() and self._cancel_and_await(outdated, "their work has changed")):
            if not self._stopping:
                message = "SLURM does not end jobs of an earlier run, which might write the same files. "
                self._report_job_error_threadsafe(SubmittedJobInfo(job), message)
            return
        if adopted:
            self.logger.info(f"Job {job.jobid} re-attaches to SLURM job {adopted.id} of an earlier run.")
            info = SubmittedJobInfo(job, external_jobid=adopted.id, aux={"slurm_logfile": Path(adopted.log)})
            self._record("adopted", info)
            super().report_job_submission(info)
            return
        while not (self._stopping or queue.answers() or self._silent_for_too_long()):
            time.sleep(self.workflow.executor_settings.init_seconds_before_status_checks)
        self._silent_since = None
        if not self._stopping:
            super().run_job(job)

    def report_job_submission(self, job_info: SubmittedJobInfo, register_job: bool = True) -> None:
        """Write a submitted job into the journal, then tell Snakemake."""
        self._record("submitted", job_info)
        super().report_job_submission(job_info, register_job=register_job)

    def get_account_arg(self, job: JobExecutorInterface) -> Iterator[str]:
        """Yield the option that names the account, or none: then SLURM takes the user's default account."""
        return iter(super().get_account_arg(job)) if job.resources.get("slurm_account") else iter([""])

    def _record(self, event: str, info: SubmittedJobInfo) -> None:
        """Write a job into the journal, and await its results."""
        job, number = info.job, str(info.external_jobid)
        rule, wildcards = (job.name, ()) if job.is_group() else _identity(job)
        self._note(
            event,
            number,
            # A group of jobs has none, so no run re-attaches to it.
            key=self._keys.get(str(job.jobid), ""),
            rule=rule,
            wildcards=dict(wildcards),
            attempt=job.attempt,
            log=str((info.aux or {}).get("slurm_logfile", "")),
        )
        self._results[number] = AwaitedResults(job.output)

    def _key(self, job: JobExecutorInterface) -> str:
        """Return a digest of what is submitted for a job; jobs of two runs with the same digest do the same work."""
        # Folders for temporary files have other names in each run; the order of some options varies.
        temporary = (self.tmpdir, str(self.workflow.sourcecache.runtime_cache_path))
        words = sorted(word for word in shlex.split(self.format_job_exec(job)) if not word.startswith(temporary))
        resources = {name: str(value) for name, value in job.resources.items() if name != "tmpdir"}
        inputs = [[str(file), Path(file).stat().st_mtime_ns] for file in job.input]
        work = [words, [str(value) for value in job.params], inputs, resources, job.threads, job.attempt]
        text = json.dumps(work, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def _end_unknown(self) -> bool:
        """Cancel the jobs whose work nobody knows, once; return whether they have ended."""
        # At the first submission, not at the start: then no other run is working on the same results.
        with self._first_submission:
            unknown = self._orphans.unknown
            ended = self._cancel_and_await(
                unknown, "the run that submitted them died before it wrote them into its journal"
            )
            if ended:
                unknown.clear()
            return ended

    def _cancel_and_await(self, jobs: Collection[str], why: str) -> bool:
        """Cancel jobs of an earlier run and wait until they have ended; return whether they have."""
        left = set(jobs)
        if left:
            self.logger.warning(f"Cancelling SLURM jobs of an earlier run: {', '.join(sorted(left))}; {why}.")
        end = time.monotonic() + self._judge.cleanup_patience
        while left and time.monotonic() < end and not (self._stopping or self._silent_for_too_long()):
            try:
                queue.cancel(sorted(left))
                listed = queue.list_jobs(self.run_uuid)
            except queue.NoAnswerError as error:
                self.logger.warning(f"SLURM does not answer ({error}); waiting")
                end = time.monotonic() + self._judge.cleanup_patience
            else:
                self._silent_since = None
                for job in [job for job in left if job not in listed or listed[job].ended]:
                    self._note("cancelled", job, message=f"of an earlier run; {why}")
                    left.remove(job)
            if left:
                time.sleep(1)
        return not left

    def _check_that_slurm_takes_the_jobs(self) -> None:
        """Ask SLURM about one job of each rule, without submitting it.

        Raises:
            WorkflowError: SLURM refuses it for a reason that waiting does not fix.
        """
        one_of_each_rule = {
            job.rule.name: job for job in self.dag.needrun_jobs() if not (job.is_group() or job.is_local)
        }
        for name, job in one_of_each_rule.items():
            parameters = {
                "run_uuid": self.run_uuid,
                "slurm_logfile": os.devnull,
                "comment_str": "test",
                "account": next(self.get_account_arg(job)),
                "partition": self.get_partition_arg(job),
                "workdir": self.workflow.workdir_init,
            }
            call = slurm.get_submit_command(job, parameters, settings=self.workflow.executor_settings)
            command = [*shlex.split(call + slurm.set_gres_string(job)), "--test-only", "--wrap=true"]
            try:
                queue.run(command)
                continue
            except queue.NoAnswerError as error:
                said = " ".join(str(error).removeprefix("sbatch: ").split())
            if what_to_do := advice(said, os.environ.get(PROFILE, "the profile")):
                raise WorkflowError(f"SLURM would not take the jobs of rule {name}: {said}\n{what_to_do}")
            self.logger.warning(f"SLURM says of the jobs of rule {name}: {said}")

    # How jobs are watched.

    async def check_active_jobs(self, active_jobs: list[SubmittedJobInfo]) -> AsyncGenerator[SubmittedJobInfo, None]:
        """Report the jobs that have ended, and yield those that are active."""
        settings = self.workflow.executor_settings
        shortest = settings.init_seconds_before_status_checks
        if not active_jobs:
            self.next_seconds_between_status_checks = shortest
            return
        listed = await self._listing()
        some_ended = False
        for info in active_jobs:
            if listed is None or self._is_active(info, listed.get(str(info.external_jobid))):
                yield info
            else:
                some_ended = True
        rarer = min(self.next_seconds_between_status_checks * 1.5, settings.longest_seconds_between_status_checks)
        self.next_seconds_between_status_checks = shortest if some_ended else rarer

    async def sleep(self) -> None:
        """Wait for the next look at the queue, until a job has written its results, or until there will be none."""
        now = time.monotonic()
        end = now + (self.next_seconds_between_status_checks or 1)
        next_look_at_results = now + SECONDS_BETWEEN_LOOKS_AT_RESULTS
        while self.wait and (now := time.monotonic()) < end:
            if now >= next_look_at_results:
                if await asyncio.to_thread(self._some_job_seems_done):
                    return
                next_look_at_results = time.monotonic() + SECONDS_BETWEEN_LOOKS_AT_RESULTS
            await asyncio.sleep(0.2)

    def _some_job_seems_done(self) -> bool:
        with self.lock:
            watched = [self._results.get(str(info.external_jobid)) for info in self.active_jobs]
        return any(results.just_written() for results in watched if results)

    async def _listing(self) -> dict[str, queue.ListedJob] | None:
        """Return what SLURM lists, None where it does not answer.

        Raises:
            WorkflowError: it has not answered for too long.
        """
        try:
            listed = await asyncio.to_thread(queue.list_jobs, self.run_uuid)
        except queue.NoAnswerError as error:
            if self._silent_for_too_long():
                self._stopping = True
                # Jobs that wait in the queue look for this folder when they begin, so it must not be removed.
                self._tmpdir = None
                minutes = self.workflow.executor_settings.unreachable_minutes
                raise WorkflowError(
                    f"SLURM has not answered for {minutes} minutes ({error}). Its jobs continue; when it answers "
                    "again, the same command re-attaches to them."
                ) from None
            self.logger.warning(f"SLURM does not answer ({error}); its jobs continue, and this run waits.")
            return None
        self._silent_since = None
        return listed

    def _silent_for_too_long(self) -> bool:
        now = time.monotonic()
        if self._silent_since is None:
            self._silent_since = now
        return bool(now - self._silent_since > 60 * self.workflow.executor_settings.unreachable_minutes)

    def _is_active(self, info: SubmittedJobInfo, listed: queue.ListedJob | None) -> bool:
        """Whether a job waits or runs; if not, report how it ended."""
        job = str(info.external_jobid)
        state = self._judge.judge(job, listed)
        if state is ACTIVE:
            return True
        if state.cancel:
            with suppress(queue.NoAnswerError):
                queue.cancel([job])
            self._note("cancelled", job, message=state.message)
        self._note("ended", job, **_end(listed))
        self._results.pop(job, None)
        log = (info.aux or {}).get("slurm_logfile")
        if state.outcome == "succeeded":
            if log and not self.workflow.executor_settings.keep_successful_logs:
                with suppress(OSError):
                    Path(log).unlink(missing_ok=True)
            self.report_job_success(info)
        else:
            if listed and listed.state == "NODE_FAIL" and listed.nodes:
                self._failed_nodes.add(listed.nodes)
            self.report_job_error(info, msg=f"{state.message}. ", aux_logs=[str(log)] if log else [])
        return False

    def cancel_jobs(self, active_jobs: list[SubmittedJobInfo]) -> None:
        """Cancel all jobs of this name, including those that are just being submitted."""
        self._stopping = True
        self._job_submission_executor.shutdown(wait=True, cancel_futures=True)
        try:
            # Snakemake's own list is empty while the jobs are checked.
            active = [job.id for job in queue.list_jobs(self.run_uuid).values() if not job.ended]
            queue.cancel_all(self.run_uuid)
        except queue.NoAnswerError as error:
            self.logger.error(
                f"SLURM does not answer ({error}); later, cancel with: scancel --me --name={self.run_uuid}"
            )
            return
        for job in active:
            self._note("cancelled", job, message="the run was ended")

    def _note(self, event: str, job: str, **more: Any) -> None:
        try:
            self._journal.append(event, job, **more)
        except OSError as error:
            self.logger.warning(f"{self._journal.path}: cannot be written: {error}; the run continues without it")


def _identity(job: JobExecutorInterface) -> Identity:
    return job.rule.name, tuple(sorted((str(name), str(value)) for name, value in job.wildcards_dict.items()))


def _end(listed: queue.ListedJob | None) -> dict[str, Any]:
    if listed is None:
        return {"state": "UNKNOWN", "submitted_at": None, "started_at": None, "ended_at": None, "nodes": ""}
    keys = ("state", "submitted_at", "started_at", "ended_at", "nodes")
    return {key: getattr(listed, key) for key in keys}

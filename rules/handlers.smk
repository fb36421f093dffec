"""Handlers for the start of a run and for failed jobs."""

import os
import subprocess
import sys
import time
from pathlib import Path

from usertune.core.errors import UserError
from usertune.core.files import write_text
from usertune.pipeline.results_folder import claim
from usertune.runtime.job_record import SUFFIX, failed_since
from usertune.runtime.locks import hold_results
from usertune.study.copy import read_written, resolved_text, study_text

STARTED = time.time()


def hold_results_or_stop():
    """Lock the results against other runs, regardless of their working directory."""
    if not workflow.is_main_process:
        return
    try:
        hold_results(Path(STUDY.results))
        claim(STUDY)
    except UserError as error:
        refuse(error)


def write_study_down():
    """Write the study as this run read it, for the report (which copies it) and other jobs."""
    if not workflow.is_main_process:
        return
    files = [os.path.relpath(file) for file in workflow.configfiles]
    try:
        write_text(STUDY_TEXT, study_text(STUDY, read_written(files)))
        write_text(RESOLVED_STUDY, resolved_text(STUDY))
    except OSError as error:
        refuse(f"{os.path.dirname(STUDY_TEXT)}: cannot be written to: {error.strerror or error}")


def write_job_files():
    """Write the argument files of the jobs."""
    if not workflow.is_main_process:
        return
    try:
        JOB_FILES.start()
        if SHARING:
            asked = command_line()
            write_text(SHARED_BASE, jobs_that_share(FRESHNESS, asked.targets if asked else []).text())
    except OSError as error:
        refuse(f"{JOB_FILES.folder}: cannot be written: {error.strerror or error}")


def check_users_that_are_left():
    """After a failed check of data, check the remaining users, so that one run reports all bad users."""
    if not workflow.is_main_process:
        return
    waiting = {job.rule.name for job in workflow.dag.needrun_jobs()}
    batches = [users for batch, users in DATA_BATCHES.items() if rule_of_batch(steps.PREPARE, batch) in waiting]
    users = [user for batch in batches for user in batch]
    logs = [Path(STUDY.results, steps.PREPARE.log.format(user=user)) for user in users]
    records = [log.with_suffix(SUFFIX) for log in logs]
    if len(users) < 2 or not failed_since(records, STARTED):
        return
    logger.info(
        f"Checking all {len(users)} users whose data are not prepared, so that every problem is reported at once"
    )
    settings = workflow.resource_settings
    cores = min(filter(None, (settings.cores, settings.local_cores)), default=1)
    # -P: a module in the working directory must not shadow one of the package.
    command = [sys.executable, "-P", "-m", "usertune", "check", "data", "--resolved-study", RESOLVED_STUDY]
    command += ["--users-file", JOB_FILES.lines("users.txt", users), "--processes", f"{cores}"]
    try:
        done = subprocess.run(command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        # Through the logger, which may be drawing on the terminal.
        logger.error(done.stdout.rstrip())
    except KeyboardInterrupt:
        logger.info("interrupted; not all users were checked")


def report_summary_to_trackers():
    """Report the tables to the study's trackers, if it names some and the tables are complete."""
    if not workflow.is_main_process or not STUDY.tracking.trackers:
        return
    if not Path(STUDY.results, STUDY.origin.outcomes, steps.COMPARE.manifest).exists():
        return
    # -P: a module in the working directory must not shadow one of the package.
    command = [sys.executable, "-P", "-m", "usertune", "track", "--resolved-study", RESOLVED_STUDY]
    subprocess.run(command, check=False)


onstart:
    refuse_what_this_machine_cannot_run()
    refuse_what_cannot_fit()
    hold_results_or_stop()
    write_study_down()
    write_job_files()
    # Again, now that the results folder exists.
    show_folders_to_containers(make_cache=True)


onerror:
    check_users_that_are_left()


onsuccess:
    report_summary_to_trackers()

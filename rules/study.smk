"""Loads and checks the study, and defines names for the rules."""

import os
import re
from pathlib import Path

from usertune.checks import explain, preflight
from usertune.checks.shared_base import jobs_that_share
from usertune.checks.freshness import Freshness
from usertune.cluster.job_names import JOURNAL, job_name
from usertune.core.errors import UserError
from usertune.core.users import batch_label
from usertune.evaluation import table_names
from usertune.pipeline import layout, steps
from usertune.pipeline.figures_of_study import figures_of
from usertune.pipeline.job_files import JobFiles
from usertune.pipeline.plug_ins import current_code
from usertune.pipeline.recipes import Recipes
from usertune.pipeline.results_folder import IMAGE_HASHES, check_owner, check_writable
from usertune.runtime.provenance import installed_versions
from usertune.study.load import study_from_config

try:
    STUDY = study_from_config(
        config,
        [os.path.relpath(file) for file in workflow.configfiles],
        workflow.config_settings.config_args or (),
    )
    if workflow.is_main_process:
        logger.info(
            f"Study {STUDY.name}: {', '.join(map(os.path.relpath, workflow.configfiles)) or 'no file'}, "
            f"results in {STUDY.results}/{STUDY.origin.outcomes}"
        )
    check_owner(STUDY)
    check_writable(STUDY)
    preflight.check_sources(STUDY, base_model=not DATA_ALONE)
except UserError as error:
    refuse(error)

# For the executor slurm-guarded: with this name and journal, the next run finds the jobs of a killed run.
os.environ.update(
    SNAKEMAKE_SLURM_GUARDED_JOB_NAME=job_name(STUDY),
    SNAKEMAKE_SLURM_GUARDED_JOURNAL=str(Path(STUDY.results).absolute() / JOURNAL),
    SNAKEMAKE_SLURM_GUARDED_PROFILE="profiles/slurm/config.yaml",
)

RECIPES = Recipes(STUDY, current_code(STUDY), installed_versions())
FRESHNESS = Freshness(STUDY, RECIPES)
# The logger `usertune` shows the study's results at the end of a run.
for handler in workflow.logger_manager.get_log_handlers():
    if hasattr(handler, "follow"):
        handler.follow(STUDY, RECIPES)
if workflow.is_main_process and not DATA_ALONE:
    refusing(preflight.check_folds)(FRESHNESS)
check_command_line()
# Written when a run starts. Jobs get only the paths, because a comment in the study changes no result.
STUDY_TEXT, RESOLVED_STUDY = (f"{STUDY.results}/{STUDY.origin.outcomes}logs/study.{kind}" for kind in ("yaml", "json"))
# Planning writes none of them; a job process writes them immediately.
JOB_FILES = JobFiles(f"{STUDY.results}/logs/job_files", write_at_once=not workflow.is_main_process)
TRAINED = [name for name, experiment in STUDY.experiments.items() if experiment.trained]
ANSWERED_ELSEWHERE = [name for name, experiment in STUDY.experiments.items() if experiment.answers is not None]
# Experiments without a model.
PRIORS = [name for name, experiment in STUDY.experiments.items() if experiment.prior is not None]
# Experiments whose predictions wait for weights that are trained here.
WAITING_FOR_WEIGHTS = {
    result.experiment
    for result in FRESHNESS.results.values()
    if result.inputs.get("weights") and STUDY.experiments[result.experiment].weights is None
}
# Experiments whose prediction jobs may answer for each other, and the file that says for which.
SHARING = {name for names in STUDY.sharing for name in names} if STUDY.evaluation.share_base else set()
SHARED_BASE = f"{STUDY.results}/{STUDY.origin.outcomes}logs/shared_base.json"
DATA_BATCHES = {batch_label(users): users for users in STUDY.data_batches}
TEST_BATCHES = {batch_label(users): users for users in STUDY.test_batches}
# All users whom an experiment answers, and the experiments that answer each batch.
BATCHES = TEST_BATCHES | {batch_label(users): users for users in STUDY.validation_batches}
ANSWERING = {
    batch: [name for name in STUDY.experiments if users in STUDY.batches_of(name)] for batch, users in BATCHES.items()
}
# The users of each job that trains an experiment on folds.
BATCHES_OF_FOLDS = {
    name: {batch_label(STUDY.users.test): STUDY.users.test} if experiment.scope == "pooled" else TEST_BATCHES
    for name, experiment in STUDY.experiments.items()
    if experiment.trained_on_folds
}
FIGURE_NAMES = figures_of(STUDY)


pathvars:
    results=STUDY.results,
    # Tables, figures, audit and report; those of users set by --config have a separate folder.
    outcomes=f"{STUDY.results}/{STUDY.origin.outcomes}".rstrip("/"),


wildcard_constraints:
    user="|".join(map(re.escape, STUDY.all_users)),
    experiment="|".join(STUDY.experiments),
    batch="|".join(map(re.escape, BATCHES)),
    figure="|".join(FIGURE_NAMES) or "(?!)",


if workflow.output_settings.dryrun and not DATA_ALONE:
    logger.info(explain.in_words(refusing(explain.explain)(FRESHNESS)) + "\n")

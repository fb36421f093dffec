"""The study object, and the named functions that tell rules their inputs and resources."""

import logging
import os
import re
import signal
import subprocess
import sys
import time
from functools import cache
from operator import attrgetter
from pathlib import Path

from snakemake.cli import get_argument_parser
from snakemake.exceptions import WorkflowError
from snakemake.settings.types import DeploymentMethod

# Jobs find the package by this too, so an environment made by --sdm conda need not contain it; and they run with
# the Python that runs Snakemake (unless such an environment comes before it), whether or not it is activated.
SOURCE = str(Path(workflow.basedir) / "src")
sys.path.insert(0, SOURCE)
for variable, folder in {
    "PYTHONPATH": SOURCE,
    "PATH": str(Path(sys.executable).parent),
}.items():
    os.environ[variable] = os.pathsep.join(
        filter(None, [folder, os.environ.get(variable)])
    )
# With the executor plugin Snakemake has loaded the installed package, which may be another copy than the one here.
for loaded in [name for name in sys.modules if name.split(".")[0] == "usertune"]:
    del sys.modules[loaded]

from usertune.runtime import environment

if said := environment.problem():
    sys.exit(said)

from usertune.checks import explain
from usertune.runtime import gpus
from usertune.checks import sources
from usertune.pipeline import layout
from usertune.pipeline import targets
from usertune.study.load import study_from_config
from usertune.cluster.container import check_container, container_environment
from usertune.data.readers.messages import user_file
from usertune.core.errors import UserError
from usertune.core.files import write_text
from usertune.models.hub import hub_home
from usertune.runtime.job_record import failed_since
from usertune.runtime.locks import hold_results
from usertune.runtime.provenance import installed_versions
from usertune.pipeline.recipes import Recipes, current_code
from usertune.pipeline.results_folder import check_owner, check_writable, claim
from slurm_guard.journal import PLACE
from usertune.cluster.job_names import job_name
from usertune.checks.freshness import Freshness
from usertune.study.schema import FIGURE_NAMES
from usertune.study.copy import read_written, study_text
from usertune.core.users import batch_label, format_users

IN_CONTAINERS = (
    DeploymentMethod.APPTAINER in workflow.deployment_settings.deployment_method
)


def refuse(problem):
    """End with a message, which a WorkflowError from here would be shown with lines of this file after."""
    logger.error(str(problem))
    sys.exit(1)


def end_quietly_on_ctrl_c():
    """After Ctrl-C show no errors of jobs, which were told to leave as well, but what to do."""
    if not workflow.is_main_process or signal.getsignal(signal.SIGINT) in (
        signal.SIG_IGN,
        None,
    ):
        return
    before = signal.getsignal(signal.SIGINT)
    asked = []

    def note(number, frame):
        if not asked:
            logger.warning(
                "Interrupted. What was finished is kept; the same command goes on from there."
            )
        asked.append(number)
        before(number, frame)

    signal.signal(signal.SIGINT, note)
    logger.addFilter(lambda record: not asked or record.levelno < logging.ERROR)


def command_line():
    """What Snakemake was asked for on the command line; None where it was started in another way."""
    if not workflow.is_main_process:
        return None
    if Path(sys.argv[0]).name not in ("snakemake", "__main__.py"):
        return None
    return get_argument_parser().parse_known_args(sys.argv[1:])[0]


def check_command_line():
    """Refuse targets that there are not, with those that there are; say which profile is missing."""
    asked = command_line()
    if asked is None:
        return
    if said := targets.problem(STUDY, FRESHNESS.results, asked.targets or []):
        refuse(said)
    settings = ["profile", "executor", "cores", "jobs"]
    runs_nothing = ["dryrun", "lint", "list_rules", "list_target_rules", "unlock"]
    runs_nothing += ["summary", "detailed_summary", "dag", "rulegraph", "filegraph"]
    if "SNAKEMAKE_PROFILE" not in os.environ and not any(
        getattr(asked, name, None) for name in settings + runs_nothing
    ):
        refuse(
            "How should this run? Add --profile local (this machine) or --profile slurm (a cluster); with -n "
            "nothing runs."
        )


# `snakemake check --profile local` needs no base model. Snakemake itself does not know its targets yet.
DATA_ALONE = getattr(command_line(), "targets", None) == ["check"]
STARTED = time.time()

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
    sources.check_sources(STUDY, base_model=not DATA_ALONE)
    if IN_CONTAINERS:
        check_container(STUDY)
except UserError as error:
    refuse(error)

os.environ.update(
    USERTUNE_SCRIPTS=str(Path(workflow.basedir) / "scripts"),
    USERTUNE_SLURM_JOB_NAME=job_name(STUDY),
    USERTUNE_SLURM_LEDGER=str(Path(STUDY.results).absolute() / PLACE),
)

RECIPES = Recipes(STUDY, current_code(), installed_versions())
FRESHNESS = Freshness(STUDY, RECIPES)
check_command_line()
end_quietly_on_ctrl_c()
AUDIT = layout.audit_place(RECIPES)
STUDY_TEXT = f"{STUDY.results}/{STUDY.origin.outcomes}logs/study.yaml"
TRAINED = [name for name, experiment in STUDY.experiments.items() if experiment.trained]
BATCHES = {batch_label(users): users for users in STUDY.test_batches}
BATCH_OF_USER = {user: label for label, users in BATCHES.items() for user in users}


pathvars:
    results=STUDY.results,
    # Tables, figures, audit and report: of other users than the study's, beside those of the study.
    outcomes=f"{STUDY.results}/{STUDY.origin.outcomes}".rstrip("/"),


if IN_CONTAINERS:

    container: STUDY.container


wildcard_constraints:
    user="|".join(map(re.escape, STUDY.all_users)),
    experiment="|".join(STUDY.experiments),
    batch="|".join(map(re.escape, BATCHES)),
    figure="|".join(FIGURE_NAMES),


# A resource for each training, which it needs whole, and of which every job that should come before trainings takes a
# small part: they wait for one another only while such a job runs or could run. An edge between the jobs would make
# Snakemake train again, or forget to (docs/decisions.md).
WHOLE = 1_000_000
for name in TRAINED:
    workflow.register_resource(f"before_{name}", WHOLE)


@cache
def repair_what_does_not_hold():
    """Let jobs run whose results do not hold, although Snakemake's records (`--touch`, or none) say that they do.

    It is called by the first input function, since Snakemake has its graph by then, and has not yet asked what to run.
    """
    if workflow.is_main_process:
        workflow.dag.forcefiles.update(
            f"{STUDY.results}/{place}" for place in FRESHNESS.to_repair()
        )


def before_training(is_before=lambda wildcards: True):
    """Resources of jobs that come before any training, as far as this says so of their wildcards."""
    return {
        f"before_{name}": lambda wildcards: 1 if is_before(wildcards) else None
        for name in TRAINED
    }


def after_others():
    """Resources of a training, which waits for the jobs that come before."""
    return {
        f"before_{name}": lambda wildcards, name=name: (
            WHOLE if wildcards.experiment == name else None
        )
        for name in TRAINED
    }


def is_untrained(wildcards):
    """Whether an experiment has no training: its answers show in minutes whether prompt and parser work."""
    return wildcards.experiment not in TRAINED


def recipe_of(manifest):
    """The recipe of the result with this manifest; it differs from the last one where the result is damaged."""
    return lambda wildcards: FRESHNESS.recipe(manifest.format(**wildcards))


def every_result():
    """All files that the study should have, but for logs, weights and stores."""
    return [
        f"<results>/{place}"
        for result in FRESHNESS.results.values()
        for place in (result.manifest, *result.files)
    ]


def user_manifests(users):
    """The prepared data of some users, by their manifests."""
    return expand("<results>/data/user_{user}.manifest.json", user=users)


def raw_user_file(wildcards):
    """The raw samples of one user."""
    repair_what_does_not_hold()
    return str(user_file(STUDY.dataset.root, wildcards.user))


def base_model_files(wildcards):
    """The files of a local base model."""
    repair_what_does_not_hold()
    return sources.base_model_sources(STUDY)


def trained_weights(wildcards):
    """What prediction needs from training: nothing for vanilla."""
    if wildcards.experiment not in TRAINED:
        return []
    return f"<results>/checkpoints/{wildcards.experiment}/manifest.json"


def manifests_of_batch(wildcards):
    """The prepared data of the users that one prediction job takes."""
    return user_manifests(BATCHES[wildcards.batch])


def predictions_of_user(wildcards):
    """The predictions of the batch that a test user belongs to."""
    return f"<results>/predictions/{wildcards.experiment}/users_{BATCH_OF_USER[wildcards.user]}.json"


def all_scores(suffix):
    """The scores of every experiment and test user."""
    return expand(
        "<results>/scores/{experiment}/user_{user}{suffix}",
        experiment=STUDY.experiments,
        user=STUDY.users.test,
        suffix=suffix,
    )


def training_logs(wildcards):
    """The loss curves of every trained experiment, for the figure that shows them."""
    if wildcards.figure != "loss_curves":
        return []
    return expand(
        "<results>/checkpoints/{experiment}/training_log.csv", experiment=TRAINED
    )


def one_gpu(wildcards):
    """One GPU for a job on a cluster; on this machine one where there is any, else the job runs on the CPU."""
    return 1 if on_a_cluster() else min(1, gpus_of_this_machine())


def on_a_cluster():
    """Whether jobs run on a cluster, as seen from where they are submitted and from inside them."""
    # A dry run is local whatever it plans for; only for a cluster does Snakemake count jobs beside cores.
    planned = (
        workflow.output_settings.dryrun and workflow.resource_settings.nodes is not None
    )
    return workflow.remote_exec or not workflow.local_exec or planned


def of_experiment(key):
    """What the study says of an experiment under this key, or one of a section like training.micro_batch_size."""
    return lambda wildcards: attrgetter(key)(STUDY.experiments[wildcards.experiment])


def for_each_gpu(amount):
    """So much of a node for each of its GPUs that train an experiment, and as much again at every new attempt."""
    return lambda wildcards, attempt: (
        amount * attempt * STUDY.experiments[wildcards.experiment].gpus
    )


def gpus_of_training(wildcards):
    """GPUs of a training job, on all its nodes; where this machine has none, the job runs on the CPU."""
    experiment = STUDY.experiments[wildcards.experiment]
    if on_a_cluster():
        return experiment.processes
    try:
        return sources.gpus_here(wildcards.experiment, experiment, gpus_of_this_machine())
    except UserError as error:
        raise WorkflowError(str(error)) from None


def on_several_nodes(value):
    """A resource of those training jobs alone that run on several nodes; given their experiment, or as it is."""

    def of(wildcards):
        experiment = STUDY.experiments[wildcards.experiment]
        if experiment.nodes == 1:
            return None
        return value(experiment) if callable(value) else value

    return of


@cache
def gpus_of_this_machine():
    """Count the visible GPUs and let no more jobs run at once, unless the profile or command line set a number."""
    if "gpu" not in workflow.global_resources:
        workflow.register_resource("gpu", len(gpus.visible_gpus()))
    return workflow.global_resources["gpu"].value


def hold_results_or_stop():
    """Let no other run work on the same results, from whatever folder it was started."""
    if not workflow.is_main_process:
        return
    try:
        hold_results(Path(STUDY.results))
        claim(STUDY)
    except UserError as error:
        refuse(error)


def write_study_down():
    """Write the study down as this run has read it; the report copies it."""
    if not workflow.is_main_process:
        return
    files = [os.path.relpath(file) for file in workflow.configfiles]
    try:
        write_text(STUDY_TEXT, study_text(STUDY, read_written(files)))
    except OSError as error:
        refuse(f"{STUDY_TEXT}: cannot be written: {error.strerror or error}")


def check_users_that_are_left():
    """After a failed check of data, check the users whose turn had not come, so that one run reports all bad users."""
    if not workflow.is_main_process:
        return
    waiting = {
        job.wildcards.user
        for job in workflow.dag.needrun_jobs()
        if job.rule.name == "prepare"
    }
    users = [user for user in STUDY.all_users if user in waiting]
    logs = Path(STUDY.results) / "logs/prepare"
    records = [logs / f"user_{user}.progress.json" for user in users]
    if len(users) < 2 or not failed_since(records, STARTED):
        return
    logger.info(
        f"Checking all {len(users)} users whose data are not prepared, so that every problem is reported at once"
    )
    settings = workflow.resource_settings
    cores = min(filter(None, (settings.cores, settings.local_cores)), default=1)
    command = [sys.executable, f"{workflow.basedir}/scripts/check.py"]
    study = ["--resolved-study", STUDY.model_dump_json()]
    try:
        subprocess.run(
            [
                *command,
                *study,
                "--users",
                format_users(users),
                "--processes",
                f"{cores}",
            ],
            check=False,
        )
    except KeyboardInterrupt:
        logger.info("interrupted; not all users were checked")


def show_folders_to_containers(make_cache=False):
    """Let jobs in containers see the repository, the data, the results, the base model and the hub's cache."""
    if not IN_CONTAINERS:
        return
    if make_cache:
        hub_home(os.environ).mkdir(parents=True, exist_ok=True)
    try:
        os.environ.update(
            container_environment(
                STUDY, SOURCE, [str(workflow.basedir), os.getcwd()], os.environ
            )
        )
    except UserError as error:
        raise WorkflowError(str(error)) from None


show_folders_to_containers()

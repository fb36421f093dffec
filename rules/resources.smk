"""Resources of the rules: order, GPUs, memory, nodes."""

import os
from functools import cache
from operator import attrgetter

from usertune.checks import preflight, sources
from usertune.checks.estimates import study as estimates
from usertune.checks.estimates.lines import estimates_in_lines
from usertune.checks.estimates.machine import machine_of
from usertune.core.errors import UserError
from usertune.runtime import gpus

# One resource per training. The training needs all of it, and each job that should run first takes one unit, so the
# training waits only while such a job runs or could run. A dependency between the jobs would make Snakemake train
# again, or not at all (docs/decisions.md).
WHOLE = 1_000_000
for name in TRAINED:
    workflow.register_resource(f"before_{name}", WHOLE)


def before_training(is_before=None):
    """Resources of jobs that run before all trainings; `is_before` can select some jobs of a rule."""
    share = 1 if is_before is None else lambda wildcards: 1 if is_before(wildcards) else None
    return {f"before_{name}": share for name in TRAINED}


def after_others():
    """Resources of a training, which waits for the jobs that run first."""
    return {
        f"before_{name}": lambda wildcards, name=name: (WHOLE if wildcards.experiment == name else None)
        for name in TRAINED
    }


def is_untrained(wildcards):
    """Whether an experiment waits for no training. Its answers show within minutes whether prompt and parser work."""
    return wildcards.experiment not in WAITING_FOR_WEIGHTS


# Jobs that ask the same server run one after another, since each keeps the bounds on requests for itself.
SERVERS = list(dict.fromkeys(filter(None, (STUDY.engine_of(name).options.server() for name in STUDY.experiments))))
for number in range(len(SERVERS)):
    workflow.register_resource(f"server_{number}", 1)


def one_job_for_each_server():
    """Resources of predictions, of which one at a time asks a server."""
    return {
        f"server_{number}": lambda wildcards, server=server: (
            1 if STUDY.engine_of(wildcards.experiment).options.server() == server else None
        )
        for number, server in enumerate(SERVERS)
    }


def priority_of_prediction(wildcards):
    """Before all trainings, or, if a job may answer for others whose weights are trained here, after them."""
    return 0 if wildcards.experiment in SHARING & WAITING_FOR_WEIGHTS else 5


PREDICTION_MINUTES = 240


def minutes_for_others(wildcards, attempt):
    """How long a prediction job may turn to other ones: half its time, since each takes about as long as its own part.

    A further attempt answers for itself alone, because the others may have ended the first one.
    """
    return PREDICTION_MINUTES // 2 if wildcards.experiment in SHARING and attempt == 1 else 0


def gpu_of_engine(wildcards):
    """One GPU if the engine needs one and jobs run on a cluster or this machine has a GPU; otherwise none."""
    if not STUDY.engine_of(wildcards.experiment).needs_gpu:
        return 0
    return 1 if on_a_cluster() else min(1, gpus_of_this_machine())


def execution_of_engine(wildcards):
    """Settings of an experiment's engine that change no answer."""
    return STUDY.engine_of(wildcards.experiment).options.execution()


def gpus_of_training(name):
    """GPUs of an experiment's training job, summed over all nodes; none if this machine has none."""
    experiment = STUDY.experiments[name]
    if on_a_cluster():
        return experiment.processes
    # An error here would end a dry run in the middle of its jobs. A run is refused before its first job.
    if workflow.output_settings.dryrun:
        warn_of_what_is_missing(name)
    return min(experiment.gpus, gpus_of_this_machine())


def missing_for_training(name):
    """What a training needs and this machine does not have; None if the training can run here."""
    try:
        preflight.gpus_here(name, STUDY.experiments[name], gpus_of_this_machine())
    except UserError as error:
        return str(error)
    return None


@cache
def warn_of_what_is_missing(name):
    """Say once for each training, in a dry run, that a run would be refused here."""
    if missing := missing_for_training(name):
        logger.warning(f"A run on this machine will be refused: {missing}")


@cache
def gpus_of_this_machine():
    """Number of visible GPUs, which limits concurrent jobs unless the profile or command line sets another limit."""
    if "gpu" not in workflow.global_resources:
        workflow.register_resource("gpu", len(gpus.visible_gpus()))
    return workflow.global_resources["gpu"].value


def on_a_cluster():
    """Whether jobs run on a cluster; true both where they are submitted and inside them."""
    # A dry run is always local; Snakemake sets `nodes` (the limit of jobs) only for a cluster.
    planned = workflow.output_settings.dryrun and workflow.resource_settings.nodes is not None
    return workflow.remote_exec or not workflow.local_exec or planned


# Without a GPU, a model with files of less than so many bytes computes hardly faster on more than one core.
SMALL_MODEL_BYTES = 50_000_000


def threads_of_model(threads, processes=1):
    """Cores of a job that computes with the model; those of a small one leave the cores of this machine to each other."""
    if on_a_cluster() or gpus_of_this_machine():
        return threads * processes
    return (1 if 0 < base_model_bytes() < SMALL_MODEL_BYTES else threads) * processes


@cache
def base_model_bytes():
    """Size of the files of a local base model; 0 for a hub name."""
    return sum(os.path.getsize(file) for file in sources.base_model_sources(STUDY))


def of_experiment(key):
    """The value of a key of an experiment, such as training.micro_batch_size."""
    return lambda wildcards: attrgetter(key)(STUDY.experiments[wildcards.experiment])


def for_each_gpu(amount, name=None):
    """Resource per GPU of a node, multiplied by the attempt number, for an experiment or the wildcard's."""
    return lambda wildcards, attempt: amount * attempt * STUDY.experiments[name or wildcards.experiment].gpus


def on_several_nodes(value):
    """A resource only for trainings on several nodes: a value, or a function of the experiment."""

    def of(wildcards):
        experiment = STUDY.experiments[wildcards.experiment]
        if experiment.nodes == 1:
            return None
        return value(experiment) if callable(value) else value

    return of


def estimate_of_study(look_at_raw=None):
    """What the study needs, from a part of its samples; None if its base model is not here yet."""
    try:
        return estimates.estimate(
            STUDY, machine_of(STUDY.gpu_memory_gb, on_a_cluster()), estimates.FEW_SAMPLES, look_at_raw
        )
    except UserError as error:
        logger.info(str(error))
        return None


def waiting_trainings():
    """The experiments whose training is about to run, in the order of the study; none in a job."""
    jobs = workflow.dag.needrun_jobs() if workflow.is_main_process else ()
    rules = (steps.TRAIN.name, steps.TRAIN_FOLDS.name)
    waiting = {
        layout.experiment_of_rule(job.rule.name) or job.wildcards.experiment
        for job in jobs
        if layout.step_of_rule(job.rule.name) in rules
    }
    return [name for name in STUDY.experiments if name in waiting]


def refuse_what_this_machine_cannot_run():
    """Exit if a training that is about to run needs GPUs or nodes that this machine does not have."""
    if on_a_cluster():
        return
    if problems := list(filter(None, map(missing_for_training, waiting_trainings()))):
        refuse("\n".join(problems))


def refuse_what_cannot_fit():
    """Exit if a training that is about to run cannot fit into memory, or onto the disk."""
    waiting = set(waiting_trainings())
    if not waiting:
        return
    # Imports an image library, which planning does without.
    from usertune.checks.estimates.raw_samples import look_at_raw_samples

    estimated = estimate_of_study(look_at_raw_samples)
    if estimated is not None and (problems := estimated.problems(waiting)):
        refuse("\n".join(problems))


if workflow.output_settings.dryrun and not DATA_ALONE:
    if (estimated := estimate_of_study()) is not None:
        would_be_refused = [f"This will be refused: {problem}" for problem in estimated.problems()]
        logger.info("\n".join([estimates_in_lines(estimated), *would_be_refused]) + "\n")
    # Above the list of jobs. For named targets, which may need no training, it is said when Snakemake comes to the job.
    asked = command_line()
    if asked is not None and not asked.targets and not on_a_cluster():
        for path, result in FRESHNESS.results.items():
            if result.step in (steps.TRAIN.name, steps.TRAIN_FOLDS.name) and not FRESHNESS.holds(path):
                warn_of_what_is_missing(result.experiment)

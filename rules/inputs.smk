"""Input functions and params of the rules."""

import re
from functools import cache

from usertune.checks import elsewhere, sources, stored


@cache
@refusing
def repair_what_does_not_hold():
    """Run the jobs of invalid results, even if Snakemake's records (after `--touch`, or missing) say otherwise.

    Input functions call this when Snakemake has its graph but has not yet decided what to run.
    """
    if workflow.is_main_process:
        workflow.dag.forcefiles.update(f"{STUDY.results}/{path}" for path in FRESHNESS.to_repair())


def recipe_of(step):
    """A file with the recipe of a step's result. The name contains the digest of the content.

    It changes if the settings change or the result is damaged.
    """
    folder = STUDY.origin.outcomes if step.of_comparison else ""
    settings = layout.settings_of(RECIPES)

    @refusing
    def file(wildcards):
        path = folder + step.manifest.format(settings=settings, **wildcards)
        return JOB_FILES.text(f"{step.name}.json", FRESHNESS.recipe(path))

    return file


def list_file(name):
    """A file with one input of a rule per line, for lists that are too long for a command line."""
    return lambda wildcards, input: JOB_FILES.lines(f"{name}.txt", getattr(input, name))


def no_file_but_repairs(wildcards):
    """No file. The planner detects changed raw data and images by size and time."""
    repair_what_does_not_hold()
    return []


def every_result():
    """All files that the study should have, except logs, weights and stores."""
    return [f"<results>/{path}" for result in FRESHNESS.results.values() for path in (result.manifest, *result.files)]


def named_logs(figure):
    """The tables of losses that a figure shows, as NAME=CSV."""
    return [f"{name}={STUDY.results}/{file}" for name, file in logs_of_figure(figure).items()]


def every(step):
    """The manifests of all results of a step."""
    return [f"<results>/{path}" for path, result in FRESHNESS.results.items() if result.step == step.name]


def user_manifests(users):
    """The manifests of some users' prepared data."""
    return expand(manifest_of(steps.PREPARE), user=users)


def base_model_files(wildcards):
    """The files of a local base model."""
    repair_what_does_not_hold()
    return sources.base_model_sources(STUDY)


@refusing
def batches_to_collect():
    """A wildcard constraint: the batches of each experiment with all answers in the store."""
    if not workflow.is_main_process:
        # The main process has already chosen the rule.
        return "|".join(map(re.escape, BATCHES))
    found = {}
    for result in stored.only_to_collect(FRESHNESS):
        found.setdefault(result.experiment, []).append(re.escape(result.wildcards["batch"]))
    # The same batch may be stored for one experiment only; the folder before it names the experiment.
    constraints = (f"(?<=/{name}/users_)(?:{'|'.join(batches)})" for name, batches in found.items())
    return "|".join(constraints) or "(?!)"


def start_of_folds(experiment):
    """The training whose weights the trainings on folds of an experiment start from, if any."""
    start = STUDY.start_of(experiment)
    return expand(manifest_of(steps.TRAIN), experiment=start) if start else []


def inputs_of(step, role):
    """The manifests that a result of a step uses in one role, as in the table of steps."""
    folder = STUDY.origin.outcomes if step.of_comparison else ""

    def manifests(wildcards):
        result = FRESHNESS.results[folder + step.manifest.format(**wildcards)]
        return [f"<results>/{path}" for path in result.inputs[role]]

    return manifests


def answer_files(wildcards):
    """The files with the answers of a batch of users that were generated elsewhere."""
    return elsewhere.answer_sources(STUDY, wildcards.experiment, BATCHES[wildcards.batch])


def weights_from_elsewhere(wildcards):
    """The files of weights that were trained elsewhere."""
    return elsewhere.weight_sources(STUDY, wildcards.experiment)


def source_of_weights(wildcards, input):
    """Where weights come from that an experiment does not train: a folder, or a training that kept them."""
    folder = STUDY.experiments[wildcards.experiment].weights
    return ["--training", input.training] if folder is None else ["--folder", folder]


def state_of_answers(wildcards):
    """The state of these files when jobs are planned: large files are compared by their time alone."""
    return elsewhere.sources_state(STUDY, wildcards.experiment, BATCHES[wildcards.batch])


def of_all_scores(path):
    """A path of scores, for all experiments and test users."""
    return expand(path, experiment=STUDY.experiments, user=STUDY.users.test)


def scores_of(names):
    """The scores of some experiments, for all users whom they answer."""
    return [
        path
        for name in names
        for path in expand(manifest_of(steps.SCORE), experiment=name, user=STUDY.answered_users(name))
    ]


def training_logs(wildcards):
    """The loss curves of all trainings, for figures that show them."""
    return [f"<results>/{file}" for file in logs_of_figure(wildcards.figure).values()]


def logs_of_figure(figure):
    """The tables of losses that a figure shows, by the name of the training."""
    path = STUDY.origin.outcomes + steps.FIGURE.manifest.format(figure=figure)
    trainings = [FRESHNESS.results[training] for training in FRESHNESS.results[path].inputs["training_logs"]]
    return {training.name: training.files[0] for training in trainings}


def folds_of_batch(users):
    """The option with the folds of users, so that too few samples are an error before GPU jobs start."""
    return ["--folds", STUDY.folds.settings.text()] if STUDY.folds and set(users) <= set(STUDY.users_with_folds) else []


def unrecorded(value):
    """A param that Snakemake does not compare with that of the last run, because it seems to depend on the output."""
    return lambda wildcards, output: value


def shared_base(wildcards, output):
    """The option with the jobs that a prediction job may answer for; see `unrecorded`."""
    return ["--shared-base", SHARED_BASE] if wildcards.experiment in SHARING else []


def users_file(users):
    """A file with some users, as an argument of a program; see `unrecorded`."""
    return lambda wildcards, output: f"@{JOB_FILES.lines('users.txt', users)}"


def as_it_is(value):
    """A param that may contain braces, which Snakemake would take for wildcards."""
    return lambda wildcards: value


def for_each_user(path, **others):
    """A path that still contains {user}, for a program that processes several users; see `unrecorded`."""
    return unrecorded(f"{STUDY.results}/{path.format(user='{user}', **others)}")


def scores_of_batch(experiment, users):
    """The options of a program that scores several users; see `unrecorded`. One function for all saves planning time."""
    paths = {
        "--samples": steps.PREPARE.files["samples"],
        "--rows": steps.SCORE.files["rows"],
        "--metrics": steps.SCORE.manifest,
        "--user-log": steps.SCORE.log,
    }
    below = {option: path.replace("{experiment}", experiment) for option, path in paths.items()}
    options = [text for option, path in below.items() for text in (option, f"{STUDY.results}/{path}")]
    return lambda wildcards, output: ["--users", f"@{JOB_FILES.lines('users.txt', users)}", *options]


def for_each_training(path, experiment):
    """A path that contains {user} instead of {batch}, for a program that trains for several users; see `unrecorded`."""
    return unrecorded(f"{STUDY.results}/{path.format(batch='{user}', experiment=experiment)}")

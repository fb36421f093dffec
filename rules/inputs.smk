"""Named functions that tell rules their inputs and params."""

import re
from functools import cache

from usertune.checks import sources, stored
from usertune.reporting.figures.catalogue import FIGURES


@cache
def repair_what_does_not_hold():
    """Run the jobs of results that do not hold, even where Snakemake's records (`--touch`, or none) say otherwise.

    The first input function calls this: Snakemake has its graph by then, and has not yet decided what to run.
    """
    if workflow.is_main_process:
        workflow.dag.forcefiles.update(f"{STUDY.results}/{path}" for path in FRESHNESS.to_repair())


def recipe_of(step):
    """A file with the recipe of a step's result; its name is that of its content.

    It is another one where the settings changed, or where the result is damaged.
    """
    folder = STUDY.origin.outcomes if step.of_comparison else ""
    settings = layout.settings_of(RECIPES)

    def file(wildcards):
        path = folder + step.manifest.format(settings=settings, **wildcards)
        return JOB_FILES.text(f"{step.name}.json", FRESHNESS.recipe(path))

    return file


def list_file(name):
    """A file that lists some inputs of a rule, one a line: there may be more than a command line takes."""
    return lambda wildcards, input: JOB_FILES.lines(f"{name}.txt", getattr(input, name))


def no_file_but_repairs(wildcards):
    """No file. Which users' raw data changed is planned from their sizes and times, images included."""
    repair_what_does_not_hold()
    return []


def every_result():
    """All files that the study should have, but for logs, weights and stores."""
    return [f"<results>/{path}" for result in FRESHNESS.results.values() for path in (result.manifest, *result.files)]


def user_manifests(users):
    """The prepared data of some users, by their manifests."""
    return expand(manifest_of(steps.PREPARE), user=users)


def base_model_files(wildcards):
    """The files of a local base model."""
    repair_what_does_not_hold()
    return sources.base_model_sources(STUDY)


def batches_to_collect():
    """The batches of each experiment of which the store has every answer, as a constraint of the wildcard."""
    if not workflow.is_main_process:
        # The main process chose the rule.
        return "|".join(map(re.escape, BATCHES))
    found = {}
    for result in stored.only_to_collect(FRESHNESS):
        found.setdefault(result.experiment, []).append(re.escape(result.wildcards["batch"]))
    # A batch of one experiment may be stored, and the same of another not; the folder before it says which it is.
    constraints = (f"(?<=/{name}/users_)(?:{'|'.join(batches)})" for name, batches in found.items())
    return "|".join(constraints) or "(?!)"


def trained_weights(wildcards):
    """What prediction needs from training: nothing for vanilla."""
    if wildcards.experiment not in TRAINED:
        return []
    return manifest_of(steps.TRAIN)


def manifests_of_batch(wildcards):
    """The prepared data of the users that one prediction job takes."""
    return user_manifests(BATCHES[wildcards.batch])


def of_all_scores(path):
    """This path of the scores of every experiment and test user."""
    return expand(path, experiment=STUDY.experiments, user=STUDY.users.test)


def training_logs(wildcards):
    """The loss curves of every trained experiment, for figures that show them."""
    if "training_logs" not in FIGURES.constant(wildcards.figure, "READS"):
        return []
    return expand(file_of(steps.TRAIN, "losses"), experiment=TRAINED)


def sources_of_users(users):
    """The states of some users' raw data, as they are planned with; see `unrecorded`."""
    return lambda wildcards, output: [FRESHNESS.raw_data.state(user) for user in users]


def unrecorded(value):
    """A param that Snakemake does not compare with that of the last run, since it takes it for one of the output."""
    return lambda wildcards, output: value


def users_file(users):
    """A file that lists some users, as an argument of a program; see `unrecorded`."""
    return lambda wildcards, output: f"@{JOB_FILES.lines('users.txt', users)}"


def for_each_user(path):
    """A path with {user} left in it, for a program that takes several users; see `unrecorded`."""
    return lambda wildcards, output: f"{STUDY.results}/{path.format(user='{user}', **wildcards)}"

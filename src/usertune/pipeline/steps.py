"""The table of steps: the inputs, results and names of each step.

Rules, layout, audit, explain, status and targets use it. A new step needs a name in `usertune.core.step_names`, an
entry of `STEPS` here, a recipe, a rule and a script.

Paths are templates relative to the results folder. Their fields are the wildcards of the step's rule: ``{user}``,
``{experiment}``, ``{batch}`` and ``{figure}``. The audit's ``{settings}`` is known when jobs are planned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from string import Formatter

from usertune.core import step_names as names
from usertune.core.users import batch_label
from usertune.evaluation.table_names import (
    COST,
    COST_MD,
    COST_TEX,
    GROUPS,
    GROUPS_MD,
    HYPOTHESIS,
    MANIFEST,
    MATRIX,
    MATRIX_MD,
    TABLES,
)
from usertune.pipeline.figures_of_study import figures_of, figures_of_report, reads
from usertune.reporting.figure_files import figure_files
from usertune.reporting.figures.catalogue import FIGURES
from usertune.study.schema.study import Study

# Contains a folder for each comparison of users that the command line sets.
SUBSETS = "subsets"
# The figures that the report draws, if a study has them.
OF_COSTS = tuple(name for name in FIGURES if reads(name, "costs"))


@dataclass(frozen=True)
class Item:
    """The experiment, users or figure of one result, if the step has them."""

    experiment: str | None = None
    users: tuple[str, ...] = ()
    figure: str | None = None

    @property
    def values(self) -> dict[str, str]:
        """Values of the template fields: those of paths, and ``who`` for labels."""
        found = {"experiment": self.experiment, "figure": self.figure}
        if self.users:
            batch = batch_label(self.users)
            found |= {"user": self.users[0], "batch": batch, "who": f"user{'s' * (len(self.users) > 1)} {batch}"}
        return {key: value for key, value in found.items() if value is not None}


@dataclass(frozen=True)
class Input:
    """Results of an earlier step that a step uses in one role.

    By default, a result uses the earlier results of the same experiment (if both steps have one) with a common user (if
    both have users). A step can name several inputs of one role, such as weights that different steps make.

    Attributes:
        role: what the results are used for.
        step: name of the earlier step.
        users: returns the users to use the results of; default: those of the result itself.
        figures: the figures that use the results; default: all.
        of: returns the experiments and users to use the results of, for a result that uses those of others; an item
            without users means all users. Default: those of the result itself.
    """

    role: str
    step: str
    users: Callable[[Study], tuple[str, ...]] | None = None
    figures: frozenset[str] | None = None
    of: Callable[[Study, Item], Iterable[Item]] | None = None


@dataclass(frozen=True)
class Step:
    """One step of the pipeline.

    Attributes:
        name: name of the step and of its rule.
        items: yields the experiment, users or figure of each result of a study.
        manifest: path of a result's checksummed manifest.
        files: name in the rule -> path, for the other files of a result.
        only_if: name in the rule -> whether a study has this file; default: all have it.
        log: path of a result's log.
        batch_log: path of the job's log, if one job makes the results of several users.
        inputs: results of earlier steps that it uses.
        label: name of a result for people; a template with the fields of `Item.values`.
        doing: what its job does; default: the label.
        counted: name of one job and of several, for people.
        results: name of all its results, for people.
        ask_for: target to name instead of the step, if the step has many results.
        gpu: whether it needs a GPU.
        follows_code: whether changed code makes its results stale. If not, code changes are only reported, unless the
            study sets ``rerun.on_code_change``.
        of_comparison: whether each comparison of other users, in `SUBSETS`, has its own results.
    """

    name: str
    items: Callable[[Study], Iterator[Item]]
    manifest: str
    log: str
    label: str
    counted: tuple[str, str]
    results: str
    files: Mapping[str, str] = field(default_factory=dict)
    only_if: Mapping[str, Callable[[Study], bool]] = field(default_factory=dict)
    inputs: tuple[Input, ...] = ()
    doing: str = ""
    ask_for: str = ""
    batch_log: str = ""
    gpu: bool = False
    follows_code: bool = False
    of_comparison: bool = False

    @property
    def wildcards(self) -> tuple[str, ...]:
        """Wildcards of its rule."""
        fields = [name for _, name, _, _ in Formatter().parse(self.manifest) if name]
        return tuple(name for name in fields if name != "settings")

    def files_of(self, study: Study) -> dict[str, str]:
        """Return the `files` that a study has."""
        return {
            name: path for name, path in self.files.items() if name not in self.only_if or self.only_if[name](study)
        }

    @property
    def folder(self) -> str:
        """Top folder of its results in the results folder; empty for the report."""
        return PurePosixPath(self.manifest).parts[0] if "/" in self.manifest else ""


def _once(_study: Study) -> Iterator[Item]:
    yield Item()


def _each_user(study: Study) -> Iterator[Item]:
    for user in study.all_users:
        yield Item(users=(user,))


def _each_trained_experiment(study: Study) -> Iterator[Item]:
    for name, experiment in study.experiments.items():
        if experiment.trained:
            yield Item(name)


def _each_training_on_folds(study: Study) -> Iterator[Item]:
    for name, experiment in study.experiments.items():
        if not experiment.trained_on_folds:
            continue
        if experiment.scope == "pooled":
            yield Item(name, study.users.test)
        else:
            yield from (Item(name, (user,)) for user in study.users.test)


def _start_of(study: Study, item: Item) -> Iterator[Item]:
    if item.experiment is not None and (start := study.start_of(item.experiment)):
        yield Item(start)


def _weights_on_folds(study: Study, item: Item) -> Iterator[Item]:
    if item.experiment is None:
        return
    owners = study.adapter_owners(item.experiment)
    if not owners:
        yield item
    for user in item.users if owners else ():
        yield Item(study.experiments[item.experiment].adapters_of, (owners[user],))


def _each_experiment_with_other_weights(study: Study) -> Iterator[Item]:
    for name, experiment in study.experiments.items():
        if experiment.uses_other_weights:
            yield Item(name)


def _checkpoint_of(study: Study, item: Item) -> Iterator[Item]:
    kept = study.experiments[str(item.experiment)].checkpoint
    if kept is not None:
        yield Item(kept.of)


def _each_batch_of_answered_users(study: Study) -> Iterator[Item]:
    for name in study.experiments:
        for users in study.batches_of(name):
            yield Item(name, users)


def _each_answered_user(study: Study) -> Iterator[Item]:
    for name in study.experiments:
        for user in study.answered_users(name):
            yield Item(name, (user,))


def _validation_scores(study: Study, _item: Item) -> Iterator[Item]:
    if study.chosen_by_accuracy:
        yield from (Item(name, study.users.validation) for name in study.chosen_by_accuracy)


def _if_generated(study: Study, item: Item) -> Iterator[Item]:
    if study.experiments[str(item.experiment)].generated:
        yield item


def _each_figure(study: Study) -> Iterator[Item]:
    for name in figures_of(study):
        yield Item(figure=name)


def _figures_that_read(what: str) -> frozenset[str]:
    return frozenset(name for name in FIGURES if reads(name, what))


def _files_of_figure(figure: str) -> dict[str, str]:
    """Return the files of a figure that the report draws, by their names in its rule."""
    return {f"{figure}_{kind}": f"figures/{file}" for kind, file in figure_files(figure).items()}


def _is_drawn(figure: str) -> Callable[[Study], bool]:
    return lambda study: figure in figures_of_report(study)


def _users_of_prior(study: Study, item: Item) -> Iterator[Item]:
    prior = study.experiments[str(item.experiment)].prior
    if prior is not None and prior.of == "train_users":
        yield Item(users=study.users.train)


def _users_of_context(study: Study, item: Item) -> Iterator[Item]:
    context = study.experiments[str(item.experiment)].context
    if context is not None and context.of == "other_user":
        yield from (Item(users=(study.next_user(user),)) for user in item.users)


PREPARE = Step(
    name=names.PREPARE,
    items=_each_user,
    manifest="data/user_{user}.manifest.json",
    files={"samples": "data/user_{user}.jsonl"},
    log="logs/prepare/user_{user}.log",
    batch_log="logs/prepare/users_{batch}.log",
    label="samples of {who}",
    counted=("user to check", "users to check"),
    results="data",
    ask_for=names.CHECK,
)
LEAKAGE = Step(
    name=names.LEAKAGE,
    items=_once,
    manifest="data/leakage.json",
    files={"table": "data/leakage.csv"},
    log="logs/leakage.log",
    inputs=(
        Input("train", names.PREPARE, users=lambda study: study.users.train),
        Input("validation", names.PREPARE, users=lambda study: study.users.validation),
        Input("test", names.PREPARE, users=lambda study: study.users.test),
    ),
    label="leakage between the splits",
    doing="comparing the samples of the splits",
    counted=("comparison of the splits", "comparisons of the splits"),
    results="leakage",
    follows_code=True,
    of_comparison=True,
)
BASE_MODEL = Step(
    name=names.BASE_MODEL,
    items=_once,
    manifest="base_model/manifest.json",
    log="logs/base_model.log",
    label="base model",
    counted=("base model to look up", "base models to look up"),
    results="base model",
)
TRAIN = Step(
    name=names.TRAIN,
    items=_each_trained_experiment,
    manifest="checkpoints/{experiment}/manifest.json",
    files={"losses": "checkpoints/{experiment}/training_log.csv"},
    log="logs/train/{experiment}.log",
    inputs=(
        Input("base_model", names.BASE_MODEL),
        Input("train", names.PREPARE, users=lambda study: study.users.train),
        Input("validation", names.PREPARE, users=lambda study: study.users.validation),
    ),
    label="training of {experiment}",
    doing="training {experiment}",
    counted=("training job", "training jobs"),
    results="weights",
    ask_for="an experiment",
    gpu=True,
)
TRAIN_FOLDS = Step(
    name=names.TRAIN_FOLDS,
    items=_each_training_on_folds,
    manifest="checkpoints/{experiment}/users_{batch}.json",
    files={"losses": "checkpoints/{experiment}/users_{batch}.csv"},
    log="logs/train_folds/{experiment}/users_{batch}.log",
    batch_log="logs/train_folds/{experiment}/batch_{batch}.log",
    inputs=(
        Input("base_model", names.BASE_MODEL),
        Input("start", names.TRAIN, of=_start_of),
        Input("samples", names.PREPARE),
    ),
    label="training of {experiment} on folds of {who}",
    doing="training {experiment}, {who}",
    counted=("training on the folds of a user or of all", "trainings on the folds of a user or of all"),
    results="weights of folds",
    ask_for="an experiment",
    gpu=True,
)
OTHER_WEIGHTS = Step(
    name=names.OTHER_WEIGHTS,
    items=_each_experiment_with_other_weights,
    manifest="other_weights/{experiment}.json",
    log="logs/other_weights/{experiment}.log",
    inputs=(Input("base_model", names.BASE_MODEL), Input("training", names.TRAIN, of=_checkpoint_of)),
    label="weights of {experiment}",
    doing="reading the weights of {experiment}",
    counted=("set of weights to read", "sets of weights to read"),
    results="weights that were not trained for their experiment",
    ask_for="an experiment",
)
PREDICT = Step(
    name=names.PREDICT,
    items=_each_batch_of_answered_users,
    manifest="predictions/{experiment}/users_{batch}.json",
    log="logs/predict/{experiment}/users_{batch}.log",
    inputs=(
        Input("base_model", names.BASE_MODEL, of=_if_generated),
        Input("weights", names.TRAIN),
        Input("weights", names.TRAIN_FOLDS, of=_weights_on_folds),
        Input("start", names.TRAIN, of=_start_of),
        Input("weights", names.OTHER_WEIGHTS),
        Input("samples", names.PREPARE),
        Input("targets", names.PREPARE, of=_users_of_prior),
        Input("context", names.PREPARE, of=_users_of_context),
    ),
    label="predictions of {who} with {experiment}",
    doing="predicting {experiment}, {who}",
    counted=("prediction job", "prediction jobs"),
    results="predictions",
    ask_for="an experiment",
    gpu=True,
)
SCORE = Step(
    name=names.SCORE,
    items=_each_answered_user,
    manifest="scores/{experiment}/user_{user}.json",
    files={"rows": "scores/{experiment}/user_{user}.csv"},
    log="logs/score/{experiment}/user_{user}.log",
    batch_log="logs/score/{experiment}/users_{batch}.log",
    inputs=(Input("samples", names.PREPARE), Input("answers", names.PREDICT)),
    label="scores of {who} with {experiment}",
    doing="scoring {experiment}, {who}",
    counted=("score", "scores"),
    results="scores",
    ask_for="an experiment",
    follows_code=True,
)
COMPARE = Step(
    name=names.COMPARE,
    items=_once,
    manifest=f"tables/{MANIFEST}",
    files={name: f"tables/{name}" for name in (*TABLES, GROUPS, GROUPS_MD, MATRIX, MATRIX_MD, HYPOTHESIS)},
    only_if={
        **dict.fromkeys((GROUPS, GROUPS_MD), lambda study: bool(study.groups)),
        **dict.fromkeys((MATRIX, MATRIX_MD), lambda study: bool(study.matrices)),
        HYPOTHESIS: lambda study: bool(study.comparisons),
    },
    log="logs/compare.log",
    inputs=(
        Input("scores", names.SCORE, users=lambda study: study.users.test),
        Input("validation", names.SCORE, of=_validation_scores),
        Input("trainings", names.TRAIN, of=lambda study, _: map(Item, study.chosen_by_loss)),
    ),
    label="tables",
    counted=("comparison", "comparisons"),
    results="tables",
    follows_code=True,
    of_comparison=True,
)
FIGURE = Step(
    name=names.FIGURE,
    items=_each_figure,
    manifest="figures/{figure}.manifest.json",
    files={kind: f"figures/{file}" for kind, file in figure_files("{figure}").items()},
    log="logs/figure/{figure}.log",
    inputs=(
        Input("tables", names.COMPARE),
        Input("training_logs", names.TRAIN, figures=_figures_that_read("training_logs")),
        Input("training_logs", names.TRAIN_FOLDS, figures=_figures_that_read("training_logs")),
    ),
    label="figure {figure}",
    counted=("figure", "figures"),
    results="figures",
    ask_for=names.REPORT,
    follows_code=True,
    of_comparison=True,
)
AUDIT = Step(
    name=names.AUDIT,
    items=_once,
    # With the settings in its name, the report's input is missing after a change of settings, even if Snakemake's
    # records are lost.
    manifest="audit/{settings}.json",
    log="logs/audit.log",
    inputs=(Input("leakage", names.LEAKAGE), Input("tables", names.COMPARE), Input("figures", names.FIGURE)),
    label="audit",
    counted=("audit", "audits"),
    results="audit",
    follows_code=True,
    of_comparison=True,
)
REPORT = Step(
    name=names.REPORT,
    items=_once,
    manifest="report.manifest.json",
    files={
        **{"report": "report.html", "study": "study.yaml", "provenance": "provenance.json"},
        **{"cost": f"tables/{COST}", "cost_md": f"tables/{COST_MD}", "cost_tex": f"tables/{COST_TEX}"},
        **{name: path for figure in OF_COSTS for name, path in _files_of_figure(figure).items()},
    },
    only_if={name: _is_drawn(figure) for figure in OF_COSTS for name in _files_of_figure(figure)},
    log="logs/report.log",
    inputs=(
        Input("audit", names.AUDIT),
        Input("leakage", names.LEAKAGE),
        Input("tables", names.COMPARE),
        Input("figures", names.FIGURE),
        Input("data", names.PREPARE),
    ),
    label="report",
    counted=("report", "reports"),
    results="report",
    follows_code=True,
    of_comparison=True,
)

_IN_ORDER = (
    *(PREPARE, LEAKAGE, BASE_MODEL, TRAIN, TRAIN_FOLDS, OTHER_WEIGHTS),
    *(PREDICT, SCORE, COMPARE, FIGURE, AUDIT, REPORT),
)
STEPS = {step.name: step for step in _IN_ORDER}

# Steps that the audit checks before the report is written.
BEFORE_AUDIT = tuple(STEPS.values())[: list(STEPS).index(AUDIT.name)]
GPU_STEPS = tuple(step.name for step in STEPS.values() if step.gpu)
# Expensive steps: changed code or packages are reported; they make results stale only with rerun.on_code_change.
RECORDED_STEPS = tuple(step.name for step in STEPS.values() if not step.follows_code)

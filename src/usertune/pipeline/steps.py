"""The table of steps: the inputs, results and names of each step.

Rules, layout, audit, explain, status and targets use it. A new step needs a name in `usertune.core.step_names`, an
entry of `STEPS` here, a recipe, a rule and a script. `usertune.pipeline.step` says what an entry has, and
`usertune.pipeline.items` which results a study has of it.
"""

from __future__ import annotations

from collections.abc import Callable

from usertune.core import step_names as names
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
from usertune.pipeline import items
from usertune.pipeline.figures_of_study import figures_of_report, reads
from usertune.pipeline.step import Input, Item, Step
from usertune.reporting.figure_files import figure_files
from usertune.reporting.figures.catalogue import FIGURES
from usertune.study.schema.study import Study

# Contains a folder for each comparison of users that the command line sets.
SUBSETS = "subsets"
# The figures that the report draws, if a study has them.
OF_COSTS = tuple(name for name in FIGURES if reads(name, "costs"))


def _figures_that_read(what: str) -> frozenset[str]:
    return frozenset(name for name in FIGURES if reads(name, what))


def _files_of_figure(figure: str) -> dict[str, str]:
    """Return the files of a figure that the report draws, by their names in its rule."""
    return {f"{figure}_{kind}": f"figures/{file}" for kind, file in figure_files(figure).items()}


def _is_drawn(figure: str) -> Callable[[Study], bool]:
    return lambda study: figure in figures_of_report(study)


PREPARE = Step(
    name=names.PREPARE,
    items=items.each_user,
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
    items=items.once,
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
    items=items.once,
    manifest="base_model/manifest.json",
    log="logs/base_model.log",
    label="base model",
    counted=("base model to look up", "base models to look up"),
    results="base model",
)
TRAIN = Step(
    name=names.TRAIN,
    items=items.each_trained_experiment,
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
    items=items.each_training_on_folds,
    manifest="checkpoints/{experiment}/users_{batch}.json",
    files={"losses": "checkpoints/{experiment}/users_{batch}.csv"},
    log="logs/train_folds/{experiment}/users_{batch}.log",
    batch_log="logs/train_folds/{experiment}/batch_{batch}.log",
    inputs=(
        Input("base_model", names.BASE_MODEL),
        Input("start", names.TRAIN, of=items.start_of),
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
    items=items.each_experiment_with_other_weights,
    manifest="other_weights/{experiment}.json",
    log="logs/other_weights/{experiment}.log",
    inputs=(Input("base_model", names.BASE_MODEL), Input("training", names.TRAIN, of=items.checkpoint_of)),
    label="weights of {experiment}",
    doing="reading the weights of {experiment}",
    counted=("set of weights to read", "sets of weights to read"),
    results="weights that were not trained for their experiment",
    ask_for="an experiment",
)
PREDICT = Step(
    name=names.PREDICT,
    items=items.each_batch_of_answered_users,
    manifest="predictions/{experiment}/users_{batch}.json",
    log="logs/predict/{experiment}/users_{batch}.log",
    inputs=(
        Input("base_model", names.BASE_MODEL, of=items.if_generated),
        Input("weights", names.TRAIN),
        Input("weights", names.TRAIN_FOLDS, of=items.weights_on_folds),
        Input("start", names.TRAIN, of=items.start_of),
        Input("weights", names.OTHER_WEIGHTS),
        Input("samples", names.PREPARE),
        Input("targets", names.PREPARE, of=items.users_of_prior),
        Input("context", names.PREPARE, of=items.users_of_context),
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
    items=items.each_answered_user,
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
    items=items.once,
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
        Input("validation", names.SCORE, of=items.validation_scores),
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
    items=items.each_figure,
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
    items=items.once,
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
    items=items.once,
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

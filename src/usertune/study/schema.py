"""The study: what one ``config.yaml`` says, typed and checked before any job is planned.

The JSON schema in ``schemas/study.schema.json`` is generated from these models (``make schema``).
"""

from __future__ import annotations

import logging
import re
import unicodedata
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationError,
    WithJsonSchema,
    create_model,
    model_validator,
)
from pydantic.json_schema import SkipJsonSchema
from pydantic_core import InitErrorDetails, PydanticCustomError

from usertune.core.errors import UserError, shown
from usertune.core.users import parse_users
from usertune.data.readers.catalogue import READERS
from usertune.data.readers.messages import PROMPT_TEXT, placeholder_problem
from usertune.evaluation.thresholds import threshold_label
from usertune.inference.engines.catalogue import DEFAULT_ENGINE, ENGINES
from usertune.reporting.figures.catalogue import FIGURES
from usertune.study.experiment import ConfigModel, Experiment, Training, with_new_keys
from usertune.study.files import SPLITS
from usertune.tasks.catalogue import TASKS

logger = logging.getLogger(__name__)

RESERVED_EXPERIMENT_NAMES = frozenset(
    {
        "all",
        "base_model",
        "prepare",
        "train",
        "predict",
        "score",
        "compare",
        "figure",
        "audit",
        "report",
        "data",
        "check",
    }
)


def _users(value: Any) -> tuple[str, ...]:
    try:
        return tuple(parse_users(value))
    except UserError as error:
        raise ValueError(str(error)) from None


def _colour(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch("#[0-9a-fA-F]{6}", value):
        raise ValueError(
            f'{value!r} is not a colour; write "#rrggbb" with six hexadecimal digits, in quotes '
            "(without them YAML takes it for a comment)"
        )
    return value.lower()


def _plain_path(value: str) -> str:
    if set(value) & set("{}<>"):
        raise ValueError(
            f"{shown(value)} holds one of the characters {{ }} < >, which Snakemake takes for placeholders in file "
            "names; rename the folder, or reach it by a symbolic link"
        )
    if any(unicodedata.category(character) == "Cc" for character in value):
        raise ValueError(f"{shown(value)} holds a line break or another control character; rename the folder")
    if value.startswith("-"):
        raise ValueError(f"{shown(value)} begins with '-', which programs take for an option; write ./ before it")
    return value


def _folder(value: str) -> str:
    if value.startswith("~"):
        raise ValueError(f"{shown(value)} begins with '~', which is not replaced here; write the whole path")
    return _plain_path(value)


UserList = Annotated[
    tuple[str, ...],
    BeforeValidator(_users),
    WithJsonSchema({"type": ["string", "integer", "array"], "items": {"type": ["string", "integer"]}}),
]

PlainPath = Annotated[str, Field(min_length=1), AfterValidator(_plain_path)]
Folder = Annotated[str, Field(min_length=1), AfterValidator(_folder)]
# Snakemake writes it into a shell command as it is.
ImagePath = Annotated[str, Field(pattern=r"^[A-Za-z0-9._/][A-Za-z0-9._/+@=-]*$")]
Colour = Annotated[str, BeforeValidator(_colour), WithJsonSchema({"type": "string", "pattern": "^#[0-9a-fA-F]{6}$"})]


# The names in the catalogues, so that one line there adds a plug-in.
if TYPE_CHECKING:
    ReaderName = str
    TaskName = str
    EngineName = str
else:
    ReaderName, TaskName, EngineName = (Literal[tuple(catalogue)] for catalogue in (READERS, TASKS, ENGINES))


class Prompt(ConfigModel):
    """What is put around the text of every sample, in training as in prediction."""

    system: Annotated[str, Field(min_length=1)] | None = None
    """Text of the system turn; null keeps each sample's own."""
    user: str = PROMPT_TEXT
    """Text of the last user turn; ``{text}`` stands for what the sample says there."""

    @model_validator(mode="after")
    def _check(self) -> Prompt:
        if self.user.count(PROMPT_TEXT) != 1:
            raise ValueError(f"user: {self.user!r} must hold {PROMPT_TEXT} once, where the sample's text goes")
        for key, text in (("user", self.user), ("system", self.system or "")):
            if problem := placeholder_problem(text):
                raise ValueError(f"{key}: {problem}")
        return self


class Dataset(ConfigModel):
    """Where the raw data are, and what is done with them."""

    format: ReaderName = "messages"
    """How the raw data are written, and so what reads them; messages: a folder of ``user_<id>.jsonl``."""
    root: Folder
    """The folder that holds the raw data; image paths in the data are relative to it."""
    task: TaskName = "grounding"
    """What the model is asked for, and so how its answers are read and scored."""
    frame: Literal["relative_1000", "relative_1", "pixels"] = "relative_1000"
    """What the coordinates in the raw data are: 0-1000 or 0-1 on each axis, or pixels of the image."""
    prompt: Prompt = Prompt()
    on_bad_sample: Literal["error", "skip"] = "error"
    """Stop at a sample that does not pass the checks, or leave it out and count it."""
    watch_images: Literal["stat", "content", "never"] = "stat"
    """How a changed image is noticed: by size and modification time, by its bytes (slow), or not at all."""


class Users(ConfigModel):
    """Who is in which split."""

    train: UserList = ()
    """Users whose samples the experiments are trained on."""
    validation: UserList = ()
    """Users on whom the validation loss is measured; choose settings on these."""
    test: UserList
    """Users on whom every experiment is evaluated."""

    @model_validator(mode="after")
    def _check(self) -> Users:
        if not self.test:
            raise ValueError("test: at least one user is needed")
        owner: dict[str, str] = {}
        for split in SPLITS:
            for user in getattr(self, split):
                if user in owner:
                    raise ValueError(f"user {user} is in both {owner[user]} and {split}; splits must not overlap")
                owner[user] = split
        return self


class BaseModelSettings(ConfigModel):
    """The model that every experiment starts from."""

    path: PlainPath
    """A folder with a Qwen3-VL model and its processor, or a name on the Hugging Face hub."""
    revision: str | None = None
    """Commit, tag or branch on the hub; null for a local folder."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Number format of weights that are not trained, and of all weights in prediction."""
    min_pixels: Annotated[int, Field(gt=0)] | None = None
    """Smaller images are enlarged to this many pixels; null keeps the processor's own setting."""
    max_pixels: Annotated[int, Field(gt=0)] | None = None
    """Larger images are shrunk to this many pixels (32 x 32 of them make one visual token)."""
    thinking: bool | None = None
    """Whether a model that can think before it answers does so; null for a model that does not think (Instruct)."""

    @model_validator(mode="after")
    def _check(self) -> BaseModelSettings:
        if self.min_pixels and self.max_pixels and self.min_pixels > self.max_pixels:
            raise ValueError(f"min_pixels ({self.min_pixels}) is above max_pixels ({self.max_pixels})")
        return self


class Evaluation(ConfigModel):
    """How answers are generated and compared."""

    engine: EngineName = DEFAULT_ENGINE
    """What answers the samples; transformers: the model in the prediction job itself."""
    users_per_job: Annotated[int, Field(gt=0)] = 10
    """Users that one prediction job takes, so that the base model is loaded once for all of them. Changes no result."""
    batch_size: Annotated[int, Field(gt=0)] = 8
    """Samples generated at once; halved by itself when memory runs out. Under bfloat16 a few answers depend on it."""
    max_new_tokens: Annotated[int, Field(gt=0)] = 128
    """Longest answer, in tokens; generation ends earlier at the end-of-turn token."""
    thresholds: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)] = (140,)
    """Distances (0-1000 space) within which a click is a hit; the first is the one that is compared."""
    expected_parse_rate: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of answers below which a warning shows some of them, as soon as they are scored; changes no result."""
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95
    """Level of the confidence intervals."""

    @model_validator(mode="after")
    def _check(self) -> Evaluation:
        if len({threshold_label(threshold) for threshold in self.thresholds}) != len(self.thresholds):
            raise ValueError("thresholds: a threshold is listed twice")
        return self


class FigureSettings(ConfigModel):
    """How one figure is drawn."""

    colours: dict[str, Colour] = {}  # noqa: RUF012 (pydantic copies it)
    """Experiment -> colour in this figure, as "#rrggbb"; the others keep their standard colours."""


if TYPE_CHECKING:
    Figures = ConfigModel
else:
    Figures = create_model(
        "Figures",
        __base__=ConfigModel,
        __doc__="The figures, by name.",
        **{name: (FigureSettings, FigureSettings()) for name in FIGURES},
    )


FIGURE_NAMES = tuple(FIGURES)


class Report(ConfigModel):
    """What the report says and shows."""

    title: str = "Comparison of experiments"
    """Heading of the report."""
    examples: Annotated[int, Field(ge=0, le=50)] = 6
    """Test samples that are shown with every experiment's answer."""
    figures: Figures = Figures()
    """How single figures differ from the standard look; a change here draws no other figure again."""


class Rerun(ConfigModel):
    """What else makes results stale, besides what they are made of."""

    on_code_change: bool = False
    """Prepare, train and predict again what was made with other code or packages; the report names it anyway."""


class Origin(ConfigModel):
    """Where a study comes from, as far as it matters later. Not part of its file: `usertune.study.load` fills it in."""

    outcomes: Annotated[str, Field(pattern=r"^(subsets/[A-Za-z0-9_.,-]+/)?$")] = ""
    """Folder of tables, figures and report below ``results``, with a slash at its end; of other users than the file
    says, one beside those of the file's."""
    base_model: str | None = None
    """``base_model.path`` as it is written."""


def default_results(name: str) -> str:
    """Return the folder of results of a study that names none."""
    return f"results/{name}"


class Study(ConfigModel):
    """One whole study."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    """Short name of the study; it stands in the report and the tables."""
    results: Folder = "results/NAME"
    """Folder for everything that is produced, of this study alone; ``results/`` and its name where left out."""
    dataset: Dataset
    users: Users
    base_model: BaseModelSettings
    experiments: Annotated[
        dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")], Experiment], Field(min_length=1)
    ]
    """Name -> experiment, in the order of the report."""
    training: Training = Training()
    evaluation: Evaluation = Evaluation()
    report: Report = Report()
    rerun: Rerun = Rerun()
    container: ImagePath | None = None
    """Apptainer image that jobs run in with ``--sdm apptainer``; changes no result."""
    origin: Annotated[SkipJsonSchema[Origin], Field(exclude=True)] = Origin()

    @model_validator(mode="before")
    @classmethod
    def _fill_in_results(cls, raw: Any) -> Any:
        if isinstance(raw, dict) and raw.get("results") is None and isinstance(raw.get("name"), str):
            return {**raw, "results": default_results(raw["name"])}
        return raw

    @model_validator(mode="before")
    @classmethod
    def _fill_in_shared_training(cls, raw: Any) -> Any:
        """Give every trained experiment the study's training keys where it has none of its own."""
        if not isinstance(raw, dict) or not isinstance(raw.get("experiments"), dict):
            return raw
        training = raw.get("training")
        shared, messages = with_new_keys(training if isinstance(training, dict) else {})
        experiments = {}
        for name, experiment in raw["experiments"].items():
            if isinstance(experiment, dict) and experiment.get("mode") != "vanilla":
                own = experiment.get("training")
                own = {} if own is None else own
                if isinstance(own, dict):
                    own, more = with_new_keys(own)
                    messages += more
                    # Where an experiment says one of two keys for the same thing, the study's other one does not count.
                    other = {"warmup_steps": "warmup", "warmup": "warmup_steps"}
                    hidden = {other[key] for key in own if key in other and own[key] is not None}
                    merged = {key: value for key, value in shared.items() if key not in hidden}
                    experiment = {**experiment, "training": _merge(merged, own)}
            experiments[name] = experiment
        for message in sorted(set(messages)):
            logger.warning("%s", message)
        own_training = {"training": shared} if isinstance(training, dict) else {}
        return {**raw, **own_training, "experiments": experiments}

    @model_validator(mode="after")
    def _check(self) -> Study:
        for name, experiment in self.experiments.items():
            if name in RESERVED_EXPERIMENT_NAMES:
                raise ValueError(f"experiments: {name!r} is the name of a workflow step; choose another name")
            if experiment.trained and not self.users.train:
                raise ValueError(f"users: train is empty, but experiment {name!r} needs users to be trained on")
            training = experiment.training
            if training and not self.users.validation and (training.keep == "best" or training.early_stopping):
                key = "keep: best" if training.keep == "best" else f"early_stopping: {training.early_stopping}"
                raise ValueError(
                    f"users: validation is empty, but experiment {name!r} has {key}, which needs a validation loss; "
                    "name validation users, or remove the key"
                )
        return self

    @model_validator(mode="after")
    def _check_coloured_experiments(self) -> Study:
        # A plain ValueError would lose the key, since the validator of the whole study raises it.
        problems = [
            InitErrorDetails(
                type=PydanticCustomError(
                    "value_error",
                    "{error}",
                    {"error": f"no such experiment; use one of: {', '.join(self.experiments)}"},
                ),
                loc=("report", "figures", figure, "colours", name),
                input=name,
            )
            for figure in FIGURE_NAMES
            for name in getattr(self.report.figures, figure).colours
            if name not in self.experiments
        ]
        if problems:
            raise ValidationError.from_exception_data("Study", problems)
        return self

    @property
    def all_users(self) -> tuple[str, ...]:
        """Users of every split, in the order train, validation, test."""
        return self.users.train + self.users.validation + self.users.test

    @cached_property
    def test_batches(self) -> tuple[tuple[str, ...], ...]:
        """Test users cut into the batches that prediction jobs take."""
        size = self.evaluation.users_per_job
        users = self.users.test
        return tuple(users[start : start + size] for start in range(0, len(users), size))

    def max_new_tokens(self, experiment: str) -> int:
        """Longest answer, in tokens, that the named experiment may give."""
        own = self.experiments[experiment].max_new_tokens
        return self.evaluation.max_new_tokens if own is None else own


def _merge(shared: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    merged = dict(shared)
    for key, value in own.items():
        both_sections = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both_sections else value
    return merged

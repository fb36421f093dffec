"""The study: the typed content of ``config.yaml``, validated before any job is planned.

The JSON schema in ``schemas/study.schema.json`` is generated from these models (``make schema``).
"""

from __future__ import annotations

import logging
from functools import cached_property
from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator
from pydantic.json_schema import SkipJsonSchema
from pydantic_core import InitErrorDetails, PydanticCustomError

from usertune.core.hashing import canonical_json
from usertune.study.renamed_keys import with_new_report_keys
from usertune.study.schema.base import ConfigModel, Folder, ImagePath
from usertune.study.schema.base_model import BaseModelSettings
from usertune.study.schema.cross_checks import problems_between_sections
from usertune.study.schema.dataset import Dataset
from usertune.study.schema.engine import EngineChoice
from usertune.study.schema.evaluation import Evaluation
from usertune.study.schema.experiment import NAME, Experiment
from usertune.study.schema.folds import Folds
from usertune.study.schema.groups import settings_of
from usertune.study.schema.hypothesis import Hypothesis
from usertune.study.schema.report import Report
from usertune.study.schema.shared_training import with_shared_training
from usertune.study.schema.tracking import TrackingSettings
from usertune.study.schema.training import Training
from usertune.study.schema.users import Users

logger = logging.getLogger(__name__)


class Rerun(ConfigModel):
    """What makes results stale in addition to changed inputs and settings."""

    on_code_change: bool = False
    """Prepare, train and predict again if code or packages changed; otherwise the report only lists the changes."""


class Origin(ConfigModel):
    """Where a study comes from. Not part of its file: `usertune.study.load` sets it."""

    outcomes: Annotated[str, Field(pattern=r"^(subsets/[A-Za-z0-9_.,-]+/)?$")] = ""
    """Folder of tables, figures and report below ``results``, with a final slash; empty unless the command line changes
    the users."""
    base_model: str | None = None
    """``base_model.path`` as written in the study."""
    elsewhere: dict[str, str] = {}  # noqa: RUF012 (pydantic copies it)
    """Experiment -> path of its answers or weights as written in the study, for those that are made elsewhere."""


def _in_batches(users: tuple[str, ...], size: int) -> tuple[tuple[str, ...], ...]:
    return tuple(users[start : start + size] for start in range(0, len(users), size))


def default_results(name: str) -> str:
    """Return the results folder of a study that sets none."""
    return f"results/{name}"


class Study(ConfigModel):
    """A complete study."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    """Short name of the study, shown in the report and the tables."""
    results: Folder = "results/NAME"
    """Folder for all results of this study; default: ``results/`` and the name of the study."""
    dataset: Dataset
    users: Users
    base_model: BaseModelSettings
    experiments: Annotated[dict[Annotated[str, Field(pattern=NAME)], Experiment], Field(min_length=1)]
    """Name -> experiment, in the order of the report."""
    training: Training = Training()
    folds: Folds | None = None
    """Folds of each test user's own samples; null: none."""
    evaluation: Evaluation = Evaluation()
    hypothesis: Hypothesis | None = None
    """What the study is to show, printed above the result: a sentence, or `text` and `comparisons`."""
    report: Report = Report()
    tracking: TrackingSettings = TrackingSettings()
    rerun: Rerun = Rerun()
    gpu_memory_gb: Annotated[float, Field(gt=0)] | None = None
    """Memory of a GPU in GiB, for the estimate before a run; null: that of this machine, unknown on a cluster.
    Changes no result."""
    container: ImagePath | None = None
    """Apptainer image for jobs with ``--sdm apptainer``. Changes no result."""
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
        """Add the study's training keys to every trained experiment that does not set them."""
        if not isinstance(raw, dict) or not isinstance(raw.get("experiments"), dict):
            return raw
        filled, messages = with_shared_training(raw)
        for message in sorted(set(messages)):
            logger.warning("%s", message)
        return filled

    @model_validator(mode="before")
    @classmethod
    def _rename_report_keys(cls, raw: Any) -> Any:
        if not isinstance(raw, dict) or not isinstance(raw.get("report"), dict):
            return raw
        report, messages = with_new_report_keys(raw["report"])
        for message in messages:
            logger.warning("%s", message)
        return {**raw, "report": report}

    @model_validator(mode="after")
    def _check(self) -> Study:
        # With their keys, which a ValueError of the complete study would lose.
        details = [
            InitErrorDetails(type=PydanticCustomError("value_error", "{error}", {"error": text}), loc=key, input=None)
            for key, text in problems_between_sections(self)
        ]
        if details:
            raise ValidationError.from_exception_data("Study", details)
        return self

    @property
    def all_users(self) -> tuple[str, ...]:
        """Users of all splits, in the order train, validation, test."""
        return self.users.train + self.users.validation + self.users.test

    @cached_property
    def groups(self) -> dict[str, tuple[str, ...]]:
        """Name of a group -> its experiments, both in the order of the study."""
        found: dict[str, list[str]] = {}
        for name, experiment in self.experiments.items():
            if experiment.group is not None:
                found.setdefault(experiment.group, []).append(name)
        return {group: tuple(names) for group, names in found.items()}

    @cached_property
    def _settings(self) -> dict[str, dict[str, dict[str, Any]]]:
        return {
            group: settings_of({name: self.experiments[name] for name in own}) for group, own in self.groups.items()
        }

    def settings(self, group: str) -> dict[str, dict[str, Any]]:
        """Return ``{experiment: setting}`` of a group: the keys with different values in it, without the seed."""
        return self._settings[group]

    def has_several_settings(self, group: str) -> bool:
        """Whether the experiments of a group differ in more than the seed."""
        first, *others = self.settings(group).values()
        return any(other != first for other in others)

    def selection(self, group: str) -> str | None:
        """Return what chooses the best setting of a group; None if nothing does, or if it has only one."""
        if not self.has_several_settings(group):
            return None
        names = self.groups[group]
        asked = self.experiments[names[0]].select
        if asked is None and self.users.validation and all(self.experiments[name].trained for name in names):
            return "loss"
        return None if asked == "none" else asked

    @cached_property
    def chosen_by_loss(self) -> tuple[str, ...]:
        """The experiments whose validation losses choose a setting."""
        return tuple(name for group, names in self.groups.items() if self.selection(group) == "loss" for name in names)

    @cached_property
    def chosen_by_accuracy(self) -> tuple[str, ...]:
        """The experiments whose answers for validation users choose a setting."""
        chosen = [group for group in self.groups if self.selection(group) == "accuracy"]
        return tuple(name for group in chosen for name in self.groups[group])

    def answered_users(self, experiment: str) -> tuple[str, ...]:
        """Return the users whom an experiment answers: the test users, then validation users who choose a setting."""
        return self.users.test + (self.users.validation if experiment in self.chosen_by_accuracy else ())

    @property
    def users_with_folds(self) -> tuple[str, ...]:
        """Users whose samples are cut into folds, if the study has any: those whom an experiment answers."""
        return self.users.test + (self.users.validation if self.chosen_by_accuracy else ())

    @property
    def comparisons(self) -> tuple[tuple[str, str], ...]:
        """The comparisons of the hypothesis, if it has any."""
        return self.hypothesis.comparisons if self.hypothesis else ()

    @cached_property
    def test_batches(self) -> tuple[tuple[str, ...], ...]:
        """Test users in batches, one for each prediction job of an experiment."""
        return _in_batches(self.users.test, self.evaluation.users_per_job)

    @cached_property
    def validation_batches(self) -> tuple[tuple[str, ...], ...]:
        """Validation users in batches, as `test_batches`; empty unless some experiment answers them."""
        return _in_batches(self.users.validation, self.evaluation.users_per_job) if self.chosen_by_accuracy else ()

    def batches_of(self, experiment: str) -> tuple[tuple[str, ...], ...]:
        """Return the batches of users whom an experiment answers."""
        return self.test_batches + (self.validation_batches if experiment in self.chosen_by_accuracy else ())

    @cached_property
    def data_batches(self) -> tuple[tuple[str, ...], ...]:
        """All users in batches, one for each job that checks samples.

        A batch never crosses splits or batches of `test_batches` or `validation_batches`, so a change of one user's
        data starts no other prediction or training.
        """
        groups = (self.users.train, *(self.validation_batches or (self.users.validation,)), *self.test_batches)
        return tuple(batch for users in groups for batch in _in_batches(users, self.dataset.users_per_job))

    @cached_property
    def sharing(self) -> tuple[tuple[str, ...], ...]:
        """The experiments whose prediction jobs can use one loaded base model, in groups.

        These have adapters, the same weights to start from, the same engine and the same settings of generation.
        """
        groups: dict[tuple[str | int | None, ...], list[str]] = {}
        for name, experiment in self.experiments.items():
            engine = self.engine_of(name)
            if experiment.mode == "lora" and experiment.generated and engine.shares_base:
                settings = canonical_json([engine.kind, engine.settings])
                groups.setdefault((settings, self.max_new_tokens(name), self.start_of(name)), []).append(name)
        several = len(self.test_batches) > 1
        return tuple(tuple(names) for names in groups.values() if len(names) > 1 or several)

    def start_of(self, experiment: str) -> str | None:
        """Return the experiment whose trained weights the training of one starts from; None: the base model."""
        of = self.experiments[experiment].adapters_of or experiment
        start = self.experiments[of].start_from
        return start if start is not None and self.experiments[start].trained else None

    def adapter_owners(self, experiment: str) -> dict[str, str]:
        """Return test user -> user whose adapters answer; empty unless the experiment has `adapters_of`."""
        shift, users = self.experiments[experiment].shift, self.users.test
        if self.experiments[experiment].adapters_of is None:
            return {}
        return {user: users[(place + shift) % len(users)] for place, user in enumerate(users)}

    @property
    def matrices(self) -> dict[str, str]:
        """Group of a matrix of adapters -> the experiment whose adapters they are."""
        found = {}
        for group, names in self.groups.items():
            first = self.experiments[names[0]]
            if first.assign == "matrix" and first.adapters_of is not None:
                found[group] = first.adapters_of
        return found

    def max_new_tokens(self, experiment: str) -> int:
        """Return the maximum length of an answer of an experiment in tokens."""
        own = self.experiments[experiment].max_new_tokens
        return self.evaluation.max_new_tokens if own is None else own

    def next_user(self, user: str) -> str:
        """Return the test user after another one, after the last the first; of a validation user, that of these."""
        users = self.users.test if user in self.users.test else self.users.validation
        return users[(users.index(user) + 1) % len(users)]

    def engine_of(self, experiment: str) -> EngineChoice:
        """Return what generates the answers of an experiment."""
        return self.experiments[experiment].engine or self.evaluation.engine

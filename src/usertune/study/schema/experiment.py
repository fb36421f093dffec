"""The section `experiments`: mode, training settings and GPUs of each."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from usertune.core.errors import shown
from usertune.study.schema.base import ConfigModel, PlainPath
from usertune.study.schema.context import Context
from usertune.study.schema.elsewhere import (
    NOT_TRAINED,
    AnswersPath,
    CheckpointOf,
    elsewhere_problem,
    made_elsewhere,
)
from usertune.study.schema.engine import EngineChoice
from usertune.study.schema.prior import Prior
from usertune.study.schema.training import Training
from usertune.training.processes import Strategy

# Names of experiments and of groups.
NAME = r"^[a-z][a-z0-9_]{0,39}$"
Sweep = dict[str, list[Any]] | list[dict[str, Any]]

# From the Qwen3-VL training scripts of LLaMA-Factory (examples/train_lora, examples/train_full) and, for adapters,
# ms-swift (examples/models/qwen3_vl). Adapters start at zero; at the 1e-6 of the reference experiment they hardly
# change.
LEARNING_RATES = {"lora": 1e-4, "full": 1e-5}


# The modes that train weights.
TRAINED_MODES = tuple(LEARNING_RATES)
# Keys of an experiment that have no effect if it is made elsewhere.
WITHOUT_EFFECT_ELSEWHERE = (
    "training", "gpus", "nodes", "parallel", "max_new_tokens", "engine", "scope", "start_from", "samples", "like",
    "adapters_of",
)  # fmt: skip
# The same, for weights that are made elsewhere and answer here.
WITHOUT_EFFECT_ON_WEIGHTS = tuple(
    key for key in WITHOUT_EFFECT_ELSEWHERE if key not in ("max_new_tokens", "engine", "context")
)

Scope = Literal["global", "personal", "pooled"]


def _number_or_all(value: Any) -> Any:
    # Without this, each alternative would have a message of its own.
    if value == "all" or (isinstance(value, int) and not isinstance(value, bool) and value > 0):
        return value
    raise ValueError(f"{shown(value)} is no number of samples; write a whole number from 1, or all")


Samples = Annotated[Annotated[int, Field(gt=0)] | Literal["all"], BeforeValidator(_number_or_all)]


def has_training_keys(raw: Any) -> bool:
    """Whether an experiment, as written in a study, takes the study's training keys."""
    if not isinstance(raw, dict) or raw.get("adapters_of") is not None:
        return False
    return raw.get("mode") in TRAINED_MODES and not made_elsewhere(raw, NOT_TRAINED)


class Experiment(ConfigModel):
    """One row of the comparison."""

    mode: Literal["vanilla", "lora", "full", "prior"]
    """vanilla: the unchanged base model; lora: low-rank adapters; full: all language-model weights; prior: no model,
    one point is the answer (see `prior`)."""
    scope: Scope = "global"
    """Who shares weights. global: all test users, trained on the training users; personal: nobody, each fold of a test
    user has weights trained on the user's other folds; pooled: each fold of all test users has weights trained on the
    other folds of all of them, a control for personal."""
    start_from: str | None = None
    """For scope personal and pooled: the experiment (of scope global) whose weights the training starts from; null:
    the base model."""
    samples: Samples = "all"
    """For scope personal and pooled: most samples of each user in a training (n-shot), whole episodes first."""
    adapters_of: str | None = None
    """The experiment (mode lora, scope personal) whose adapters answer, each test user by those of another one: a
    control for what they know of their own user. Nothing is trained."""
    assign: Literal["swapped", "matrix"] = "swapped"
    """With `adapters_of`: swapped, each test user by the adapters of the test user `shift` places on; matrix, by those
    of every other test user, as a group with an experiment for each shift."""
    shift: Annotated[int, Field(ge=1)] = 1
    """With `adapters_of`: how many places on, in a circle."""
    like: str | None = None
    """The experiment whose training keys this one takes over; its own training keys come first."""
    training: Training | None = None
    """Training keys of this experiment; the others come from the study's `training`."""
    max_new_tokens: Annotated[int, Field(gt=0)] | None = None
    """Maximum length of an answer in tokens, if it differs from `evaluation.max_new_tokens`."""
    engine: EngineChoice | None = None
    """What generates the answers, if it differs from `evaluation.engine`."""
    answers: AnswersPath | None = None
    """Answers that were generated elsewhere: JSON Lines, a file for each user (``{user}`` in the path) or one for all
    (docs/elsewhere.md). ``mode`` then only says what answered."""
    prior: Prior | None = None
    """Which point is the answer, for mode prior; see docs/personalisation.md."""
    context: Context | None = None
    """Answered samples of other episodes, in the prompt before the question; see docs/personalisation.md."""
    weights: PlainPath | None = None
    """Folder of weights that were trained elsewhere: an adapter of PEFT for mode lora, a complete model for mode full
    (docs/elsewhere.md)."""
    checkpoint: CheckpointOf | None = None
    """Weights of an earlier step of another experiment, such as ``{of: lora, step: 500}``."""

    gpus: Annotated[int, Field(ge=1)] = 1
    """GPUs for training on each node. Changes only the last digits of sums."""
    nodes: Annotated[int, Field(ge=1)] = 1
    """Cluster nodes for training. Changes only the last digits of sums."""
    parallel: Literal["auto", "ddp", "fsdp"] = "auto"
    """What each GPU holds: the complete model (ddp) or a shard of it (fsdp, only for mode full)."""
    sweep: Annotated[Sweep | None, Field(exclude=True)] = None
    """Keys of an experiment -> values: one experiment for each combination (docs/sweeps.md)."""
    group: Annotated[str, Field(pattern=NAME)] | None = None
    """Name under which several experiments are one target; those of a sweep have the name of the sweep."""
    select: Literal["loss", "accuracy", "none"] | None = None
    """What chooses the best setting of the group: loss (the lowest validation loss, mean over seeds), accuracy (the
    best primary metric on the validation users, whom the experiments of the group answer for this) or none; null: loss
    if all experiments of the group are trained and the study has validation users."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in_prior(cls, raw: Any) -> Any:
        if isinstance(raw, dict) and raw.get("mode") == "prior" and raw.get("prior") is None:
            return {**raw, "prior": {}}
        return raw

    @model_validator(mode="before")
    @classmethod
    def _choose_learning_rate(cls, raw: Any) -> Any:
        """Set the learning rate to the default of the mode, unless the study sets one."""
        if not isinstance(raw, dict) or not isinstance(training := raw.get("training"), dict):
            return raw
        default = LEARNING_RATES.get(raw["mode"]) if isinstance(raw.get("mode"), str) else None
        if default is None or training.get("learning_rate") is not None:
            return raw
        return {**raw, "training": {**training, "learning_rate": default}}

    @model_validator(mode="after")
    def _check_sweep(self) -> Experiment:
        # `usertune.study.sweep` replaces it before validation.
        if self.sweep is not None:
            raise ValueError("a sweep must be expanded before validation")
        return self

    @model_validator(mode="after")
    def _check(self) -> Experiment:
        without_effect = WITHOUT_EFFECT_ON_WEIGHTS if self.generated else WITHOUT_EFFECT_ELSEWHERE
        if problem := elsewhere_problem(self, without_effect):
            raise ValueError(problem)
        if self.uses_other_weights and self.mode not in TRAINED_MODES:
            raise ValueError("weights and checkpoint need mode lora (an adapter) or full (a complete model)")
        if self.mode in ("vanilla", "prior"):
            if self.training is not None:
                raise ValueError(f"an experiment of mode {self.mode} is not trained; remove its training keys")
            if own := self._set("gpus", "nodes", "parallel", "scope", "start_from", "samples", "like"):
                raise ValueError(f"an experiment of mode {self.mode} is not trained; remove {', '.join(own)}")
        elif self.scope == "global":
            if own := self._set("start_from", "samples"):
                raise ValueError(f"{', '.join(own)}: only for scope personal or pooled; set scope, or remove the key")
        elif own := self._set("gpus", "nodes", "parallel"):
            raise ValueError(
                f"{', '.join(own)}: each training of scope {self.scope} runs on one GPU; remove the key. Batches of "
                "users are trained at the same time on other GPUs"
            )
        if self.mode == "lora" and self.parallel == "fsdp":
            raise ValueError("parallel: fsdp is only for mode full; train adapters with ddp")
        if self.training is not None:
            size = 1 if self.training.micro_batch_size == "auto" else self.training.micro_batch_size
            if self.training.batch_size % (size * self.processes):
                raise ValueError(
                    f"training.batch_size ({self.training.batch_size}) must be a multiple of training.micro_batch_size "
                    f"x gpus x nodes ({size} x {self.gpus} x {self.nodes})"
                )
        return self

    @model_validator(mode="after")
    def _check_adapters(self) -> Experiment:
        if self.adapters_of is None:
            if own := self._set("assign", "shift"):
                raise ValueError(f"{', '.join(own)}: only with adapters_of; remove it")
            return self
        if self.mode != "lora":
            raise ValueError(f"adapters_of: only for mode lora, not {self.mode}; set mode: lora")
        if own := self._set("training", "gpus", "nodes", "parallel", "scope", "start_from", "samples", "like"):
            raise ValueError(f"an experiment with adapters_of is not trained; remove {', '.join(own)}")
        return self

    @model_validator(mode="after")
    def _check_prior(self) -> Experiment:
        if self.mode != "prior" and self.prior is not None:
            raise ValueError(f"prior: only for mode prior; remove it, or set mode: prior instead of {self.mode}")
        if self.mode == "prior" and self.answers is not None:
            raise ValueError("an experiment of mode prior finds its own answers; remove answers, or set another mode")
        if self.answers is not None and self.context is not None:
            raise ValueError("context: the answers are made elsewhere; remove one of answers and context")
        if self.mode == "prior" and (own := self._set("max_new_tokens", "engine", "context")):
            raise ValueError(f"an experiment of mode prior has no model; remove {', '.join(own)}")
        return self

    def _set(self, *keys: str) -> list[str]:
        """Return those of some keys that differ from their defaults."""
        return [key for key in keys if getattr(self, key) != type(self).model_fields[key].default]

    @property
    def whose_weights(self) -> str:
        """Whose weights answer, in a word: the scope, or ``swapped``."""
        return self.scope if self.adapters_of is None else self.assign

    @property
    def trained(self) -> bool:
        """Whether this study trains the experiment's weights, once for all test users."""
        return self._is_trained and self.scope == "global"

    @property
    def trained_on_folds(self) -> bool:
        """Whether this study trains the experiment's weights on folds of the test users' own samples."""
        return self._is_trained and self.scope != "global"

    @property
    def _is_trained(self) -> bool:
        return self.mode in TRAINED_MODES and self.adapters_of is None and not made_elsewhere(self, NOT_TRAINED)

    @property
    def uses_other_weights(self) -> bool:
        """Whether the experiment answers with weights that it does not train itself."""
        return self.weights is not None or self.checkpoint is not None

    @property
    def generated(self) -> bool:
        """Whether a model answers here; otherwise a job without a GPU writes the predictions."""
        return self.answers is None and self.mode != "prior"

    @property
    def processes(self) -> int:
        """Number of training processes: one per GPU."""
        return self.gpus * self.nodes

    @property
    def strategy(self) -> Strategy:
        """How the training processes share the work."""
        if self.parallel != "auto":
            return self.parallel
        return "fsdp" if self.mode == "full" and self.processes > 1 else "ddp"

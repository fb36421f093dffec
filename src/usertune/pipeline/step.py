"""What a step of the pipeline is: its results, their inputs, paths and names. `usertune.pipeline.steps` lists them.

Paths are templates relative to the results folder. Their fields are the wildcards of the step's rule: ``{user}``,
``{experiment}``, ``{batch}`` and ``{figure}``. The audit's ``{settings}`` is known when jobs are planned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from string import Formatter

from usertune.core.users import batch_label
from usertune.study.schema.study import Study


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
        of_comparison: whether each comparison of other users, in `steps.SUBSETS`, has its own results.
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

"""Refuse to export a result that is not what the study says now."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from pathlib import Path

from usertune.checks.freshness import Freshness
from usertune.core.errors import UserError
from usertune.pipeline.layout import needed_for
from usertune.pipeline.plug_ins import current_code
from usertune.pipeline.recipes import Recipes
from usertune.pipeline.results_folder import check_owner
from usertune.runtime.provenance import installed_versions
from usertune.study.schema.study import Study

LISTED = 5


def recipes_of(study: Study) -> Recipes:
    """Return a study's recipes with today's code and packages."""
    return Recipes(study, current_code(study), installed_versions())


def freshness_of(study: Study) -> Freshness:
    """Return the state of a study's results.

    Raises:
        UserError: the results folder belongs to another study.
    """
    check_owner(study)
    return Freshness(study, recipes_of(study))


def require_current(freshness: Freshness, paths: Iterable[str], make: str) -> None:
    """Check that results, and all that they are made from, are complete, unmodified and what the study says.

    Args:
        freshness: the state of the study's results.
        paths: manifests of the results.
        make: the command that makes them.

    Raises:
        UserError: some are not; the message names them and says why.
    """
    needed = dict.fromkeys(path for own in paths for path in needed_for(freshness.results, own))
    problems = []
    for path in needed:
        reason = next(chain(freshness.reasons(path), freshness.not_from_upstream(path)), None)
        if reason is not None:
            problems.append(f"{Path(freshness.study.results) / path}: {reason}")
    if problems:
        more = [f"... and {len(problems) - LISTED} more"] if len(problems) > LISTED else []
        raise UserError(
            "\n".join([*problems[:LISTED], *more, f"these results are not what the study says; make them by: {make}"])
        )

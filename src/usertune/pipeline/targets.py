"""Checks the targets of a command line, and suggests valid ones."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from usertune.core.step_names import ALL, CHECK, PREPARE, SCORE
from usertune.core.users import format_users
from usertune.pipeline.layout import Result, needed_for
from usertune.pipeline.steps import STEPS
from usertune.study.schema.study import Study

# Rules without an output, and steps with one result.
NAMES = (ALL, CHECK, *(step.name for step in STEPS.values() if not step.wildcards))


def problem(study: Study, results: Mapping[str, Result], targets: Sequence[str]) -> str | None:
    """Return an error message for unknown targets; None if all are known.

    Args:
        study: the study.
        results: its results by manifest path.
        targets: names of rules and files, relative to the working directory.
    """
    files = [f"{study.results}/{path}" for result in results.values() for path in (result.manifest, *result.files)]
    known = {Path(file).absolute() for file in files}
    names = [*NAMES, *study.experiments, *study.groups]
    problems = []
    for target in targets:
        if target in names or Path(target).absolute() in known or "/logs/" in target:
            continue
        if target in STEPS:
            example = next((path for path, result in results.items() if result.step == target), "")
            instead = f"{STEPS[target].ask_for}, or a file such as {study.results}/{example}"
            problems.append(f"{target}: there are many of these; ask for {instead}")
        elif "/" in target:
            problems.append(f"{target}: this study makes no such file{_close(target, files)}{_users(target, files)}")
        elif not Path(target).exists():
            problems.append(f"{target}: there is no such target{_close(target, names)}")
    if not problems:
        return None
    listed = f"Targets are: {', '.join(names)}; and files of the results, such as {files[0]}."
    return "\n".join([*problems, listed])


def needed(study: Study, results: Mapping[str, Result], targets: Sequence[str]) -> set[str]:
    """Return the manifests of all results that known targets need, whether they exist or not.

    Args:
        study: the study.
        results: its results by manifest path.
        targets: names of rules and files, as in `problem`; none means everything.
    """
    if not targets or ALL in targets:
        return set(results)
    asked = {Path(target).absolute() for target in targets}
    found: set[str] = set()
    for path, result in results.items():
        if result.step == SCORE:
            names = {result.experiment, study.experiments[str(result.experiment)].group}
        elif result.step == PREPARE:
            names = {CHECK}
        else:
            names = {result.step}
        files = {Path(study.results, file).absolute() for file in (path, *result.files)}
        if names & set(targets) or files & asked:
            found.add(path)
            found.update(needed_for(results, path))
    return found


def _close(target: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(target, known, n=3)
    return f"; did you mean {', '.join(close)}?" if close else ""


def _users(target: str, files: Sequence[str]) -> str:
    """Return a sentence that lists the users with a file of this kind."""
    form = re.fullmatch(r"(.*/user_)(.+?)((?:\.manifest)?\.\w+)", target)
    if form is None:
        return ""
    known = [file for file in files if file.startswith(form[1]) and file.endswith(form[3])]
    users = [file.removeprefix(form[1]).removesuffix(form[3]) for file in known]
    return f" Such files exist for users {format_users(users)}." if users else ""

"""Write the picture of one test sample, from a study's results."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pandas as pd

from usertune.checks.freshness import Freshness
from usertune.core.errors import UserError
from usertune.core.files import replacement
from usertune.core.manifest import read_manifest
from usertune.data.images import BadImageError, load_image
from usertune.data.samples import read_samples
from usertune.evaluation.tables import read_table
from usertune.exchange.current import freshness_of, recipes_of
from usertune.pipeline import steps
from usertune.pipeline.layout import Result
from usertune.reporting.browser.draw import draw_sample
from usertune.reporting.browser.samples import SampleView, sample_views, scored
from usertune.reporting.recipe import ReportRecipe
from usertune.reporting.style import styles
from usertune.study.files import SPLITS
from usertune.study.schema.study import Study

# How many ids an error names where none is near.
LISTED = 3


@dataclass(frozen=True)
class Wanted:
    """The sample to show.

    Attributes:
        user: one of the study's test users.
        sample: id of one of the user's samples.
        experiments: whose answers are shown; none: those of all experiments that have been scored for the user.
        out: PNG to write; None: a name made from user and sample, in the working directory.
    """

    user: str
    sample: str
    experiments: Sequence[str] = ()
    out: Path | None = None


def show_sample(study: Study, wanted: Wanted) -> str:
    """Write the picture of a sample with the answers to it, and return what it shows, for people.

    Raises:
        UserError: there is no such user, sample or experiment (the message names near ones), it has no answer yet, its
            screenshot is missing or has changed, or the picture cannot be written.
    """
    _check_names(study, wanted)
    freshness, design = freshness_of(study), ReportRecipe.parse(recipes_of(study).report())
    samples_file = freshness.folder / f"data/user_{wanted.user}.jsonl"
    ids = [sample["id"] for sample in read_samples(samples_file, wanted.user)]
    if wanted.sample not in ids:
        raise UserError(f"user {wanted.user} has no sample {wanted.sample!r}{_near(wanted.sample, ids)}")
    scores = _scores(freshness, wanted)
    shown = tuple(item for item in design.experiments if item.name in scores)
    own = design.model_copy(update={"users": (wanted.user,), "experiments": shown})
    view = _view(own, freshness.folder, {item.name: scores[item.name] for item in shown}, samples_file, wanted.sample)
    target = wanted.out or Path(f"{_for_file(wanted.user)}_{_for_file(wanted.sample)}.png")
    _write(study, design, view, target)
    stale = [
        f"note: the answer of {name} is from a result that would be made again: {reason}"
        for name, result in scores.items()
        for reason in islice(freshness.reasons(result.manifest), 1)
    ]
    return "\n".join([*_said(view), *stale, f"picture: {target}"])


def _check_names(study: Study, wanted: Wanted) -> None:
    for name in wanted.experiments:
        if name not in study.experiments:
            raise UserError(f"no experiment is named {name!r}{_near(name, study.experiments)}")
    if wanted.user in study.users.test:
        return
    for split in SPLITS:
        if wanted.user in getattr(study.users, split):
            raise UserError(
                f"user {wanted.user!r} is one of the {split} users; only test users are asked, and they are: "
                f"{', '.join(study.users.test[:LISTED])}{', ...' if len(study.users.test) > LISTED else ''}"
            )
    raise UserError(f"no test user is named {wanted.user!r}{_near(wanted.user, study.users.test)}")


def _scores(freshness: Freshness, wanted: Wanted) -> dict[str, Result]:
    """Return experiment -> its scores of the user, of those that are to be shown."""
    found = {
        str(result.experiment): result
        for result in freshness.results.values()
        if result.step == steps.SCORE.name and result.users == (wanted.user,)
    }
    made = {name: result for name, result in found.items() if (freshness.folder / result.manifest).exists()}
    for name in wanted.experiments or list(found)[: not made]:
        if name not in made:
            raise UserError(
                f"experiment {name} has no scores of user {wanted.user} yet; make them by: "
                f"snakemake {name} --profile local"
            )
    return {name: result for name, result in made.items() if name in (wanted.experiments or made)}


def _view(
    design: ReportRecipe, folder: Path, scores: Mapping[str, Result], samples_file: Path, sample: str
) -> SampleView:
    """Return what the report shows of the sample."""
    tables = [
        read_table((folder / result.manifest).with_suffix(".csv")).assign(experiment=name)
        for name, result in scores.items()
    ]
    table = pd.concat(tables, ignore_index=True)
    predictions = [read_manifest(folder / path) for result in scores.values() for path in result.inputs["answers"]]
    primary = next(metric for metric in design.metrics if metric.column in table)
    found = scored(predictions, table)
    (own,) = (each for each in read_samples(samples_file, design.users[0]) if each["id"] == sample)
    return next(sample_views(design, primary, [own], found))


def _write(study: Study, design: ReportRecipe, view: SampleView, target: Path) -> None:
    try:
        screenshot = load_image(study.dataset.root, view.image) if view.image else None
    except BadImageError as error:
        raise UserError(f"user {view.user}, sample {view.sample!r}: {error}") from None
    picture = draw_sample(view, screenshot, styles(design))
    try:
        with replacement(target) as temporary:
            picture.save(temporary, "PNG")
    except OSError as error:
        raise UserError(f"{target}: cannot be written ({error.strerror})") from None


def _said(view: SampleView) -> list[str]:
    lines = [f"user {view.user}, sample {view.sample}, episode {view.episode}, step {view.step}"]
    lines += [f"{key}: {value}" for key, value in view.about.items()]
    lines += ["instruction:", _indented(view.instruction), "expected answer:", _indented(view.reference)]
    for answer in view.answers:
        form = f", form {answer.form}" if answer.form else ""
        lines += [f"{answer.experiment}: {answer.outcome}{form}", _indented(answer.text)]
    return lines


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.split("\n"))


def _near(name: str, known: Iterable[str]) -> str:
    names = list(known)
    close = difflib.get_close_matches(name, names, n=LISTED, cutoff=0.5)
    if close:
        return f"; did you mean {' or '.join(close)}?"
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return f"; there are {', '.join(names[:LISTED])}{more}"


def _for_file(name: str) -> str:
    return re.sub(r"[^\w.-]+", "_", name).strip("_.")[:80] or "sample"

"""The smallest gain that a study can detect, before it runs."""

from __future__ import annotations

from pathlib import Path

from usertune.core.manifest import read_manifest
from usertune.data.readers.catalogue import get_reader
from usertune.evaluation.recipe import measured
from usertune.evaluation.statistics.intervals import effective_users
from usertune.evaluation.statistics.power import assumed_sd, smallest_detectable
from usertune.pipeline import steps
from usertune.study.schema.study import Study


def detectable_note(study: Study) -> str:
    """Return a paragraph on the smallest mean gain over test users that the study will probably detect.

    The assumed standard deviation of users' true gains is ``evaluation.gain_sd``; for a primary metric that is a
    fraction, the chance of each user's samples is added (see `assumed_sd`).
    """
    asked = study.evaluation
    primary = measured((study.dataset.task, *asked.further_tasks), asked.thresholds, asked.primary)[0]
    counts = [count for user in study.users.test if (count := _samples(study, user))]
    users = f"{len(counts)} test user{'' if len(counts) == 1 else 's'} with samples"
    if len(counts) < 3:
        return f"Detectable gain: {users} allow no test; with three or more, differences have intervals and p values."
    is_fraction = primary.unit == "%"
    sd = assumed_sd(asked.gain_sd / 100, counts) if is_fraction else asked.gain_sd
    found = smallest_detectable(sd, len(counts))
    assert found is not None
    unit = "points" if is_fraction else f"{primary.unit} in {primary.title}".lstrip()
    scale = 100 if is_fraction else 1
    chance = (
        f", which is {scale * sd:.1f} with the chance of their samples (a quarter of them change between hit and miss)"
        if is_fraction
        else ""
    )
    few = " With five users or fewer no sign-flip p value is below 5 %, however large the gain." * (len(counts) < 6)
    return (
        f"Detectable gain: with {users} ({sum(counts):,} samples, as uncertain as {effective_users(counts):.1f} equal "
        f"users in a mean over samples), a mean gain of {scale * found:.1f} {unit} is found in 80 % of studies "
        f"(two-sided 5 %, one comparison), if users' true gains have a standard deviation of {asked.gain_sd:g} {unit} "
        f"(evaluation.gain_sd){chance}.{few} docs/statistics.md explains it."
    )


def _samples(study: Study, user: str) -> int:
    """Return the number of a user's samples: prepared ones, or raw ones before that."""
    manifest = Path(study.results, steps.PREPARE.manifest.format(user=user))
    if manifest.exists():
        return int(read_manifest(manifest)["samples"])
    return get_reader(study.dataset.format, Path(study.dataset.root), study.dataset.options).count(user)

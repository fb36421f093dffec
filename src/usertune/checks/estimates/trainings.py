"""How many trainings an experiment has, on how many samples each."""

from __future__ import annotations

from dataclasses import dataclass

from usertune.checks.estimates.samples import Lengths
from usertune.study.schema.study import Study


@dataclass(frozen=True)
class Trainings:
    """The trainings of one experiment.

    Attributes:
        count: their number.
        loads: how often they load the model that they start from.
        samples: samples of each; of trainings on folds, the mean.
        lengths: lengths of these samples.
    """

    count: int
    loads: int
    samples: int
    lengths: Lengths

    @property
    def tokens(self) -> int:
        """Tokens of all samples of all trainings."""
        return round(self.lengths.total * self.samples * self.count / self.lengths.samples)


def trainings_of(study: Study, name: str, train: Lengths | None, test: Lengths) -> Trainings | None:
    """Return the trainings of an experiment; None if it has none, or no samples.

    Args:
        study: the study.
        name: name of the experiment.
        train: lengths of the training users' samples; None without training users.
        test: lengths of the test users' samples.
    """
    experiment = study.experiments[name]
    if experiment.trained and train is not None and train.samples:
        return Trainings(1, 1, train.samples, train)
    if not experiment.trained_on_folds or study.folds is None or not test.samples:
        return None
    folds, users = study.folds.count, len(study.users.test)
    of_user = test.samples / users * (folds - 1) / folds
    if experiment.samples != "all":
        of_user = min(of_user, experiment.samples)
    if experiment.scope == "pooled":
        together, count, jobs = users, folds, 1
    else:
        together, count, jobs = 1, users * folds, len(study.test_batches)
    # A training of all weights changes the loaded model, so the next one loads it again.
    loads = jobs if experiment.mode == "lora" else count
    return Trainings(count, loads, max(1, round(of_user * together)), test)

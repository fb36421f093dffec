"""The estimate of a study in a few lines, for the head of a dry run."""

from __future__ import annotations

from usertune.checks.estimates.samples import PERCENTILES, Lengths
from usertune.checks.estimates.study import Estimate, TrainingEstimate
from usertune.core.formatting import byte_size, count, duration

VERDICTS = {
    "fits": "fits",
    "tight": "may not fit",
    "too large": "does not fit",
    "unknown": "",
}


def estimates_in_lines(estimate: Estimate) -> str:
    """Return the estimate in a few lines, one or two for each trained experiment."""
    lines = [f"{title}: {text}" for title, text in head(estimate).items()]
    for name, training in estimate.trainings.items():
        fits = f", {VERDICTS[training.verdict]}" if VERDICTS[training.verdict] else ""
        lines.append(
            f"  {name}: trains {count(training.trained)} of {count(estimate.shape.total)} weights with "
            f"{byte_size(training.need)} {where(training)}{fits}; {time(training)}"
        )
        lines.append(f"    learning rate {training.reached.in_words()}")
        if training.count > 1:
            loads = f"{training.loads:,} load{'s' * (training.loads != 1)} of the model"
            lines.append(f"    in each of {training.count:,} trainings on folds, with {loads}")
    return "\n".join([*lines, disk(estimate), *warnings(estimate)])


def warnings(estimate: Estimate) -> list[str]:
    """Return a line for each training that may not fit, with a change that helps."""
    found = []
    for name, training in estimate.trainings.items():
        if training.verdict not in ("tight", "too large"):
            continue
        how = f"; with {training.change.words} it fits" if training.change else ""
        found.append(f"Warning: training of {name} {VERDICTS[training.verdict]} into memory{how}")
    for name, prediction in estimate.predictions.items():
        if estimate.machine.memory is not None and prediction.alone > estimate.machine.memory:
            found.append(f"Warning: prediction with {name} does not fit into memory, even one sample at once")
    return found


def head(estimate: Estimate) -> dict[str, str]:
    """Return what is known of memory and of the lengths of samples, by title."""
    machine = estimate.machine
    memory = "unknown" if machine.memory is None else byte_size(machine.memory)
    what = "GPU memory" if machine.device == "gpu" else "Memory"
    splits = {"training": estimate.train, "test": estimate.test}
    lengths = {f"Tokens of the {name} samples": _lengths(own) for name, own in splits.items() if own}
    return {what: f"{memory} ({machine.source})", **lengths}


def _lengths(lengths: Lengths) -> str:
    if lengths.assumed:
        return (
            f"not prepared yet; assumed {lengths.tokens[0]:,} for each of at most {lengths.samples:,} (an image of "
            "max_pixels; usertune check reads the headers of some images)"
        )
    names = [f"{share} %" for share in PERCENTILES[:-1]]
    values = lengths.percentiles()
    shares = ", ".join(f"{name} {value:,}" for name, value in zip(names, values[:-1], strict=True))
    rule = "" if lengths.by_tokenizer else "; texts by a rule"
    return (
        f"{shares}, longest {values[-1]:,} ({_looked_at(lengths)}; median of visual tokens {_median(lengths):,}{rule})"
    )


def _looked_at(lengths: Lengths) -> str:
    looked = len(lengths.tokens)
    if lengths.source == "headers":
        bad = f", {lengths.bad:,} bad ones left out" if lengths.bad else ""
        return f"not prepared yet: image headers of {looked:,} of at most {lengths.samples:,} samples{bad}"
    return f"{looked:,} of {lengths.samples:,} samples" if looked < lengths.samples else f"{looked:,} samples"


def _median(lengths: Lengths) -> int:
    return sorted(lengths.image_tokens)[len(lengths.image_tokens) // 2]


def where(training: TrainingEstimate) -> str:
    """Return where a training needs its memory."""
    processes = training.plan.processes
    return f"on each of {processes} {training.plan.device.upper()}s" if processes > 1 else "of memory"


def time(training: TrainingEstimate) -> str:
    """Return how long a training takes, in words."""
    if training.speed is None:
        return "time unknown (no earlier training)"
    return f"about {duration(training.seconds)} at the speed of {training.speed.experiment} on {training.speed.device}"


def disk(estimate: Estimate) -> str:
    """Return the line about disk space."""
    written = estimate.disk(estimate.waiting)
    needed = byte_size(written) if written else "nothing more"
    return f"Disk: trainings need {needed}, {byte_size(estimate.free_disk)} are free"

"""What the benchmarks share: rounds in turn, medians with their spread, and a JSON result that says where it is from.

Not a benchmark. A ratio of two ways is taken within each round, where both ran one after the other, so that a machine
that is busy for a while makes both slower; the median of the rounds' ratios is what counts.
"""

from __future__ import annotations

import argparse
import datetime
import inspect
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from PIL import Image

from usertune.core.files import write_json
from usertune.core.hashing import digest_file
from usertune.data.prepare import prepare_user
from usertune.data.recipe import PrepareRecipe
from usertune.data.samples import Sample, read_user
from usertune.demo.dataset import Counts, make_dataset
from usertune.runtime.cpu_threads import limit_spinning
from usertune.runtime.provenance import installed_versions, machine

REPOSITORY = Path(__file__).resolve().parent.parent
RESULTS = REPOSITORY / "benchmarks" / "results"
BASE = REPOSITORY / "demo" / "base"


def run(
    measure: Callable[[argparse.Namespace], dict[str, Any]],
    tell: Callable[[dict[str, Any]], Sequence[str]],
    options: Mapping[str, tuple[int, int, str]],
    choices: Mapping[str, tuple[Sequence[str], str]] = MappingProxyType({}),
) -> None:
    """Parse the command line, measure, print what was found and store it.

    Args:
        measure: returns what was measured, as JSON. Its module's docstring and name are the program's.
        tell: returns the lines to print.
        options: for each whole number that can be chosen: its default, its value under ``--tiny``, what it is.
        choices: for each word that can be chosen: all of them, the default first, and what it is. The name of the
            stored file has them.
    """
    program = inspect.getmodule(measure)
    name = Path(inspect.getfile(measure)).stem
    parser = argparse.ArgumentParser(
        description=program.__doc__ if program else None, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    tiny = "--tiny" in sys.argv[1:]
    for option, (default, smallest, text) in options.items():
        parser.add_argument(
            f"--{option}", type=int, default=smallest if tiny else default, metavar="N", help=f"{text} ({default})"
        )
    for option, (words, text) in choices.items():
        parser.add_argument(f"--{option}", choices=words, default=words[0], help=f"{text} ({words[0]})")
    parser.add_argument("--tiny", action="store_true", help="show that it runs, on next to nothing; stores no result")
    stored = "-".join([name, *(option.upper() for option in choices)])
    parser.add_argument(
        "--out", type=Path, metavar="JSON", help=f"where to store the result (benchmarks/results/{stored}.json)"
    )
    arguments = parser.parse_args()
    chosen = {option: getattr(arguments, option) for option in choices}
    out = arguments.out or (None if tiny else RESULTS / f"{'-'.join([name, *chosen.values()])}.json")
    if tiny and out and out.resolve().parent == RESULTS:
        parser.error("a tiny run says nothing about speed, so its result does not belong in benchmarks/results")
    limit_spinning()
    load = load_average()
    settings = {option.replace("-", "_"): getattr(arguments, option.replace("-", "_")) for option in options}
    settings |= chosen
    started = time.monotonic()
    measured = measure(arguments)
    for line in tell(measured):
        print(line)
    if out:
        write_json(out, {
            "benchmark": name,
            "command": " ".join([f"python benchmarks/{name}.py", *sys.argv[1:]]) if not arguments.out else None,
            "tiny": tiny,
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "wall_seconds": round(time.monotonic() - started, 1),
            "machine": {**machine(), "load_average_before": load, "load_average_after": load_average()},
            "versions": installed_versions(),
            "settings": settings,
            "measured": measured,
        })  # fmt: skip


def load_average() -> float:
    """Return how many processes wanted a core, on average over the last minute; this one and its own are among them."""
    return round(os.getloadavg()[0], 2)


def in_turn(ways: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Run each way once a round, every second round in the opposite order.

    Args:
        ways: name -> what to do. Where it returns a float, that is what was measured, else its seconds are.
        rounds: how often.

    Returns:
        For each way, what was measured in each round.
    """
    found: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        for name in reversed(list(ways)) if number % 2 else ways:
            started = time.perf_counter()
            value = ways[name]()
            found[name].append(value if isinstance(value, float) else time.perf_counter() - started)
    return found


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return the median, the smallest and the largest value, in three digits, and how many there are."""
    return {
        "median": _digits(statistics.median(values)),
        "smallest": _digits(min(values)),
        "largest": _digits(max(values)),
        "rounds": len(values),
    }


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> dict[str, float]:
    """Return the spread of the rounds' ratios."""
    return spread([one / other for one, other in zip(numerators, denominators, strict=True)])


def told(values: Mapping[str, float], unit: str = "") -> str:
    """Return a spread in words, as in: 1.2 s (1.1 to 1.4, 5 rounds)."""
    unit = f" {unit}" if unit else ""
    return f"{values['median']:g}{unit} ({values['smallest']:g} to {values['largest']:g}, {values['rounds']} rounds)"


def demo_samples(folder: Path, users: Sequence[str], counts: Counts | None = None) -> dict[str, Path]:
    """Draw the demo's data of some users in ``folder``/dataset and prepare them; return user -> manifest."""
    make_dataset(folder / "dataset", [int(user) for user in users], 0, counts or Counts())
    recipe = PrepareRecipe(step="prepare", format="messages", task="grounding", on_bad_sample="error", upstream={})
    manifests = {user: folder / f"user_{user}.manifest.json" for user in users}
    for user, manifest in manifests.items():
        prepare_user(recipe, folder / "dataset", user, folder / f"user_{user}.jsonl", manifest)
    return manifests


def sample(screenshot: Path, question: str, answer: str) -> Sample:
    """Return a sample of user 1 with one image, called as its file."""
    with Image.open(screenshot) as image:
        width, height = image.size
    return {
        "id": screenshot.stem,
        "user": "1",
        "episode": screenshot.stem,
        "step": 0,
        "messages": [
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]},
            {"role": "assistant", "content": [{"type": "text", "text": answer}]},
        ],
        "images": [{"path": screenshot.name, "sha256": digest_file(screenshot), "width": width, "height": height}],
        "target": {},
    }


def read_samples(manifests: Mapping[str, Path], count: int) -> list[Sample]:
    """Return the first samples of prepared users."""
    return [sample for manifest in manifests.values() for sample in read_user(manifest)[1]][:count]


def snakemake(folder: Path, *arguments: str, environment: Mapping[str, str] = MappingProxyType({})) -> str:
    """Run Snakemake in ``folder`` and return what it said; leave with that if it fails."""
    return command([sys.executable, "-m", "snakemake", *arguments], folder, environment)


def usertune(folder: Path, *arguments: str) -> str:
    """Run the command ``usertune`` in ``folder`` and return its output."""
    return command([sys.executable, "-P", "-m", "usertune", *arguments], folder)


def command(words: Sequence[str], folder: Path, environment: Mapping[str, str] = MappingProxyType({})) -> str:
    """Run a command in ``folder`` and return its output; leave with all that it said if it fails."""
    # The CPU, wherever this runs; on a cluster the GPUs are SLURM's to choose.
    gpus = {} if "SLURM_CONF" in environment else {"CUDA_VISIBLE_DEVICES": ""}
    surroundings = {**os.environ, **gpus, **environment}
    done = subprocess.run(words, cwd=folder, env=surroundings, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{words} failed:\n{done.stdout[-5000:]}\n{done.stderr[-5000:]}")
    return done.stdout


def seconds_of(function: Callable[[], object]) -> float:
    """Return how long a call takes."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def cpu_seconds_of_children() -> float:
    """Return the CPU time that ended processes of this one took: it depends less on who else uses the machine."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def cpu_seconds_of(function: Callable[[], object]) -> float:
    """Return the CPU time that the processes of a call take."""
    before = cpu_seconds_of_children()
    function()
    return cpu_seconds_of_children() - before


def jobs_of(output: str) -> int:
    """Return the number of jobs that Snakemake's table of jobs ends with; 0 where there is nothing to do."""
    totals = [line.split()[1] for line in output.splitlines() if line.startswith("total ")]
    return int(totals[0]) if totals else 0


def _digits(value: float) -> float:
    return float(f"{value:.3g}")

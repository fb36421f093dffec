"""A tree of the size of FingerTip-20K: its survey, preparing all users, finding that nothing changed, and planning.

The tree is generated: 83 users, 20,000 episodes and 100,000 screenshots with accessibility trees, in the layout of the
raw data; the screenshots are small, so decoding costs less than on real ones. The study is configs/fingertip.yaml with
the demo's base model. The survey is of the raw data, and preparing is `snakemake check` on all cores:

    python benchmarks/fingertip_scale.py
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import tempfile
import threading
from pathlib import Path
from typing import Any

import common
import psutil
from PIL import Image

SIZE = (54, 117)
# Beside configs/fingertip.yaml, which names an 8B model of the hub.
OVERRIDES = """
results: {folder}/results
dataset: {{root: {folder}/tree}}
base_model: {{path: {base}, dtype: float32, max_pixels: null}}
users: {{train: 11-{users}, test: 1-10}}
training: {{warmup_steps: {warmup}}}
"""


def main(arguments: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tree = {"seconds": common.seconds_of(lambda: write_tree(folder / "tree", arguments))}
        tree |= {"users": arguments.users, "episodes": arguments.episodes, "screenshots": 5 * arguments.episodes}
        (folder / "overrides.yaml").write_text(
            OVERRIDES.format(folder=folder, base=common.BASE, users=arguments.users, warmup=1 if arguments.tiny else 50)
        )
        study = [str(common.REPOSITORY / "configs/fingertip.yaml"), "overrides.yaml"]
        options = ["--snakefile", str(common.REPOSITORY / "Snakefile"), "--configfile", *study]
        local = ["--profile", str(common.REPOSITORY / "profiles/local"), "--quiet", "all"]
        peak, survey_peak = _Peak("prepare.py"), _Peak("survey")
        seconds: dict[str, Any] = {}

        def plan() -> float:
            # The study trains on four GPUs, which a cluster has.
            slurm = ["--profile", str(common.REPOSITORY / "profiles/slurm"), "-n", "--quiet", "rules", "host"]
            return common.seconds_of(lambda: common.snakemake(folder, *slurm, *options))

        seconds["plan_first"] = common.spread([plan() for _ in range(arguments.rounds)])

        with survey_peak:
            seconds["survey"] = round(
                common.seconds_of(lambda: common.usertune(folder, "survey", "--study", *study, "--to", "survey")), 1
            )

        def check() -> str:
            return common.snakemake(folder, "check", *local, *options)

        with peak:
            seconds["prepare"] = round(common.seconds_of(check), 1)
        seconds["again"] = common.spread([common.seconds_of(check) for _ in range(arguments.rounds)])
        seconds["plan_prepared"] = common.spread([plan() for _ in range(arguments.rounds)])
        manifests = [json.loads(path.read_text()) for path in (folder / "results/data").glob("*.manifest.json")]
        files = list((folder / "results/data").iterdir())
        return {
            "tree": {**tree, "seconds": round(tree["seconds"], 1)},
            "cores": len(os.sched_getaffinity(0)),
            "seconds": seconds,
            "peak_job_bytes": peak.bytes,
            "peak_job_mb": round(peak.bytes / 1e6),
            "peak_survey_mb": round(survey_peak.bytes / 1e6),
            "samples": sum(manifest["samples"] for manifest in manifests),
            "not_asked": sum(sum(manifest.get("not_asked", {}).values()) for manifest in manifests),
            "skipped": sum(manifest["skipped"] for manifest in manifests),
            "results_mb": round(sum(path.stat().st_size for path in files) / 1e6, 1),
            "largest_manifest_kb": round(
                max(path.stat().st_size for path in files if "manifest" in path.name) / 1e3, 1
            ),
        }


def write_tree(root: Path, arguments: argparse.Namespace) -> None:
    """Write the raw tree; a few users have many episodes, as in the data, and every second one is nested."""
    chance = random.Random(0)
    weights = [1 / (1 + number / 10) for number in range(arguments.users)]
    left = arguments.episodes
    for number, weight in enumerate(weights):
        own = round(left * weight / sum(weights[number:]))
        left -= own
        # Ids with gaps.
        raw = f"{number + 1 + number // 5}"
        for episode in range(own):
            folder = root / raw / (raw if number % 2 else "") / f"2025{episode // 10_000:04}_{episode % 10_000:06}"
            _write_episode(folder, chance)


def _write_episode(folder: Path, chance: random.Random) -> None:
    shots = folder / "Screenshots"
    shots.mkdir(parents=True)
    start = chance.randrange(10**12, 2 * 10**12)
    lines = []
    for step in range(5):
        name = f"{start + 1000 * step}"
        content = io.BytesIO()
        colour = chance.randrange(256), chance.randrange(256), chance.randrange(256)
        Image.new("RGB", SIZE, colour).save(content, "JPEG")
        (shots / f"{name}.jpg").write_bytes(content.getvalue())
        (shots / f"{name}.xml").touch()
        x, y = chance.randrange(SIZE[0]), chance.randrange(SIZE[1])
        action = "finished()" if step == 4 else f"click(coordinates=({x}, {y}), content='按钮 {step}')"
        lines.append(json.dumps({f"{name}.jpg": action}, ensure_ascii=False))
    (folder / "action.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    survey = {"user_id": 1, "time": "2025-03-09", "scenario": "在家", "app": "com.example", "intentDescription": "买鞋"}
    (folder / "survey_result.json").write_text(json.dumps(survey, ensure_ascii=False), encoding="utf-8")


class _Peak:
    """The largest resident memory of a process that this one started, itself or through others, while a block runs.

    Args:
        word: a word of its command line.
    """

    def __init__(self, word: str) -> None:
        self.word, self.bytes = word, 0

    def __enter__(self) -> _Peak:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.2):
            for process in psutil.Process().children(recursive=True):
                try:
                    if self.word in " ".join(process.cmdline()):
                        self.bytes = max(self.bytes, process.memory_info().rss)
                except psutil.Error:
                    continue


def tell(measured: dict[str, Any]) -> list[str]:
    seconds = measured["seconds"]
    return [
        f"{measured['tree']['episodes']:,} episodes and {measured['tree']['screenshots']:,} screenshots, "
        f"{measured['cores']} cores",
        f"survey of the raw data: {seconds['survey']} s with {measured['peak_survey_mb']} MB",
        f"prepared in {seconds['prepare']} s; aim: at most 600 s",
        f"largest job: {measured['peak_job_mb']} MB; aim: at most 1,000 MB",
        f"a second run: {common.told(seconds['again'], 's')}; aim: at most 20 s",
        f"snakemake -n, nothing prepared: {common.told(seconds['plan_first'], 's')}; aim: at most 5 s",
        f"snakemake -n, all prepared: {common.told(seconds['plan_prepared'], 's')}; aim: at most 5 s",
    ]


if __name__ == "__main__":
    common.run(
        main,
        tell,
        {
            "episodes": (20_000, 120, "episodes, with five screenshots each"),
            "users": (83, 12, "users"),
            "rounds": (3, 1, "times the second run and each plan are measured"),
        },
    )

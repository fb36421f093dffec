"""A small synthetic study, as the earlier steps would have left it, for the tests of scores, tables and reports."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

SKILL = {"vanilla": 0.2, "lora": 0.5, "full_tuned": 0.8}


@dataclass
class SyntheticStudy:
    """Three experiments whose chance to hit is `SKILL`; every tenth vanilla answer cannot be parsed."""

    root: Path
    users: list[str] = field(default_factory=lambda: ["1", "2", "10", "ana"])
    samples: int = 12
    experiments: list[str] = field(default_factory=lambda: list(SKILL))
    hostile: str = ""

    @property
    def design(self) -> dict[str, Any]:
        modes = {"vanilla": "vanilla", "lora": "lora", "full_tuned": "full"}
        experiments = [{"name": name, "mode": modes[name]} for name in self.experiments]
        return {"experiments": experiments, "users": self.users, "thresholds": [140.0, 70.5]}

    def write(self) -> SyntheticStudy:
        """Write samples, screenshots, predictions, manifests and training logs."""
        chance = random.Random(7)
        predictions: dict[str, list[dict[str, Any]]] = {name: [] for name in self.experiments}
        for user in self.users:
            lines = []
            for step in range(self.samples):
                target = [chance.randint(100, 900), chance.randint(100, 900)]
                sample = self._sample(user, step, target)
                lines.append(json.dumps(sample, ensure_ascii=False) + "\n")
                for name in self.experiments:
                    text = self._answer(name, step, target, chance)
                    predictions[name].append(
                        {"id": sample["id"], "user": user, "text": text, "new_tokens": 20, "stopped": step > 0}
                    )
            self._write(f"data/user_{user}.jsonl", "".join(lines))
        for name in self.experiments:
            self._write_experiment(name, predictions[name])
        return self

    def predictions(self, name: str) -> Path:
        return self.root / f"predictions/{name}/users_all.json"

    def samples_of(self, user: str) -> Path:
        return self.root / f"data/user_{user}.jsonl"

    def score(self, name: str, user: str) -> Path:
        """Score one experiment and user; return the metrics file."""
        from usertune.score import score_user

        recipe = {"step": "score", "task": "grounding", "thresholds": self.design["thresholds"], "upstream": {}}
        metrics = self.root / f"scores/{name}/user_{user}.json"
        score_user(
            recipe, name, user, self.samples_of(user), self.predictions(name), metrics.with_suffix(".csv"), metrics
        )
        return metrics

    def score_all(self) -> list[Path]:
        return [self.score(name, user) for name in self.experiments for user in self.users]

    def compare(self) -> Path:
        """Score and compare everything; return the folder of tables."""
        from usertune.compare import compare

        compare({"step": "compare", "confidence": 0.95, **self.design}, self.score_all(), self.root / "tables")
        return self.root / "tables"

    def draw(self) -> list[Path]:
        """Draw every figure; return the SVG files."""
        from usertune.figures.make import make_figure
        from usertune.figures.sheet import Sources
        from usertune.study import FIGURE_NAMES

        logs = {name: self.root / f"checkpoints/{name}/log.csv" for name in self.experiments if name != "vanilla"}
        paths = []
        for name in FIGURE_NAMES:
            svg = self.root / f"figures/{name}.svg"
            make_figure(self.design, name, Sources(self.root / "tables", logs), svg, svg.with_suffix(".png"))
            paths.append(svg)
        return paths

    def report(self, examples: int = 2, **recipe: Any) -> Path:
        """Compare, draw and write the report; return its file."""
        from usertune.report import ReportFiles, make_report

        files = ReportFiles(
            tables=self.compare(),
            figures=self.draw(),
            training_manifests=sorted(self.root.glob("checkpoints/*/manifest.json")),
            predictions=[self.predictions(name) for name in self.experiments],
            samples=[self.samples_of(user) for user in self.users],
            dataset_root=self.root / "dataset",
        )
        out = self.root / "report.html"
        own = {"title": "A <b>bold</b> study", "study": "synthetic", "examples": examples}
        make_report({**own, **self.design, **recipe}, files, out)
        return out

    def _sample(self, user: str, step: int, target: list[int]) -> dict[str, Any]:
        path = f"images/{user}_{step}.png"
        file = self.root / "dataset" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (90, 180), (240, 10 * step, 120)).save(file)
        image = {"path": path, "sha256": hashlib.sha256(file.read_bytes()).hexdigest(), "width": 90, "height": 180}
        question = [{"type": "image"}, {"type": "text", "text": f"Tap 'send' {self.hostile}"}]
        answer = [{"type": "text", "text": f"```grounding\n{target}\n```"}]
        return {
            "id": f"{user}/{step}",
            "user": user,
            "episode": "007",
            "step": step,
            "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}],
            "images": [image],
            "target": {"point": target},
        }

    def _answer(self, name: str, step: int, target: list[int], chance: random.Random) -> str:
        if name == "vanilla" and step % 10 == 0:
            return f"I cannot see it. {self.hostile}"
        off = 30 if chance.random() < SKILL[name] else 400
        return f"```referring\nicon4\n```\n```grounding\n[{target[0]}, {target[1] + off}.5]\n```"

    def _write_experiment(self, name: str, predictions: list[dict[str, Any]]) -> None:
        versions = {"torch": "2.15.0", "transformers": "5.23.0" if name == "lora" else "5.22.0"}
        common = {"experiment": name, "recipe": {}, "versions": versions}
        batch = {"step": "predict", **common, "users": self.users, "fingerprint": f"{name:f<64}"}
        self._write(f"predictions/{name}/users_all.json", json.dumps({**batch, "predictions": predictions}))
        if name == "vanilla":
            return
        manifest = {"step": "train", **common, "fingerprint": "a" * 64, "wall_seconds": 8123.4, "steps": 30}
        manifest |= {"peak_memory_bytes": None, "trainable_parameters": 8_190_735_360, "final_validation_loss": 0.5}
        self._write(f"checkpoints/{name}/manifest.json", json.dumps(manifest))
        train = [f"{step},{step / 30},train,{2 / step},1e-6\n" for step in range(1, 31)]
        log = "step,epoch,split,loss,learning_rate\n" + "".join(train) + "30,1,validation,0.5,\n"
        self._write(f"checkpoints/{name}/log.csv", log)

    def _write(self, relative: str, text: str) -> None:
        path = self.root / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


@pytest.fixture
def make_study(tmp_path: Path) -> Callable[..., SyntheticStudy]:
    """Return a maker of synthetic studies; keyword arguments are the fields of `SyntheticStudy`."""

    def make(folder: str = "study", **fields: Any) -> SyntheticStudy:
        return SyntheticStudy(tmp_path / folder, **fields).write()

    return make

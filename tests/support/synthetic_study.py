"""A small synthetic study; the package's own steps make its results, as the rules call them.

The model and the drawing of figures have stand-ins (`tests.support.stand_ins`).
"""

from __future__ import annotations

import json
import random
import re
import shutil
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from unittest.mock import patch

from PIL import Image

from tests.support import calls
from tests.support.stand_ins import (
    without_a_model,
    write_stand_in,
)
from usertune.checks.audit import run_audit
from usertune.checks.sources import raw_data_of
from usertune.core.files import write_text
from usertune.data.measure_leakage import measure_leakage
from usertune.data.prepare import prepare_user
from usertune.data.recipe import LeakageRecipe, PrepareRecipe
from usertune.evaluation.compare import compare
from usertune.evaluation.recipe import CompareRecipe
from usertune.inference.collect_answers import collect_answers
from usertune.inference.prior import PriorFiles, predict_prior
from usertune.inference.recipe import AnswersRecipe, PriorRecipe
from usertune.models.base_model import describe_base_model
from usertune.models.external_weights import WeightFiles, describe_weights
from usertune.models.recipe import BaseModelRecipe, OtherWeightsRecipe
from usertune.pipeline import steps
from usertune.pipeline.figures_of_study import figures_of
from usertune.pipeline.layout import Result, audit_path, results_of
from usertune.pipeline.plug_ins import current_code
from usertune.pipeline.recipes import AuditRecipe, Recipes
from usertune.pipeline.results_folder import IMAGE_HASHES
from usertune.runtime.provenance import installed_versions
from usertune.study.copy import study_text
from usertune.study.load import study_from_config
from usertune.study.schema.study import Study
from usertune.training.recipe import Execution, TrainFoldsRecipe
from usertune.training.train_folds import FoldFiles, FoldJob

BASE = Path(__file__).parents[2] / "demo" / "base"
MODES = {"vanilla": "vanilla", "lora": "lora", "full_tuned": "full"}
# Further experiments, which only some tests have.
OTHERS: dict[str, dict[str, Any]] = {
    "centre": {"mode": "prior", "prior": {"of": "centre"}},
    "of_all": {"mode": "prior", "prior": {"of": "train_users"}},
    "own": {"mode": "prior", "prior": {"of": "same_user", "point": "mean"}},
    "history": {"mode": "vanilla", "context": {"episodes": 2, "samples": 2}},
    "told": {"mode": "lora", "scope": "personal", "context": {"episodes": 1, "samples": 1}},
    "stranger": {"mode": "vanilla", "context": {"episodes": 2, "samples": 2, "of": "other_user"}},
}
# Experiments on folds, for studies that have some.
ON_FOLDS: dict[str, dict[str, Any]] = {
    "personal": {"mode": "lora", "scope": "personal", "start_from": "full_tuned"},
    "pooled": {"mode": "lora", "scope": "pooled", "start_from": "full_tuned", "like": "personal"},
}
ON_FOLDS["others"] = {"mode": "lora", "adapters_of": "personal", "assign": "matrix"}
FOLDS = {"count": 2, "by": "random", "seed": 0}
APPS = ("mail", "maps, and more")


def browser_data_of(page: str) -> dict[str, Any]:
    """Return what the browser of samples of a report reads."""
    (block,) = re.findall(r'<script type="application/json" id="samples-data">(.*?)</script>', page)
    data: dict[str, Any] = json.loads(block)
    return data


@dataclass
class SyntheticStudy:
    """Experiments of every mode on screenshots of one colour each; see `StandInEngine` for the answers.

    Args:
        root: folder of the results; raw data and base model are in it too.
        users: the test users; two others are trained on, and one validates.
        samples: how many each user has.
        fewer: user -> how many this one has.
        apps: whether the data name the app of each sample, one of `APPS`.
        episodes: into how many episodes they are dealt out.
        experiments: some of `MODES`, `OTHERS` and `ON_FOLDS`.
        hostile: text for instructions and answers.
        users_per_job: how many users a prediction job takes.
        other_versions: package versions of training and prediction, for experiments made with other than today's.
        changes: further sections of the study.
        draws: draw figures; otherwise their files have a line of text in place of a picture.
    """

    root: Path
    users: list[str] = field(default_factory=lambda: ["1", "2", "10", "ana"])
    samples: int = 12
    experiments: list[str] = field(default_factory=lambda: list(MODES))
    hostile: str = ""
    users_per_job: int = 100
    other_versions: dict[str, dict[str, str]] = field(default_factory=dict)
    changes: dict[str, Any] = field(default_factory=dict)
    episodes: int = 1
    fewer: dict[str, int] = field(default_factory=dict)
    apps: bool = False
    draws: bool = False

    @cached_property
    def study(self) -> Study:
        return study_from_config({**self.config, **self.changes})

    @property
    def config(self) -> dict[str, Any]:
        """The study without `changes`, as a study file says it."""
        further = OTHERS | ON_FOLDS
        return {
            "name": "synthetic",
            "results": str(self.root),
            "dataset": {"root": str(self.dataset), **({"options": {"about": ["app"]}} if self.apps else {})},
            "users": {"train": "t1,t2", "validation": "v1", "test": self.users},
            "base_model": {"path": str(self.root / "base")},
            "experiments": {name: further.get(name) or {"mode": MODES[name]} for name in self.experiments},
            **({"folds": FOLDS} if ON_FOLDS.keys() & set(self.experiments) else {}),
            "evaluation": {"thresholds": [140, 70.5], "users_per_job": self.users_per_job},
            "report": {"title": "A <b>bold</b> study", "samples": "all"},
        }

    @cached_property
    def recipes(self) -> Recipes:
        return Recipes(self.study, current_code(self.study), installed_versions())

    @cached_property
    def results(self) -> dict[str, Result]:
        return results_of(self.study, self.recipes)

    @property
    def dataset(self) -> Path:
        return self.root / "dataset"

    @property
    def audit_file(self) -> Path:
        return self.root / audit_path(self.recipes)

    @property
    def design(self) -> dict[str, Any]:
        report = json.loads(self.recipes.report())
        return {key: report[key] for key in ("experiments", "users", "task", "thresholds")}

    def recipe(self, path: str) -> dict[str, Any]:
        return dict(self.results[path].recipe)

    def predictions(self, name: str) -> Path:
        (path,) = (path for path in self.results if path.startswith(f"predictions/{name}/"))
        return self.root / path

    def samples_of(self, user: str) -> Path:
        return self.root / f"data/user_{user}.jsonl"

    def training_logs(self) -> dict[str, Path]:
        trained = [result for result in self.results.values() if result.step in ("train", "train_folds")]
        return {result.name: self.root / result.files[0] for result in trained}

    def write(self) -> SyntheticStudy:
        """Write raw data and base model, and make everything up to the predictions."""
        for user in self.study.all_users:
            self.write_raw(user)
        shutil.copytree(BASE, self.root / "base", dirs_exist_ok=True)
        self.make_all("prepare", "base_model", "train", "train_folds", "other_weights", "predict")
        return self

    def write_raw(self, user: str) -> None:
        """Write a user's raw samples and screenshots."""
        chance = random.Random(f"targets of {user}")
        lines = []
        (self.dataset / "images").mkdir(parents=True, exist_ok=True)
        # With folds, no sample may be a copy of another one.
        blue = 120 + self.study.all_users.index(user) * (self.study.folds is not None)
        for step in range(self.fewer.get(user, self.samples)):
            image = f"images/{user}_{step}.png"
            Image.new("RGB", (90, 180), (240, 10 * step, blue)).save(self.dataset / image)
            question = [{"type": "image", "image": image}, {"type": "text", "text": f"Tap 'send' {self.hostile}"}]
            answer = f"```grounding\n{[chance.randint(100, 900), chance.randint(100, 900)]}\n```"
            turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
            episode = "007" if self.episodes == 1 else f"e{step % self.episodes}"
            sample = {"id": f"{user}/{step}", "episode": episode, "step": step, "messages": turns}
            about = {"app": APPS[(step // 2) % len(APPS)]} if self.apps else {}
            lines.append(json.dumps(sample | about))
        write_text(self.dataset / f"user_{user}.jsonl", "\n".join(lines) + "\n")

    def make_all(self, *steps: str) -> None:
        """Make all results of some steps, each after its inputs."""
        for path, result in self.results.items():
            if result.step in steps:
                self.make(path)

    def make(self, path: str, recipe: Mapping[str, Any] | None = None) -> None:
        """Make one result as its rule would, by its own recipe unless another is given."""
        result, out = self.results[path], self.root / path
        recipe = self.recipe(path) if recipe is None else recipe
        if result.step == "prepare":
            (user,) = result.users
            prepare_recipe = PrepareRecipe.model_validate(recipe)
            state = raw_data_of(self.study).state(user)
            prepare_user(prepare_recipe, self.dataset, user, self.samples_of(user), out, state)
        elif result.step == "leakage":
            above = [self.root / path for path in result.upstream]
            measure_leakage(
                LeakageRecipe.model_validate(recipe), above, self.dataset, Path(self.study.results, IMAGE_HASHES), out
            )
        elif result.step == "base_model":
            describe_base_model(BaseModelRecipe.model_validate(recipe), out)
        elif result.step == "predict" and "answers" in recipe:
            path = str(self.study.experiments[str(result.experiment)].answers)
            above = [self.root / path for path in result.upstream]
            collect_answers(AnswersRecipe.model_validate(recipe), str(result.experiment), path, above, out)
        elif result.step == "other_weights":
            own = self.study.experiments[str(result.experiment)].weights
            base, *training = (self.root / above for above in result.upstream)
            files = WeightFiles(base, Path(own) if own else None, out, training[0] if training else None)
            describe_weights(OtherWeightsRecipe.model_validate(recipe), str(result.experiment), files)
        elif result.step in ("train", "train_folds", "predict"):
            versions = {**installed_versions(), **self.other_versions.get(str(result.experiment), {})}
            with (
                without_a_model(self.hostile),
                patch("usertune.runtime.provenance.installed_versions", lambda: versions),
            ):
                make = {"train": self._train, "train_folds": self._train_folds, "predict": self._predict}
                make[result.step](result, recipe)
        elif result.step == "score":
            name, (user,), predictions = str(result.experiment), result.users, self.root / result.upstream[1]
            rows, store = out.with_suffix(".csv"), self.root / "store/scores"
            calls.score(recipe, name, user, self.samples_of(user), predictions, rows, out, store)
        elif result.step == "compare":
            given = {role: [self.root / above for above in paths] for role, paths in result.inputs.items()}
            compare(
                CompareRecipe.model_validate(recipe),
                given["scores"],
                out.parent,
                given["trainings"],
                given["validation"],
            )
        elif result.step == "figure":
            self._draw(result, recipe, out)
        elif result.step == "audit":
            run_audit(self.study, AuditRecipe.model_validate(recipe), out)
        else:
            self._report(recipe, out)

    def score(self, name: str, user: str) -> Path:
        """Score one experiment and user; return the metrics file."""
        self.make(f"scores/{name}/user_{user}.json")
        return self.root / f"scores/{name}/user_{user}.json"

    def score_all(self) -> list[Path]:
        return [self.score(name, user) for name in self.experiments for user in self.users]

    def compare(self) -> Path:
        """Score and compare everything; return the folder of tables."""
        self.make_all("score", "compare")
        return self.root / "tables"

    def draw(self) -> list[Path]:
        """Draw every figure; return the SVG files."""
        self.draws = True
        self.make_all("figure")
        return [self.root / f"figures/{name}.svg" for name in figures_of(self.study)]

    def report(self, **recipe: Any) -> Path:
        """Write the report, after the missing ones of comparison, figures and audit; return its file."""
        if not self.audit_file.exists():
            self.make_all("leakage", "score", "compare", "figure", "audit")
        self.make(steps.REPORT.manifest, {**self.recipe(steps.REPORT.manifest), **recipe})
        return self.root / "report.html"

    def _train(self, result: Result, recipe: Mapping[str, Any]) -> None:
        base, *users = (self.root / above for above in result.upstream)
        count = len(self.study.users.train)
        out = self.root / result.manifest
        calls.train(
            recipe=recipe,
            execution=json.loads(self.recipes.execution(str(result.experiment))),
            experiment=str(result.experiment),
            base_manifest=base,
            train_manifests=users[:count],
            validation_manifests=users[count:],
            dataset_root=self.dataset,
            manifest_file=out,
            log_file=out.with_name("training_log.csv"),
            gpus=0,
        )

    def _train_folds(self, result: Result, recipe: Mapping[str, Any]) -> None:
        (base,), start, users = ([self.root / path for path in paths] for paths in result.inputs.values())
        out = self.root / result.manifest
        template = str(out.parent / "users_{user}.json")
        files = FoldFiles(base, start[0] if start else None, self.dataset, template, template.replace(".json", ".csv"))
        execution = Execution.parse(self.recipes.execution(str(result.experiment)))
        with FoldJob(TrainFoldsRecipe.model_validate(recipe), execution, str(result.experiment), files) as job:
            job.train(users)

    def _predict(self, result: Result, recipe: Mapping[str, Any]) -> None:
        name = str(result.experiment)
        if self.study.experiments[name].prior is not None:
            users, targets = ([self.root / path for path in result.inputs[role]] for role in ("samples", "targets"))
            files = PriorFiles(users, targets, self.root / result.manifest)
            predict_prior(PriorRecipe.model_validate(recipe), name, files)
            return
        inputs = {role: [self.root / path for path in paths] for role, paths in result.inputs.items()}
        calls.predict(
            recipe=recipe,
            experiment=str(result.experiment),
            base_manifest=inputs["base_model"][0],
            train_manifest=None,
            weights_manifests=inputs["weights"],
            start_manifest=next(iter(inputs["start"]), None),
            user_manifests=inputs["samples"],
            dataset_root=self.dataset,
            store_folder=self.root / "store/predictions",
            predictions_file=self.root / result.manifest,
            batch_size=8,
            gpus=0,
            context_manifests=inputs["context"],
        )

    def _draw(self, result: Result, recipe: Mapping[str, Any], out: Path) -> None:
        # Drawing takes seconds to import; most tests do not need it.
        from usertune.reporting.figures.sheet import Sources
        from usertune.reporting.make_figure import make_figure
        from usertune.reporting.recipe import FigureRecipe

        name = str(recipe["name"])
        logs = self.training_logs() if result.inputs["training_logs"] else {}
        with nullcontext() if self.draws else patch("usertune.reporting.make_figure.write_figure", write_stand_in):
            make_figure(FigureRecipe.model_validate(recipe), name, Sources(self.root / "tables", logs), out)

    def _report(self, recipe: Mapping[str, Any], out: Path) -> None:
        from usertune.reporting.contents import ReportFiles
        from usertune.reporting.recipe import ReportRecipe
        from usertune.reporting.report import ReportOutputs, make_report

        study = self.root / "logs/study.yaml"
        write_text(study, study_text(self.study, {}))
        files = ReportFiles(
            study=study,
            base_model=self.root / steps.BASE_MODEL.manifest,
            tables=(self.root / steps.COMPARE.manifest).parent,
            figures=[self.root / f"figures/{name}.svg" for name in figures_of(self.study)],
            audit=self.audit_file,
            leakage=self.root / steps.LEAKAGE.manifest,
            training_manifests=[
                self.root / name for name, result in self.results.items() if result.step in ("train", "train_folds")
            ],
            predictions=[
                self.root / name
                for name, result in self.results.items()
                if result.step == "predict" and result.users in self.study.test_batches
            ],
            samples=[self.samples_of(user) for user in self.users],
            data=self.samples_of(self.users[0]).parent,
            dataset_root=self.dataset,
        )
        report, copy, provenance = (self.root / name for name in ("report.html", "study.yaml", "provenance.json"))
        outputs = ReportOutputs(report, copy, provenance, self.root / "figures", out)
        with nullcontext() if self.draws else patch("usertune.reporting.figures.sheet.write_figure", write_stand_in):
            make_report(ReportRecipe.model_validate(recipe), files, outputs)

"""The report's section with the browser of samples."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from usertune.evaluation import table_names
from usertune.reporting.browser.chosen import Chosen
from usertune.reporting.browser.data import best_experiment, browser_data, worst_first, worst_user
from usertune.reporting.browser.pictures import FOLDER, Pictures, make_pictures
from usertune.reporting.browser.samples import VERDICTS, SampleView, sample_views, scored, verdict_words
from usertune.reporting.contents import Manifests, ReportFiles, table_of
from usertune.reporting.page import json_block
from usertune.reporting.recipe import ReportRecipe
from usertune.tasks.catalogue import get_task
from usertune.tasks.metrics import Metric


@dataclass(frozen=True)
class BrowserSection:
    """What the template shows of the browser, and the digest of its screenshots, if there are any."""

    shown: dict[str, Any]
    pictures_digest: str | None = None


def browser_section(
    recipe: ReportRecipe, files: ReportFiles, made_from: Manifests, chosen: Chosen, page: Path
) -> BrowserSection:
    """Return the browser of samples, after writing its screenshots next to the page if they are many.

    Raises:
        UserError: samples, answers or scores are missing, or a screenshot is missing or has changed.
    """
    nothing = {"browser_data": None, "pictures_folder": None, "shows_screenshots": False, "best": None, "part": None}
    if recipe.samples == "none":
        return BrowserSection(nothing)
    summary, users, samples = (
        table_of(files.tables / name, recipe) for name in (table_names.SUMMARY, table_names.USERS, table_names.SAMPLES)
    )
    primary: Metric = next(metric for metric in recipe.metrics if metric.name in summary)
    shown_samples = [sample for own in chosen.samples.values() for sample in own]
    rows = samples[samples["id"].isin([sample["id"] for sample in shown_samples])]
    views = list(sample_views(recipe, primary, shown_samples, scored(made_from.predictions, rows)))
    pictures = make_pictures(views, files.dataset_root, page) if recipe.samples == "all" else None
    best, ranked = best_experiment(recipe, primary, summary), worst_first(recipe, primary, users)
    shown = {
        "browser_data": json_block(browser_data(recipe, views, pictures, best, ranked)),
        "best": best,
        "worst": worst_user(primary, best, ranked[best][0], users, samples),
        "part": chosen if chosen.count < chosen.total else None,
        **_choices(recipe, views),
        "shows_screenshots": bool(pictures and pictures.pictures),
        "pictures_folder": FOLDER if pictures and pictures.folder else None,
    }
    return BrowserSection(shown, _digest(pictures))


def _digest(pictures: Pictures | None) -> str | None:
    return pictures.digest if pictures and pictures.folder else None


def _choices(recipe: ReportRecipe, views: list[SampleView]) -> dict[str, Any]:
    """Return what the filters offer: only what some sample has."""
    found = {answer.verdict for view in views for answer in view.answers}
    words = verdict_words(get_task(recipe.task))
    apps = {view.about.get("app", "") for view in views}
    return {
        "browser_verdicts": [(verdict, words[verdict]) for verdict in VERDICTS if verdict in found],
        "browser_apps": sorted(apps) if apps != {""} else [],
        "browser_agreements": sorted({view.agreement for view in views} - {""}),
        "browser_distances": any(answer.distance is not None for view in views for answer in view.answers),
    }

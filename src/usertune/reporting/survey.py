"""The page of a survey: one HTML file in the style of the report, which loads and runs nothing."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from usertune.core.files import write_text
from usertune.reporting.page import render, template_text

MOST_APPS = 200
Rows = Sequence[Mapping[str, Any]]


def write_survey_page(path: Path, study: str, source: str, tables: Mapping[str, Rows], compared: str) -> None:
    """Write a survey as one self-contained HTML file.

    Args:
        path: HTML to write.
        study: name of the study.
        source: what was counted, for people: "prepared samples", "raw data".
        tables: ``users``, ``apps``, ``actions`` and ``sizes``, as `usertune.data.survey` gives them, and ``overlaps``,
            as `usertune.data.survey_overlaps` gives it.
        compared: how the splits were compared, for people.
    """
    # Not at the top: --help must not wait for matplotlib.
    from usertune.reporting.survey_plots import apps_svg, samples_svg

    users, apps = tables["users"], tables["apps"]
    figures = [
        {
            "title": "Samples of each user",
            "source": _embedded(samples_svg(users)),
            "alternative": "Bar chart of the number of samples of each user. The numbers are in the table Users.",
        }
    ]
    if apps:
        figures.append(
            {
                "title": "Apps with most samples",
                "source": _embedded(apps_svg(apps)),
                "alternative": "Bar chart of the apps with most samples. The numbers are in the table Apps.",
            }
        )
    shown = {
        "study": study,
        "summary": summary(source, users, apps),
        "users": users,
        "apps": apps[:MOST_APPS],
        "more_apps": max(0, len(apps) - MOST_APPS),
        "overlaps": tables["overlaps"],
        "compared": f"{compared.removesuffix(':')}.",
        "actions": tables["actions"],
        "sizes": tables["sizes"],
        "figures": figures,
    }
    write_text(path, render("survey.html.jinja", shown, [template_text("report.css")]))


def summary(source: str, users: Rows, apps: Rows) -> str:
    """Return the survey in one sentence."""
    samples, episodes = (sum(row[key] for row in users) for key in ("samples", "episodes"))
    unique = sum(bool(row["only_user"]) for row in apps)
    of_apps = f", {len(apps):,} apps, of which one user alone has {unique:,}" if apps else "; no sample names an app"
    people = "1 user" if len(users) == 1 else f"{len(users):,} users"
    return f"{people}, {samples:,} samples, {episodes:,} episodes{of_apps} (from {source})."


def _embedded(svg: bytes) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(svg).decode('ascii')}"

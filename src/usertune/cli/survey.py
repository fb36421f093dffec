"""Count what each user has (samples, apps, actions, image sizes) and what the splits share, as tables and as a page.

It counts prepared samples if all users of the study are prepared, else the raw data. Of raw images it reads only the
headers, and whole files where two splits have files of the same size. It writes users.csv, overlaps.csv, apps.csv,
actions.csv, sizes.csv and survey.html. Examples:

    usertune survey
    usertune survey --study configs/mine.yaml --to survey
"""

from __future__ import annotations

import argparse
import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from usertune.checks.preflight import check_sources
from usertune.cli.study_arguments import add_study, study_of
from usertune.core.errors import UserError
from usertune.core.files import write_text
from usertune.core.formatting import percent
from usertune.core.users import format_users
from usertune.data import leakage, survey, survey_overlaps
from usertune.data.perceptual_hash import HashStore
from usertune.data.readers.catalogue import get_reader
from usertune.pipeline import steps
from usertune.pipeline.results_folder import IMAGE_HASHES
from usertune.reporting.survey import summary, write_survey_page
from usertune.study.files import SPLITS
from usertune.study.schema.study import Study

SHOWN_USERS = 40
PREPARED = "prepared samples"
Rows = Sequence[Mapping[str, Any]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``usertune survey``."""
    add_study(parser)
    parser.add_argument(
        "--to", type=Path, metavar="FOLDER", help="folder to write to (default: survey in the results folder)"
    )


def run(arguments: argparse.Namespace) -> None:
    """Count, write the tables and the page, and print the table of users."""
    study = study_of(arguments)
    source, users = count(study)
    overlaps, note = compare(study, source, users)
    tables = {
        "users": survey.user_rows(users),
        "overlaps": overlaps,
        "apps": survey.app_rows(users),
        "actions": survey.action_rows(users),
        "sizes": survey.size_rows(users),
    }
    folder = arguments.to or Path(study.results) / "survey"
    for name, rows in tables.items():
        write_text(folder / f"{name}.csv", as_csv(rows))
    write_survey_page(folder / "survey.html", study.name, source, tables, note)
    print(summary(source, tables["users"], tables["apps"]))
    print(in_words(tables["users"]))
    if overlaps:
        print("\n".join([note, *(f"  {leakage.in_words(row)}" for row in overlaps)]))
    print(f"The page: {folder / 'survey.html'}")


def count(study: Study) -> tuple[str, list[survey.UserCounts]]:
    """Return what was counted, for people, and the counts of all users."""
    users = [(split, user) for split in SPLITS for user in getattr(study.users, split)]
    manifests = [(split, Path(study.results, steps.PREPARE.manifest.format(user=user))) for split, user in users]
    if all(path.exists() for _, path in manifests):
        try:
            return PREPARED, list(survey.of_prepared(manifests, study.folds.settings if study.folds else None))
        except UserError as error:
            raise UserError(f"{error}; or remove {Path(study.results, 'data')} to count the raw data") from None
    check_sources(study, base_model=False)
    root = Path(study.dataset.root)
    reader = get_reader(study.dataset.format, root, study.dataset.options)
    return "raw data", list(survey.of_raw(reader, root, users))


def compare(study: Study, source: str, users: Sequence[survey.UserCounts]) -> tuple[Rows, str]:
    """Return what splits and folds have in common, in rows, and how they were compared, for people."""
    if source != PREPARED:
        rows = survey_overlaps.rows_of_raw(users, Path(study.dataset.root))
        return rows, (
            "What the splits have in common, by the bytes of raw images; for nearly identical ones, and questions and "
            "answers, prepare the samples first (snakemake check --profile local):"
        )
    rows, without = survey_overlaps.rows_of_prepared(users, HashStore(Path(study.results, IMAGE_HASHES)))
    bits = f"nearly identical: at most {survey_overlaps.WITHIN} of 256 bits of a hash differ"
    alone = f"; {without:,} screenshots without a stored hash are compared by their bytes alone" if without else ""
    if not study.folds:
        return rows, f"What the splits have in common ({bits}{alone}):"
    few = [user.user for user in users if user.split == "test" and not user.fold_of]
    without_folds = f"; too few samples for the folds: user {format_users(few)}" if few else ""
    return rows, f"What the splits, and the folds of each test user, have in common ({bits}{alone}{without_folds}):"


def as_csv(rows: Rows) -> str:
    """Return rows as CSV; empty without rows."""
    file = io.StringIO()
    if rows:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return file.getvalue()


def in_words(users: Rows) -> str:
    """Return the table of users, at most `SHOWN_USERS` of them."""
    lines = [f"{'user':>12} {'split':<10} {'samples':>8} {'bad':>5} {'episodes':>8} {'apps':>5} {'in unique apps':>14}"]
    for row in users[:SHOWN_USERS]:
        share = row["share_of_samples_in_unique_apps"]
        lines.append(
            f"{row['user']:>12} {row['split']:<10} {row['samples']:>8,} {row['bad']:>5,} {row['episodes']:>8,} "
            f"{row['apps']:>5,} {'' if share is None else percent(share) + ' %':>14}"
        )
    if len(users) > SHOWN_USERS:
        lines.append(f"... and {len(users) - SHOWN_USERS:,} more users in users.csv")
    return "\n".join(lines)

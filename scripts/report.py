r"""Write the report of a study: an HTML file with its tables, figures and samples.

The files of samples are named user_<id>.jsonl. Screenshots of more than 15 MB go to the folder report_images, next
to the report. Example:

    ls results/predictions/*/users_*.json > predictions.txt
    ls results/data/user_*.jsonl > samples.txt
    python scripts/report.py --recipe '{"step": "report", "study": "demo", "title": "Demo", "samples": "all",
        "experiments": [{"name": "vanilla", "mode": "vanilla"}], "users": ["1", "2"], "task": "grounding",
        "thresholds": [140], "splits": {"test": "1-2"}}' \
        --tables results/tables --figures results/figures/accuracy_by_user.svg \
        --predictions predictions.txt --samples samples.txt --data results/data --dataset-root data \
        --study results/logs/study.yaml --base-model results/base_model/manifest.json \
        --audit results/audit/0123456789abcdef.json --leakage results/data/leakage.json \
        --out results/report.html --study-copy results/study.yaml --provenance results/provenance.json \
        --cost-figures results/figures --manifest results/report.manifest.json
"""

from __future__ import annotations

import argparse
from pathlib import Path

import environment  # noqa: F401

from usertune.reporting.contents import ReportFiles
from usertune.reporting.recipe import ReportRecipe
from usertune.reporting.report import ReportOutputs, make_report
from usertune.runtime import step_main


def main(arguments: argparse.Namespace) -> None:
    files = ReportFiles(
        study=arguments.study,
        base_model=arguments.base_model,
        tables=arguments.tables,
        figures=arguments.figures,
        audit=arguments.audit,
        leakage=arguments.leakage,
        training_manifests=arguments.training_manifests,
        predictions=arguments.predictions,
        samples=arguments.samples,
        data=arguments.data,
        dataset_root=arguments.dataset_root,
    )
    outputs = ReportOutputs(
        arguments.out, arguments.study_copy, arguments.provenance, arguments.cost_figures, arguments.manifest
    )
    make_report(arguments.recipe, files, outputs)


if __name__ == "__main__":
    parser = step_main.argument_parser(__doc__)
    step_main.add_recipe(parser, ReportRecipe)
    parser.add_argument("--study", required=True, type=Path, metavar="YAML", help="the study, to copy")
    parser.add_argument("--base-model", required=True, type=Path, metavar="JSON", help="manifest of the base model")
    parser.add_argument("--tables", required=True, type=Path, metavar="FOLDER", help="the tables of the comparison")
    parser.add_argument(
        "--figures", nargs="*", default=[], type=Path, metavar="SVG", help="the figures, in the order of the report"
    )
    step_main.add_list(parser, "--training-manifests", "the manifests of all trainings", required=False)
    step_main.add_list(parser, "--predictions", "all predictions of all experiments")
    step_main.add_list(parser, "--samples", "the canonical samples of the users to show")
    parser.add_argument("--data", required=True, type=Path, metavar="FOLDER", help="manifests of all users' samples")
    parser.add_argument(
        "--dataset-root", required=True, type=Path, metavar="FOLDER", help="folder to which image paths are relative"
    )
    parser.add_argument(
        "--leakage", required=True, type=Path, metavar="JSON", help="what the samples of the splits have in common"
    )
    parser.add_argument("--audit", required=True, type=Path, metavar="JSON", help="the passed audit")
    parser.add_argument("--out", required=True, type=Path, metavar="HTML", help="output: the report")
    parser.add_argument("--study-copy", required=True, type=Path, metavar="YAML", help="output: copy of the study")
    parser.add_argument("--provenance", required=True, type=Path, metavar="JSON", help="output: RO-Crate metadata")
    parser.add_argument(
        "--cost-figures", required=True, type=Path, metavar="FOLDER", help="output: folder of the figures of costs"
    )
    parser.add_argument("--manifest", required=True, type=Path, metavar="JSON", help="output: manifest of the report")
    step_main.run(parser, main)

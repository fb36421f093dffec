"""Audit the results of a study: compute every fingerprint anew, and name what does not hold.

Ends with exit code 0 if every result is what the study says, else with 2 and a list of what is missing, stale (made
with other settings, or from something else than is there now), foreign (of another experiment or user) or edited.
Example, for config.yaml and then for a study of one's own:

    python scripts/audit.py
    python scripts/audit.py --study configs/mine.yaml
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import environment  # noqa: F401

from usertune.checks.audit import audit_study, in_words, run_audit
from usertune.core.errors import UserError
from usertune.pipeline.results_folder import check_owner
from usertune.runtime import step_main
from usertune.study.load import load_study
from usertune.study.schema import Origin, Study


def main(arguments: argparse.Namespace) -> None:
    if arguments.resolved_study is not None:
        study = Study.model_validate_json(arguments.resolved_study)
        study = study.model_copy(update={"origin": Origin.model_validate_json(arguments.origin)})
        run_audit(study, arguments.recipe, arguments.out)
        return
    study = load_study(arguments.study, arguments.config)
    check_owner(study)
    audit = audit_study(study)
    if audit.findings:
        raise UserError(in_words(audit))
    print(in_words(audit))


if __name__ == "__main__":
    parser = step_main.argument_parser(__doc__)
    step_main.add_study(parser)
    parser.add_argument("--resolved-study", metavar="JSON", help="the whole study as JSON; used by the workflow")
    parser.add_argument("--origin", default="{}", metavar="JSON", help="how it was set; used by the workflow")
    parser.add_argument("--recipe", type=json.loads, metavar="JSON", help="the audit's recipe; used by the workflow")
    parser.add_argument("--out", type=Path, metavar="JSON", help="output; used by the workflow")
    step_main.run(parser, main)

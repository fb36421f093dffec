"""usertune: fine-tune one vision-language model across many users and evaluate it on each of them.

The study is `config.yaml`, or another file: `snakemake --profile local --configfile configs/mine.yaml`.
"""

from pathlib import Path

from snakemake.utils import min_version

min_version("9.10")

# Snakemake merges --configfile into this one; a study must not inherit experiments from the demo.
if not workflow.overwrite_configfiles:

    # The one in the working directory, else, for runs from elsewhere, the one beside this file.
    folder = "" if Path("config.yaml").exists() else workflow.basedir

    configfile: str(Path(folder, "config.yaml"))


include: "rules/environment.smk"
include: "rules/command_line.smk"
include: "rules/study.smk"
include: "rules/paths.smk"
include: "rules/containers.smk"
include: "rules/inputs.smk"
include: "rules/resources.smk"
include: "rules/handlers.smk"
include: "rules/data.smk"
include: "rules/train.smk"
include: "rules/evaluate.smk"
include: "rules/report.smk"


rule all:
    """Everything: all results of the study, and its report."""
    default_target: True
    input:
        # Every result, not just the report: Snakemake does not miss a file that lies between others.
        every_result(),
    localrule: True
    params:
        report=lambda wildcards: f"{STUDY.results}/{STUDY.origin.outcomes}{steps.REPORT.files['report']}",
    message:
        "The study is complete: {params.report}"


# `snakemake vanilla --profile local`, and so on: one experiment, as far as its scores.
for experiment in STUDY.experiments:

    rule:
        name:
            experiment
        input:
            scores_of([experiment]),
        localrule: True


# A group: all its experiments, such as those of a sweep.
for group, names in STUDY.groups.items():

    rule:
        name:
            group
        input:
            scores_of(names),
        localrule: True


for target in workflow.rules:
    if target.name in STUDY.experiments:
        target.docstring = f"The experiment {target.name}, as far as its scores."
    elif target.name in STUDY.groups:
        target.docstring = f"The experiments of {target.name}, as far as their scores."

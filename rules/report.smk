"""Figures, the audit and the report."""


rule figure:
    """Draw one figure, for one and for two columns of a paper."""
    input:
        tables=files_of(steps.COMPARE),
        losses=training_logs,
    output:
        svg=report(
            file_of(steps.FIGURE, "svg"),
            category="Figures",
            labels={"figure": "{figure}"},
            caption="captions/figure.rst",
        ),
        pdf=file_of(steps.FIGURE, "pdf"),
        png=file_of(steps.FIGURE, "png"),
        svg_one_column=file_of(steps.FIGURE, "svg_one_column"),
        pdf_one_column=file_of(steps.FIGURE, "pdf_one_column"),
        png_one_column=file_of(steps.FIGURE, "png_one_column"),
        manifest=manifest_of(steps.FIGURE),
    log:
        log_of(steps.FIGURE),
    retries: 0
    localrule: True
    conda:
        "../envs/cpu.yaml"
    resources:
        mem_mb=2000,
        runtime="20m",
    params:
        recipe=recipe_of(steps.FIGURE),
        tables=lambda wildcards, input: os.path.dirname(input.tables[0]),
        losses=lambda wildcards: f"@{JOB_FILES.lines('losses.txt', named_logs(wildcards.figure))}",
    message:
        "Drawing {wildcards.figure}"
    shell:
        'python "$USERTUNE_SCRIPTS"/figure.py --recipe {params.recipe:q} --name {wildcards.figure:q}'
        " --tables {params.tables:q} --training-log {params.losses:q} --manifest {output.manifest:q} --log {log:q}"


rule audit:
    """Audit tables, figures and everything upstream of them."""
    input:
        leakage=files_of(steps.LEAKAGE),
        tables=files_of(steps.COMPARE),
        figures=expand(manifest_of(steps.FIGURE), figure=FIGURE_NAMES),
    output:
        # The name contains the settings: after a change it is missing, whatever Snakemake's records say.
        manifest_of(steps.AUDIT),
    log:
        log_of(steps.AUDIT),
    retries: 0
    localrule: True
    conda:
        "../envs/cpu.yaml"
    resources:
        mem_mb=2000,
        runtime="20m",
    params:
        recipe=recipe_of(steps.AUDIT),
        study=RESOLVED_STUDY,
    message:
        "Auditing the results"
    shell:
        'python "$USERTUNE_SCRIPTS"/audit.py --resolved-study {params.study:q} --recipe {params.recipe:q}'
        " --out {output:q} --log {log:q}"


rule report:
    """Write the report."""
    input:
        audit=manifest_of(steps.AUDIT),
        leakage=manifest_of(steps.LEAKAGE),
        base_model=manifest_of(steps.BASE_MODEL),
        tables=files_of(steps.COMPARE),
        figures=expand(file_of(steps.FIGURE, "svg"), figure=FIGURE_NAMES),
        training=every(steps.TRAIN) + every(steps.TRAIN_FOLDS),
        predictions=expand(manifest_of(steps.PREDICT), experiment=STUDY.experiments, batch=TEST_BATCHES),
        samples=expand(file_of(steps.PREPARE, "samples"), user=STUDY.users.test),
        data=user_manifests(STUDY.all_users),
    output:
        report=report(
            file_of(steps.REPORT, "report"),
            category="Comparison",
            labels={"page": "the comparison in one file"},
            caption="captions/page.rst",
        ),
        study=file_of(steps.REPORT, "study"),
        provenance=file_of(steps.REPORT, "provenance"),
        # Into the folder of the tables.
        cost=table_for_report(file_of(steps.REPORT, "cost")),
        cost_md=file_of(steps.REPORT, "cost_md"),
        cost_tex=file_of(steps.REPORT, "cost_tex"),
        # Into the folder of the figures.
        cost_figures=[
            figure_for_report(file_of(steps.REPORT, name))
            for name in steps.REPORT.files_of(STUDY)
            if name.startswith(steps.OF_COSTS)
        ],
        manifest=manifest_of(steps.REPORT),
    log:
        log_of(steps.REPORT),
    retries: 0
    localrule: True
    conda:
        "../envs/cpu.yaml"
    resources:
        mem_mb=2000,
        runtime="20m",
    params:
        recipe=recipe_of(steps.REPORT),
        study=STUDY_TEXT,
        tables=lambda wildcards, input: os.path.dirname(input.tables[0]),
        data=lambda wildcards, input: os.path.dirname(input.data[0]),
        root=STUDY.dataset.root,
        cost_figures=lambda wildcards, output: os.path.join(os.path.dirname(output.report), steps.FIGURE.folder),
        training=list_file("training"),
        predictions=list_file("predictions"),
        samples=list_file("samples"),
    message:
        "Writing the report"
    shell:
        'python "$USERTUNE_SCRIPTS"/report.py --recipe {params.recipe:q} --tables {params.tables:q}'
        " --figures {input.figures:q} --audit {input.audit:q} --leakage {input.leakage:q} --training-manifests {params.training:q}"
        " --predictions {params.predictions:q} --samples {params.samples:q}"
        " --study {params.study:q} --base-model {input.base_model:q} --data {params.data:q}"
        " --dataset-root {params.root:q} --out {output.report:q} --study-copy {output.study:q}"
        " --provenance {output.provenance:q} --cost-figures {params.cost_figures:q} --manifest {output.manifest:q} --log {log:q}"

"""Figures, the audit and the report."""


rule figure:
    """Draw one figure."""
    input:
        tables=rules.compare.output,
        losses=training_logs,
    output:
        svg="<outcomes>/figures/{figure}.svg",
        png="<outcomes>/figures/{figure}.png",
        manifest="<outcomes>/figures/{figure}.manifest.json",
    log:
        "<outcomes>/logs/figure/{figure}.log",
    retries: 0
    localrule: True
    conda:
        "../envs/cpu.yaml"
    resources:
        mem_mb=2000,
        runtime="20m",
    params:
        recipe=recipe_of(f"{STUDY.origin.outcomes}figures/{{figure}}.manifest.json"),
        tables=lambda wildcards, input: os.path.dirname(input.tables[0]),
        losses=lambda wildcards, input: [f"{name}={path}" for name, path in zip(TRAINED, input.losses)],
    message:
        "Drawing {wildcards.figure}"
    shell:
        'python "$USERTUNE_SCRIPTS"/figure.py --recipe {params.recipe:q} --name {wildcards.figure:q}'
        " --tables {params.tables:q} --training-log {params.losses:q} --svg {output.svg:q} --png {output.png:q}"
        " --manifest {output.manifest:q} --log {log:q}"


rule audit:
    """Audit tables and figures, and all that they are made from."""
    input:
        tables=rules.compare.output,
        figures=expand(rules.figure.output.manifest, figure=FIGURE_NAMES),
    output:
        # Its name is that of the settings: with others it is missing, whatever Snakemake's records say.
        f"<results>/{AUDIT}",
    log:
        "<outcomes>/logs/audit.log",
    retries: 0
    localrule: True
    conda:
        "../envs/cpu.yaml"
    resources:
        mem_mb=2000,
        runtime="20m",
    params:
        recipe=recipe_of(AUDIT),
        # Without what says where jobs run, and what they say: it changes no result.
        study=lambda wildcards: STUDY.model_dump_json(
            exclude={
                "container": True,
                "evaluation": {"batch_size", "expected_parse_rate"},
                "experiments": {"__all__": {"gpus", "nodes", "parallel"}},
            }
        ),
        origin=STUDY.origin.model_dump_json(),
    message:
        "Auditing the results"
    shell:
        'python "$USERTUNE_SCRIPTS"/audit.py --resolved-study {params.study:q} --recipe {params.recipe:q}'
        " --origin {params.origin:q}"
        " --out {output:q} --log {log:q}"


rule report:
    """Write the report, after everything it is made from."""
    input:
        audit=rules.audit.output,
        base_model=rules.base_model.output,
        tables=rules.compare.output,
        figures=expand(rules.figure.output.svg, figure=FIGURE_NAMES),
        training=expand("<results>/checkpoints/{experiment}/manifest.json", experiment=TRAINED),
        predictions=expand(
            "<results>/predictions/{experiment}/users_{batch}.json",
            experiment=STUDY.experiments,
            batch=BATCHES,
        ),
        samples=expand("<results>/data/user_{user}.jsonl", user=STUDY.users.test),
        data=user_manifests(STUDY.all_users),
    output:
        report="<outcomes>/report.html",
        study="<outcomes>/study.yaml",
        provenance="<outcomes>/provenance.json",
        manifest="<outcomes>/report.manifest.json",
    log:
        "<outcomes>/logs/report.log",
    retries: 0
    localrule: True
    conda:
        "../envs/cpu.yaml"
    resources:
        mem_mb=2000,
        runtime="20m",
    params:
        recipe=recipe_of(layout.report_path(STUDY)),
        # By its name alone: a comment in the study changes no report.
        study=STUDY_TEXT,
        tables=lambda wildcards, input: os.path.dirname(input.tables[0]),
        data=lambda wildcards, input: os.path.dirname(input.data[0]),
        root=STUDY.dataset.root,
    message:
        "Writing the report"
    shell:
        'python "$USERTUNE_SCRIPTS"/report.py --recipe {params.recipe:q} --tables {params.tables:q}'
        " --figures {input.figures:q} --audit {input.audit:q} --training-manifests {input.training:q}"
        " --predictions {input.predictions:q} --samples {input.samples:q}"
        " --study {params.study:q} --base-model {input.base_model:q} --data {params.data:q}"
        " --dataset-root {params.root:q} --out {output.report:q} --study-copy {output.study:q}"
        " --provenance {output.provenance:q} --manifest {output.manifest:q} --log {log:q}"

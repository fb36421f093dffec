"""Figures and the report."""


rule figure:
    input:
        tables=expand(
            "<results>/tables/{name}.csv", name=["summary", "users", "samples"]
        ),
        losses=training_logs,
    output:
        svg="<results>/figures/{figure}.svg",
        png="<results>/figures/{figure}.png",
    log:
        "<results>/logs/figure/{figure}.log",
    localrule: True
    conda:
        "../envs/cpu.yaml"
    resources:
        mem_mb=2000,
        runtime="20m",
    params:
        recipe=lambda wildcards: RECIPES.figure(wildcards.figure),
        tables=lambda wildcards, input: os.path.dirname(input.tables[0]),
        losses=lambda wildcards, input: [
            f"{name}={path}" for name, path in zip(TRAINED, input.losses)
        ],
    message:
        "Drawing {wildcards.figure}"
    shell:
        'python "$USERTUNE_SCRIPTS"/figure.py --recipe {params.recipe:q} --name {wildcards.figure:q}'
        " --tables {params.tables:q} --training-log {params.losses:q} --svg {output.svg:q} --png {output.png:q}"
        " --log {log:q}"


rule report:
    input:
        tables=rules.compare.output,
        figures=expand("<results>/figures/{figure}.svg", figure=FIGURE_NAMES),
        training=expand(
            "<results>/checkpoints/{experiment}/manifest.json", experiment=TRAINED
        ),
        predictions=expand(
            "<results>/predictions/{experiment}/users_{batch}.json",
            experiment=STUDY.experiments,
            batch=BATCHES,
        ),
        samples=expand("<results>/data/user_{user}.jsonl", user=STUDY.users.test),
    output:
        "<results>/report.html",
    log:
        "<results>/logs/report.log",
    localrule: True
    conda:
        "../envs/cpu.yaml"
    resources:
        mem_mb=2000,
        runtime="20m",
    params:
        recipe=RECIPES.report(),
        tables=lambda wildcards, input: os.path.dirname(input.tables[0]),
        root=STUDY.dataset.root,
    message:
        "Writing the report"
    shell:
        'python "$USERTUNE_SCRIPTS"/report.py --recipe {params.recipe:q} --tables {params.tables:q}'
        " --figures {input.figures:q} --training-manifests {input.training:q}"
        " --predictions {input.predictions:q} --samples {input.samples:q}"
        " --dataset-root {params.root:q} --out {output:q} --log {log:q}"

"""Figures and the report."""


rule figure:
    message:
        "Drawing {wildcards.figure}"
    input:
        tables=expand("<results>/tables/{name}.csv", name=["summary", "users", "samples"]),
        losses=training_logs,
    output:
        svg="<results>/figures/{figure}.svg",
        png="<results>/figures/{figure}.png",
    params:
        recipe=lambda wildcards: RECIPES.figure(wildcards.figure),
        tables=f"{STUDY.results}/tables",
        losses=lambda wildcards, input: [f"{name}={path}" for name, path in zip(TRAINED, input.losses)],
    log:
        "<results>/logs/figure/{figure}.log",
    resources:
        mem_mb=2000,
        runtime="20m",
    conda:
        "../envs/cpu.yaml"
    localrule: True
    shell:
        "python {SCRIPTS:q}/figure.py --recipe {params.recipe:q} --name {wildcards.figure:q}"
        " --tables {params.tables:q} --training-log {params.losses:q} --svg {output.svg:q} --png {output.png:q}"
        " --log {log:q}"


rule report:
    message:
        "Writing the report"
    input:
        tables=rules.compare.output,
        figures=expand("<results>/figures/{figure}.svg", figure=FIGURE_NAMES),
        training=expand("<results>/checkpoints/{experiment}/manifest.json", experiment=TRAINED),
        predictions=expand(
            "<results>/predictions/{experiment}/users_{batch}.json", experiment=STUDY.experiments, batch=BATCHES
        ),
        samples=expand("<results>/data/user_{user}.jsonl", user=STUDY.users.test),
    output:
        "<results>/report.html",
    params:
        recipe=RECIPES.report(),
        tables=f"{STUDY.results}/tables",
        root=STUDY.dataset.root,
    log:
        "<results>/logs/report.log",
    resources:
        mem_mb=2000,
        runtime="20m",
    conda:
        "../envs/cpu.yaml"
    localrule: True
    shell:
        "python {SCRIPTS:q}/report.py --recipe {params.recipe:q} --tables {params.tables:q}"
        " --figures {input.figures:q} --training-manifests {input.training:q}"
        " --predictions {input.predictions:q} --samples {input.samples:q}"
        " --dataset-root {params.root:q} --out {output:q} --log {log:q}"

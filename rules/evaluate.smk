"""Predictions (GPU, a batch of users a job), scores (CPU, a user a job), and their comparison."""


rule predict:
    message:
        "Predicting users {wildcards.batch} with {wildcards.experiment}"
    input:
        base_model="<results>/base_model/manifest.json",
        trained=trained_weights,
        users=manifests_of_batch,
    output:
        "<results>/predictions/{experiment}/users_{batch}.json",
    params:
        recipe=lambda wildcards: RECIPES.predict(wildcards.experiment),
        trained=lambda wildcards, input: ["--trained", input.trained] if input.trained else [],
        root=STUDY.dataset.root,
        store=f"{STUDY.results}/store/predictions",
        batch_size=STUDY.evaluation.batch_size,
    log:
        "<results>/logs/predict/{experiment}/users_{batch}.log",
    threads: 4
    resources:
        gpu=one_gpu,
        mem_mb=lambda wildcards, attempt: 32000 * attempt,
        runtime=lambda wildcards, attempt: 240 * attempt,
    conda:
        "../envs/gpu.yaml"
    shell:
        "python {SCRIPTS:q}/predict.py --recipe {params.recipe:q} --experiment {wildcards.experiment:q}"
        " --base-model {input.base_model:q} {params.trained:q} --users {input.users:q}"
        " --root {params.root:q} --store {params.store:q} --batch-size {params.batch_size}"
        " --gpus {resources.gpu} --predictions {output:q} --log {log:q}"


rule score:
    message:
        "Scoring user {wildcards.user} with {wildcards.experiment}"
    input:
        manifest="<results>/data/user_{user}.manifest.json",
        samples="<results>/data/user_{user}.jsonl",
        predictions=predictions_of_user,
    output:
        rows="<results>/scores/{experiment}/user_{user}.csv",
        metrics="<results>/scores/{experiment}/user_{user}.json",
    params:
        recipe=lambda wildcards: RECIPES.score(wildcards.experiment),
    log:
        "<results>/logs/score/{experiment}/user_{user}.log",
    resources:
        mem_mb=500,
        runtime="10m",
    conda:
        "../envs/cpu.yaml"
    localrule: True
    shell:
        "python {SCRIPTS:q}/score.py --recipe {params.recipe:q} --experiment {wildcards.experiment:q}"
        " --user {wildcards.user:q} --samples {input.samples:q} --predictions {input.predictions:q}"
        " --rows {output.rows:q} --metrics {output.metrics:q} --log {log:q}"


rule compare:
    message:
        "Comparing the experiments"
    input:
        metrics=all_scores(".json"),
        rows=all_scores(".csv"),
    output:
        summary=multiext("<results>/tables/summary", ".csv", ".md", ".tex"),
        details=expand("<results>/tables/{name}.csv", name=["differences", "users", "samples"]),
    params:
        recipe=RECIPES.compare(),
        tables=f"{STUDY.results}/tables",
    log:
        "<results>/logs/compare.log",
    resources:
        mem_mb=2000,
        runtime="20m",
    conda:
        "../envs/cpu.yaml"
    localrule: True
    shell:
        "python {SCRIPTS:q}/compare.py --recipe {params.recipe:q} --scores {input.metrics:q}"
        " --tables {params.tables:q} --log {log:q}"

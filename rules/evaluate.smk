"""Predictions (GPU, a batch of users a job), scores (CPU, a user a job), and their comparison."""


rule predict:
    """Generate one experiment's answers for a batch of users."""
    input:
        base_model="<results>/base_model/manifest.json",
        trained=trained_weights,
        users=manifests_of_batch,
    output:
        "<results>/predictions/{experiment}/users_{batch}.json",
    log:
        "<results>/logs/predict/{experiment}/users_{batch}.log",
    # Before any training that could start.
    priority: 5
    conda:
        "../envs/gpu.yaml"
    threads: 4
    resources:
        **before_training(is_untrained),
        gpu=gpu_of_engine,
        nodes=1,
        mem_mb=lambda wildcards, attempt: 32000 * attempt,
        runtime=lambda wildcards, attempt: 240 * attempt,
    params:
        recipe=recipe_of("predictions/{experiment}/users_{batch}.json"),
        trained=lambda wildcards, input: (["--trained", input.trained] if input.trained else []),
        root=STUDY.dataset.root,
        store=f"{STUDY.results}/store/predictions",
        batch_size=STUDY.evaluation.batch_size,
    message:
        "Predicting users {wildcards.batch} with {wildcards.experiment}"
    shell:
        'python "$USERTUNE_SCRIPTS"/predict.py --recipe {params.recipe:q} --experiment {wildcards.experiment:q}'
        " --base-model {input.base_model:q} {params.trained:q} --users {input.users:q}"
        " --root {params.root:q} --store {params.store:q} --batch-size {params.batch_size}"
        " --gpus {resources.gpu} --predictions {output:q} --log {log:q}"


rule score:
    """Score one experiment's answers for one user."""
    input:
        manifest="<results>/data/user_{user}.manifest.json",
        samples="<results>/data/user_{user}.jsonl",
        predictions=predictions_of_user,
    output:
        rows="<results>/scores/{experiment}/user_{user}.csv",
        metrics="<results>/scores/{experiment}/user_{user}.json",
    log:
        "<results>/logs/score/{experiment}/user_{user}.log",
    # At once, since it says how many answers could be read.
    priority: 8
    retries: 0
    localrule: True
    conda:
        "../envs/cpu.yaml"
    resources:
        **before_training(is_untrained),
        mem_mb=500,
        runtime="10m",
        # Not a param, whose change would start the job again.
        expected_parse_rate=str(STUDY.evaluation.expected_parse_rate),
    params:
        recipe=recipe_of("scores/{experiment}/user_{user}.json"),
        store=f"{STUDY.results}/store/scores",
    message:
        "Scoring user {wildcards.user} with {wildcards.experiment}"
    shell:
        'python "$USERTUNE_SCRIPTS"/score.py --recipe {params.recipe:q} --experiment {wildcards.experiment:q}'
        " --user {wildcards.user:q} --samples {input.samples:q} --predictions {input.predictions:q}"
        " --rows {output.rows:q} --metrics {output.metrics:q} --store {params.store:q}"
        " --expected-parse-rate {resources.expected_parse_rate:q} --log {log:q}"


rule compare:
    """Compare the experiments: the tables."""
    input:
        metrics=all_scores(".json"),
        rows=all_scores(".csv"),
    output:
        summary=multiext("<outcomes>/tables/summary", ".csv", ".md", ".tex"),
        details=expand("<outcomes>/tables/{name}.csv", name=["differences", "users", "samples"]),
        manifest="<outcomes>/tables/manifest.json",
    log:
        "<outcomes>/logs/compare.log",
    retries: 0
    localrule: True
    conda:
        "../envs/cpu.yaml"
    resources:
        mem_mb=2000,
        runtime="20m",
    params:
        recipe=recipe_of(layout.comparison_path(STUDY)),
        tables=lambda wildcards, output: os.path.dirname(output.summary[0]),
    message:
        "Comparing the experiments"
    shell:
        'python "$USERTUNE_SCRIPTS"/compare.py --recipe {params.recipe:q} --scores {input.metrics:q}'
        " --tables {params.tables:q} --log {log:q}"

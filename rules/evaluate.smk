"""Predictions (GPU, one batch of users per job), scores (CPU, one batch of users per job), and the comparison."""


rule predict:
    """Generate one experiment's answers for a batch of users."""
    input:
        base_model=manifest_of(steps.BASE_MODEL),
        weights=inputs_of(steps.PREDICT, "weights"),
        start=inputs_of(steps.PREDICT, "start"),
        users=inputs_of(steps.PREDICT, "samples"),
        context=inputs_of(steps.PREDICT, "context"),
    output:
        manifest_of(steps.PREDICT),
    log:
        log_of(steps.PREDICT),
    priority: priority_of_prediction
    conda:
        "../envs/gpu.yaml"
    threads: lambda wildcards: threads_of_model(4)
    resources:
        **before_training(is_untrained),
        **one_job_for_each_server(),
        gpu=gpu_of_engine,
        nodes=1,
        mem_mb=lambda wildcards, attempt: 32000 * attempt,
        runtime=lambda wildcards, attempt: PREDICTION_MINUTES * attempt,
        # Not params, because a changed param starts the job again.
        batch_size=STUDY.evaluation.batch_size,
        engine=execution_of_engine,
        minutes_for_others=minutes_for_others,
    params:
        recipe=recipe_of(steps.PREDICT),
        weights=list_file("weights"),
        start=lambda wildcards, input: (["--start", *input.start] if input.start else []),
        root=STUDY.dataset.root,
        store=f"{STUDY.results}/store/predictions",
        users=list_file("users"),
        context=list_file("context"),
        shared_base=shared_base,
    message:
        "Predicting users {wildcards.batch} with {wildcards.experiment}"
    shell:
        'python "$USERTUNE_SCRIPTS"/predict.py --recipe {params.recipe:q} --experiment {wildcards.experiment:q}'
        " --base-model {input.base_model:q} --weights {params.weights:q} {params.start:q} --users {params.users:q}"
        " --context {params.context:q} --root {params.root:q} --store {params.store:q} --batch-size {resources.batch_size}"
        " --gpus {resources.gpu} --engine {resources.engine:q} {params.shared_base:q}"
        " --minutes-for-others {resources.minutes_for_others} --predictions {output:q} --log {log:q}"


use rule predict as predict_from_store with:
    wildcard_constraints:
        batch=batches_to_collect(),
    priority: 5
    # If the store has all answers, a job on this machine collects them; on a cluster it needs no allocation.
    localrule: True
    conda:
        "../envs/cpu.yaml"
    threads: 1
    resources:
        **before_training(is_untrained),
        gpu=0,
        nodes=1,
        mem_mb=2000,
        runtime="20m",
        batch_size=0,
        engine=execution_of_engine,
        minutes_for_others=0,
    message:
        "Collecting stored answers of users {wildcards.batch} with {wildcards.experiment}"


rule read_answers:
    """Take answers that were generated elsewhere as one experiment's predictions for a batch of users."""
    input:
        users=inputs_of(steps.PREDICT, "samples"),
        answers=answer_files,
    output:
        manifest_of(steps.PREDICT),
    log:
        log_of(steps.PREDICT),
    wildcard_constraints:
        experiment="|".join(ANSWERED_ELSEWHERE) or "(?!)",
    priority: 5
    retries: 0
    localrule: True
    conda:
        "../envs/cpu.yaml"
    resources:
        **before_training(is_untrained),
        mem_mb=1000,
        runtime="20m",
    params:
        recipe=recipe_of(steps.PREDICT),
        answers=lambda wildcards: STUDY.experiments[wildcards.experiment].answers,
        states=state_of_answers,
        users=list_file("users"),
    message:
        "Reading the answers of users {wildcards.batch} for {wildcards.experiment}"
    shell:
        'python "$USERTUNE_SCRIPTS"/read_answers.py --recipe {params.recipe:q} --experiment {wildcards.experiment:q}'
        " --answers {params.answers:q} --users {params.users:q} --predictions {output:q} --log {log:q}"


rule predict_prior:
    """Find one experiment's answers for a batch of users, without a model."""
    input:
        users=inputs_of(steps.PREDICT, "samples"),
        targets=inputs_of(steps.PREDICT, "targets"),
    output:
        manifest_of(steps.PREDICT),
    log:
        log_of(steps.PREDICT),
    wildcard_constraints:
        experiment="|".join(PRIORS) or "(?!)",
    priority: 5
    retries: 0
    localrule: True
    conda:
        "../envs/cpu.yaml"
    resources:
        **before_training(),
        mem_mb=2000,
        runtime="30m",
    params:
        recipe=recipe_of(steps.PREDICT),
        users=list_file("users"),
        targets=list_file("targets"),
    message:
        "Finding the prior {wildcards.experiment} for users {wildcards.batch}"
    shell:
        'python "$USERTUNE_SCRIPTS"/prior.py --recipe {params.recipe:q} --experiment {wildcards.experiment:q}'
        " --users {params.users:q} --targets {params.targets:q} --predictions {output:q} --log {log:q}"


ruleorder: predict_prior > read_answers > predict_from_store > predict


# One rule per experiment and batch of users: the files of a batch share no wildcard, and Snakemake compares each file that
# it needs with all outputs that have the same beginning, up to the first wildcard.
for batch, users in BATCHES.items():

    for experiment in ANSWERING[batch]:

        rule:
            name:
                rule_of_batch(steps.SCORE, batch, experiment)
            input:
                manifests=user_manifests(users),
                samples=of_users(file_of(steps.PREPARE, "samples"), users),
                predictions=expand(manifest_of(steps.PREDICT), experiment=experiment, batch=batch),
            output:
                rows=of_users(file_of(steps.SCORE, "rows"), users, experiment),
                metrics=of_users(manifest_of(steps.SCORE), users, experiment),
            log:
                batch_log_of(steps.SCORE, batch, experiment),
            # Early, because it shows how many answers can be parsed.
            priority: 8
            retries: 0
            localrule: True
            conda:
                "../envs/cpu.yaml"
            resources:
                **({} if experiment in WAITING_FOR_WEIGHTS else before_training()),
                mem_mb=500,
                runtime="10m",
                # Not a param, because a changed param starts the job again.
                expected_parse_rate=str(STUDY.evaluation.expected_parse_rate),
            params:
                recipe=as_it_is(RECIPES.score(experiment)),
                batch=scores_of_batch(experiment, users),
                store=f"{STUDY.results}/store/scores",
                experiment=experiment,
            message:
                f"Scoring users {batch} with {experiment}"
            shell:
                'python "$USERTUNE_SCRIPTS"/score.py --recipe {params.recipe:q} --experiment {params.experiment:q}'
                " {params.batch:q} --predictions {input.predictions:q} --store {params.store:q}"
                " --expected-parse-rate {resources.expected_parse_rate:q} --log {log:q}"


rule compare:
    """Compare the experiments, and write the tables."""
    input:
        metrics=of_all_scores(manifest_of(steps.SCORE)),
        rows=of_all_scores(file_of(steps.SCORE, "rows")),
        validation=inputs_of(steps.COMPARE, "validation"),
        trainings=expand(manifest_of(steps.TRAIN), experiment=STUDY.chosen_by_loss),
    output:
        tables=[table_for_report(file_of(steps.COMPARE, name)) for name in steps.COMPARE.files_of(STUDY)],
        manifest=manifest_of(steps.COMPARE),
    log:
        log_of(steps.COMPARE),
    retries: 0
    localrule: True
    conda:
        "../envs/cpu.yaml"
    resources:
        mem_mb=2000,
        runtime="20m",
    params:
        recipe=recipe_of(steps.COMPARE),
        tables=lambda wildcards, output: os.path.dirname(output.manifest),
        scores=list_file("metrics"),
        validation=list_file("validation"),
        trainings=list_file("trainings"),
    message:
        "Comparing the experiments"
    shell:
        'python "$USERTUNE_SCRIPTS"/compare.py --recipe {params.recipe:q} --scores {params.scores:q}'
        " --validation {params.validation:q} --trainings {params.trainings:q} --tables {params.tables:q} --log {log:q}"

"""Fine-tuning: one GPU job per trained experiment; on folds, one per batch of test users or for all of them. Weights that an
experiment does not train itself."""


rule other_weights:
    """Check weights that an experiment does not train itself, and write their manifest."""
    input:
        base_model=manifest_of(steps.BASE_MODEL),
        training=inputs_of(steps.OTHER_WEIGHTS, "training"),
        files=weights_from_elsewhere,
    output:
        manifest_of(steps.OTHER_WEIGHTS),
    log:
        log_of(steps.OTHER_WEIGHTS),
    # Before all trainings.
    priority: 5
    retries: 0
    localrule: True
    conda:
        "../envs/cpu.yaml"
    resources:
        **before_training(is_untrained),
        mem_mb=1000,
        runtime="2h",
    params:
        recipe=recipe_of(steps.OTHER_WEIGHTS),
        source=source_of_weights,
        states=lambda wildcards: elsewhere.sources_state(STUDY, wildcards.experiment),
    message:
        "Reading the weights of {wildcards.experiment}"
    shell:
        'python "$USERTUNE_SCRIPTS"/other_weights.py --recipe {params.recipe:q} --experiment {wildcards.experiment:q}'
        " --base-model {input.base_model:q} {params.source:q} --manifest {output:q} --log {log:q}"


rule train:
    """Train one experiment."""
    input:
        base_model=manifest_of(steps.BASE_MODEL),
        train=user_manifests(STUDY.users.train),
        validation=user_manifests(STUDY.users.validation),
    output:
        manifest=manifest_of(steps.TRAIN),
        losses=file_of(steps.TRAIN, "losses"),
    log:
        log_of(steps.TRAIN),
    # Before what only the report needs.
    priority: 1
    conda:
        "../envs/gpu.yaml"
    threads: lambda wildcards: threads_of_model(8, STUDY.experiments[wildcards.experiment].gpus)
    resources:
        **after_others(),
        gpu=lambda wildcards: gpus_of_training(wildcards.experiment),
        nodes=of_experiment("nodes"),
        gpus_per_node=of_experiment("gpus"),
        parallel=of_experiment("strategy"),
        # With these, SLURM's plugin starts train.py on the first node without srun (train.py calls srun itself), and
        # gives each node one task and, by gres, the same number of GPUs.
        mpi=on_several_nodes("srun"),
        tasks=on_several_nodes(lambda experiment: experiment.nodes),
        tasks_per_gpu=on_several_nodes(0),
        gres=on_several_nodes(lambda experiment: f"gpu:{experiment.gpus}"),
        mem_mb=for_each_gpu(64000),
        runtime=lambda wildcards, attempt: 1440 * attempt,
        # Not params, because a changed param starts the job again.
        execution=lambda wildcards: RECIPES.execution(wildcards.experiment),
        attempt=lambda wildcards, attempt: attempt,
    params:
        recipe=recipe_of(steps.TRAIN),
        root=STUDY.dataset.root,
        train=list_file("train"),
        validation=list_file("validation"),
    message:
        "Training {wildcards.experiment}"
    shell:
        'python "$USERTUNE_SCRIPTS"/train.py --recipe {params.recipe:q} --execution {resources.execution:q}'
        " --attempt {resources.attempt}"
        " --experiment {wildcards.experiment:q}"
        " --base-model {input.base_model:q} --train {params.train:q} --validation {params.validation:q}"
        " --root {params.root:q} --gpus {resources.gpu} --processes {resources.gpus_per_node}"
        " --nodes {resources.nodes} --parallel {resources.parallel:q} --threads {threads}"
        " --manifest {output.manifest:q}"
        " --losses {output.losses:q} --log {log:q}"


# Trainings on folds wait for no other jobs: a resource as above would let only one batch of users train at once. Their
# priority puts the predictions of other experiments first. As for scores, one rule per experiment and batch of users; with
# scope pooled, all test users are one batch with one training.
for experiment, batches in BATCHES_OF_FOLDS.items():

    for batch, users in batches.items():

        rule:
            name:
                layout.rule_of_folds(experiment, users)
            input:
                base_model=manifest_of(steps.BASE_MODEL),
                start=start_of_folds(experiment),
                users=user_manifests(users),
            output:
                manifests=of_trainings(manifest_of(steps.TRAIN_FOLDS), experiment, users),
                losses=of_trainings(file_of(steps.TRAIN_FOLDS, "losses"), experiment, users),
            log:
                log_of_folds(experiment, batch),
            priority: 1
            conda:
                "../envs/gpu.yaml"
            threads: lambda wildcards: threads_of_model(8)
            resources:
                gpu=lambda wildcards, name=experiment: gpus_of_training(name),
                nodes=1,
                mem_mb=for_each_gpu(64000, experiment),
                runtime=lambda wildcards, attempt: 1440 * attempt,
                # Not params, because a changed param starts the job again.
                execution=lambda wildcards, name=experiment: RECIPES.execution(name),
                attempt=lambda wildcards, attempt: attempt,
            params:
                recipe=as_it_is(RECIPES.train_folds(experiment)),
                start=lambda wildcards, input: (["--start", *input.start] if input.start else []),
                experiment=experiment,
                users=users_file(users),
                data=for_each_user(steps.PREPARE.manifest),
                root=STUDY.dataset.root,
                manifest=for_each_training(steps.TRAIN_FOLDS.manifest, experiment),
                losses=for_each_training(steps.TRAIN_FOLDS.files["losses"], experiment),
                log=for_each_training(steps.TRAIN_FOLDS.log, experiment),
            message:
                f"Training {experiment} on the folds of users {batch}"
            shell:
                'python "$USERTUNE_SCRIPTS"/train_folds.py --recipe {params.recipe:q} --execution {resources.execution:q}'
                " --attempt {resources.attempt} --experiment {params.experiment:q}"
                " --base-model {input.base_model:q} {params.start:q} --users {params.users:q} --data {params.data:q}"
                " --root {params.root:q} --gpus {resources.gpu}"
                " --manifest {params.manifest:q} --losses {params.losses:q} --user-log {params.log:q} --log {log:q}"

"""Fine-tuning, one GPU job per trained experiment."""


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
    threads: lambda wildcards: 8 * STUDY.experiments[wildcards.experiment].gpus
    resources:
        **after_others(),
        gpu=gpus_of_training,
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

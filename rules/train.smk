"""Fine-tuning, one GPU job for each trained experiment."""


rule train:
    input:
        base_model="<results>/base_model/manifest.json",
        train=user_manifests(STUDY.users.train),
        validation=user_manifests(STUDY.users.validation),
    output:
        manifest="<results>/checkpoints/{experiment}/manifest.json",
        losses="<results>/checkpoints/{experiment}/training_log.csv",
    log:
        "<results>/logs/train/{experiment}.log",
    conda:
        "../envs/gpu.yaml"
    threads: 8
    resources:
        gpu=one_gpu,
        mem_mb=lambda wildcards, attempt: 64000 * attempt,
        runtime=lambda wildcards, attempt: 1440 * attempt,
        micro_batch=micro_batch,
    params:
        recipe=recipe_of("checkpoints/{experiment}/manifest.json"),
        execution=lambda wildcards: RECIPES.execution(wildcards.experiment),
        root=STUDY.dataset.root,
    message:
        "Training {wildcards.experiment}"
    shell:
        'python "$USERTUNE_SCRIPTS"/train.py --recipe {params.recipe:q} --execution {params.execution:q}'
        " --micro-batch {resources.micro_batch} --experiment {wildcards.experiment:q}"
        " --base-model {input.base_model:q} --train {input.train:q} --validation {input.validation:q}"
        " --root {params.root:q} --gpus {resources.gpu} --manifest {output.manifest:q}"
        " --losses {output.losses:q} --log {log:q}"

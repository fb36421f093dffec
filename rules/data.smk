"""From raw data and the base model to small manifests, on the CPU."""


rule prepare:
    """Check the samples of one user."""
    input:
        raw_user_files,
    output:
        samples=file_of(steps.PREPARE, "samples"),
        manifest=manifest_of(steps.PREPARE),
    log:
        log_of(steps.PREPARE),
    # Before any GPU job that could start, so that a bad sample is found before hours are spent.
    priority: 10
    retries: 0
    localrule: True
    conda:
        "../envs/cpu.yaml"
    resources:
        **before_training(),
        mem_mb=1000,
        runtime="30m",
    params:
        recipe=recipe_of(steps.PREPARE),
        root=STUDY.dataset.root,
        sources=lambda wildcards: FRESHNESS.raw_data.state(wildcards.user),
    message:
        "Checking the samples of user {wildcards.user}"
    shell:
        'python "$USERTUNE_SCRIPTS"/prepare.py --recipe {params.recipe:q} --root {params.root:q} --user {wildcards.user:q}'
        " --sources-state {params.sources:q}"
        " --samples {output.samples:q} --manifest {output.manifest:q} --log {log:q}"


rule check:
    """Check the data of all users, and nothing else."""
    input:
        user_manifests(STUDY.all_users),
    localrule: True
    message:
        "The data of all users passed the checks"


rule base_model:
    """Look up the base model, and download it where it is named by its hub name."""
    input:
        base_model_files,
    output:
        manifest_of(steps.BASE_MODEL),
    log:
        log_of(steps.BASE_MODEL),
    retries: 0
    localrule: True
    conda:
        "../envs/cpu.yaml"
    resources:
        mem_mb=1000,
        runtime="2h",
    params:
        recipe=recipe_of(steps.BASE_MODEL),
        path=STUDY.base_model.path,
        files=lambda wildcards: sources.base_model_state(STUDY),
    message:
        "Looking up the base model"
    shell:
        'python "$USERTUNE_SCRIPTS"/base_model.py --recipe {params.recipe:q} --path {params.path:q} --manifest {output:q} --log {log:q}'

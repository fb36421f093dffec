"""From raw data and the base model to small manifests, on the CPU."""

# A rule for each batch of users, since the files of a batch have no wildcard in common. Which users' files hold is
# planned by repair_what_does_not_hold, raw data and images included, and looked at once more when the job runs. So
# nothing is recorded of what the job depends on, and other batches start nothing.
for batch, users in DATA_BATCHES.items():

    rule:
        name:
            rule_of_batch(steps.PREPARE, batch)
        input:
            no_file_but_repairs,
        output:
            samples=update(of_users(file_of(steps.PREPARE, "samples"), users)),
            manifests=update(of_users(manifest_of(steps.PREPARE), users)),
        log:
            batch_log_of(steps.PREPARE, batch),
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
            recipe=unrecorded(RECIPES.prepare()),
            root=unrecorded(STUDY.dataset.root),
            users=users_file(users),
            sources=sources_of_users(users),
            samples=for_each_user(steps.PREPARE.files["samples"]),
            manifest=for_each_user(steps.PREPARE.manifest),
            log=for_each_user(steps.PREPARE.log),
        message:
            f"Checking the samples of users {batch}"
        shell:
            'python "$USERTUNE_SCRIPTS"/prepare.py --recipe {params.recipe:q} --root {params.root:q}'
            " --users {params.users:q} --sources-states {params.sources:q}"
            " --samples {params.samples:q} --manifest {params.manifest:q} --user-log {params.log:q} --log {log:q}"


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

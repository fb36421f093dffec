"""Checks of raw data and base model, which write small manifests, on the CPU."""

# The prepare jobs write the hashes, and the comparison of the splits reads them.
HASH_STORE = f"{STUDY.results}/{IMAGE_HASHES}"

# One rule per batch of users, because the files of a batch share no wildcard. repair_what_does_not_hold decides which
# users to check, from raw data and images, and the job checks this again. So the params are not recorded, and a change
# of the batches starts no job.
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
        # Before all GPU jobs, so that bad samples are found before GPU hours are spent.
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
            watch_images=unrecorded(STUDY.dataset.watch_images),
            samples=for_each_user(steps.PREPARE.files["samples"]),
            manifest=for_each_user(steps.PREPARE.manifest),
            hashes=unrecorded(HASH_STORE),
            folds=unrecorded(folds_of_batch(users)),
            log=for_each_user(steps.PREPARE.log),
        message:
            f"Checking the samples of users {batch}"
        shell:
            'python "$USERTUNE_SCRIPTS"/prepare.py --recipe {params.recipe:q} --root {params.root:q}'
            " --users {params.users:q} --watch-images {params.watch_images:q}"
            " --samples {params.samples:q} --manifest {params.manifest:q} --hashes {params.hashes:q} --user-log {params.log:q}"
            " {params.folds:q} --log {log:q}"


rule check:
    """Check only the data of all users."""
    input:
        user_manifests(STUDY.all_users),
    localrule: True
    message:
        "The data of all users passed the checks"


rule leakage:
    """Compare the samples of the splits: identical and nearly identical screenshots, questions and answers."""
    input:
        user_manifests(STUDY.all_users),
    output:
        table=file_of(steps.LEAKAGE, "table"),
        manifest=manifest_of(steps.LEAKAGE),
    log:
        log_of(steps.LEAKAGE),
    # No GPU job waits for it, and it must not take their cores.
    priority: 0
    retries: 0
    localrule: True
    conda:
        "../envs/cpu.yaml"
    resources:
        mem_mb=2000,
        runtime="2h",
    params:
        recipe=recipe_of(steps.LEAKAGE),
        samples=lambda wildcards, input: JOB_FILES.lines("samples.txt", input),
        root=STUDY.dataset.root,
        hashes=HASH_STORE,
    message:
        "Comparing the samples of the splits"
    shell:
        'python "$USERTUNE_SCRIPTS"/leakage.py --recipe {params.recipe:q} --samples {params.samples:q}'
        " --root {params.root:q} --hashes {params.hashes:q} --out {output.manifest:q} --log {log:q}"


rule base_model:
    """Look up the base model, and download it if it is a hub name."""
    input:
        base_model_files,
    output:
        manifest_of(steps.BASE_MODEL),
    log:
        log_of(steps.BASE_MODEL),
    # All GPU jobs wait for it.
    priority: 10
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

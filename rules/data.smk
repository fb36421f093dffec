"""From raw data and the base model to small manifests, on the CPU."""


rule prepare:
    message:
        "Checking the samples of user {wildcards.user}"
    input:
        raw_user_file,
    output:
        samples="<results>/data/user_{user}.jsonl",
        manifest="<results>/data/user_{user}.manifest.json",
    params:
        recipe=RECIPES.prepare(),
        root=STUDY.dataset.root,
        images=lambda wildcards: plan.watched_images(STUDY, wildcards.user),
    log:
        "<results>/logs/prepare/user_{user}.log",
    resources:
        mem_mb=1000,
        runtime="30m",
    conda:
        "../envs/cpu.yaml"
    localrule: True
    shell:
        "python {SCRIPTS:q}/prepare.py --recipe {params.recipe:q} --root {params.root:q} --user {wildcards.user:q}"
        " --samples {output.samples:q} --manifest {output.manifest:q} --log {log:q}"


rule base_model:
    message:
        "Looking up the base model"
    input:
        plan.base_model_sources(STUDY),
    output:
        "<results>/base_model/manifest.json",
    params:
        recipe=RECIPES.base_model(),
    log:
        "<results>/logs/base_model.log",
    resources:
        mem_mb=1000,
        runtime="2h",
    conda:
        "../envs/cpu.yaml"
    localrule: True
    shell:
        "python {SCRIPTS:q}/base_model.py --recipe {params.recipe:q} --manifest {output:q} --log {log:q}"

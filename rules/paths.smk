"""Paths of a step's results and log, from the table of steps, with Snakemake's wildcards."""


def manifest_of(step):
    """The manifest of a result; the audit's name contains its settings."""
    return _below_root(step, step.manifest.replace("{settings}", layout.settings_of(RECIPES)))


def file_of(step, name):
    """The file of a result with this name in the table."""
    return _below_root(step, step.files[name])


def files_of(step):
    """All files of a result, its manifest last.

    Rules take inputs from here: with `rules.NAME.output`, Snakemake hashes each complete list of inputs for each file in
    it, which takes minutes for ten thousand users.
    """
    return [file_of(step, name) for name in step.files_of(STUDY)] + [manifest_of(step)]


def log_of(step):
    """The log of a job."""
    return _below_root(step, step.log)


def batch_log_of(step, batch, experiment="{experiment}"):
    """The log of a job that makes the results of several users."""
    return _below_root(step, step.batch_log.replace("{batch}", batch).replace("{experiment}", experiment))


def of_users(path, users, experiment="{experiment}"):
    """A path for each of some users."""
    path = path.replace("{experiment}", experiment)
    return [path.replace("{user}", user) for user in users]


def of_trainings(path, experiment, users):
    """A path for each training on folds of a job: one for each of its users or, with scope pooled, one for all of them."""
    together = [users] if is_pooled(experiment) else [[user] for user in users]
    return expand(path, experiment=experiment, batch=map(batch_label, together))


def log_of_folds(experiment, batch):
    """The log of a job that trains on folds; that of a single training is its own."""
    log = log_of(steps.TRAIN_FOLDS) if is_pooled(experiment) else batch_log_of(steps.TRAIN_FOLDS, "{batch}")
    return log.replace("{batch}", batch).replace("{experiment}", experiment)


def is_pooled(experiment):
    """Whether an experiment is trained on the folds of all test users together."""
    return STUDY.experiments[experiment].scope == "pooled"


def rule_of_batch(step, batch, *experiment):
    """The name of the rule that makes the results of a batch of users, for one experiment if the step has them."""
    return " ".join([step.name, *experiment, "users", batch])


def table_for_report(path):
    """A table, for `snakemake --report` with what it holds; rows of samples are in the page of the comparison."""
    name = Path(path).name
    if Path(path).suffix != ".csv" or name == table_names.SAMPLES:
        return path
    labels = {"table": Path(path).stem, "rows": table_names.DESCRIPTIONS[name]}
    return report(path, category="Tables", labels=labels, caption="captions/table.rst")


def figure_for_report(path):
    """A file of a figure that the report draws; `snakemake --report` has the wide one, as it has other figures."""
    if Path(path).suffix != ".svg" or Path(path).stem not in steps.OF_COSTS:
        return path
    labels = {"figure": Path(path).stem}
    return report(path, category="Figures", labels=labels, caption="captions/cost_figure.rst")


def _below_root(step, path):
    return f"{'<outcomes>' if step.of_comparison else '<results>'}/{path}"

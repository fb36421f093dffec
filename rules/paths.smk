"""Paths of a step's results and log, from the table of steps, with Snakemake's wildcards in them."""


def manifest_of(step):
    """The manifest of a result; that of the audit has its settings in its name."""
    return _below_root(step, step.manifest.replace("{settings}", layout.settings_of(RECIPES)))


def file_of(step, name):
    """The file of a result that the table has under this name."""
    return _below_root(step, step.files[name])


def log_of(step):
    """The log of a job."""
    return _below_root(step, step.log)


def _below_root(step, path):
    return f"{'<outcomes>' if step.of_comparison else '<results>'}/{path}"

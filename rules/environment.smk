"""The Python environment of this workflow and its jobs: the package in this repository, and this interpreter."""

import os
import sys
from pathlib import Path

# Jobs find the package by PYTHONPATH, so an environment of --sdm conda need not contain it. They use the Python that
# runs Snakemake, activated or not, unless such an environment comes first on PATH.
SOURCE = str(Path(workflow.basedir) / "src")
sys.path.insert(0, SOURCE)
for variable, folder in {"PYTHONPATH": SOURCE, "PATH": str(Path(sys.executable).parent)}.items():
    os.environ[variable] = os.pathsep.join(filter(None, [folder, os.environ.get(variable)]))
os.environ.update(USERTUNE_SCRIPTS=str(Path(workflow.basedir) / "scripts"))

from usertune.runtime import environment, large_imports

if said := environment.problem():
    sys.exit(said)
large_imports.collect_rarely()

"""Jobs in a container: the image, and the folders that the jobs must see."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from usertune.core.errors import UserError, shown
from usertune.inference.answers_file import USER_FIELD
from usertune.models.base_folder import is_local
from usertune.models.hub import hub_home
from usertune.study.schema.study import Study

# Apptainer reads variables with both prefixes, SingularityCE only those with the second.
PROGRAMS = ("APPTAINER", "SINGULARITY")
SEPARATORS = ',:"'


def check_container(study: Study) -> None:
    """Check that a study can be run in containers.

    Raises:
        UserError: it names no image, or one that does not exist; or several nodes are to train together.
    """
    build = "build it by: apptainer build usertune.sif envs/usertune.def"
    if study.container is None:
        raise UserError(f"container: the study names no image, and --sdm apptainer needs one; {build}")
    if not Path(study.container).exists():
        raise UserError(f"container: there is no image {study.container}; {build}")
    for name, experiment in study.experiments.items():
        if experiment.nodes > 1:
            raise UserError(
                f"experiments.{name}.nodes: {experiment.nodes} nodes cannot train together in containers, because "
                "srun, which starts the other nodes, is outside; set nodes: 1, or work without --sdm apptainer"
            )


def container_environment(
    study: Study, source: str, folders: Sequence[str], environment: Mapping[str, str]
) -> dict[str, str]:
    """Return the environment variables with which a job in a container finds the package, its data and the hub's cache.

    Every folder is bound under its own name and, for a symbolic link, under the name of its target. Folders that do not
    exist yet are left out, because a container does not start if one is missing.

    Args:
        study: names the dataset, results and base model of the jobs.
        source: the folder of the package; ``PYTHONPATH`` in the container holds only this one, because folders that
            modules of a cluster add belong to another Python.
        folders: further folders to bind.
        environment: the variables that are set now; folders that they bind stay bound.

    Raises:
        UserError: the name of a folder has a character that separates folders.
    """
    hub = str(hub_home(environment))
    wanted = [*folders, study.dataset.root, study.results, hub, tempfile.gettempdir()]
    for experiment in study.experiments.values():
        if experiment.weights is not None:
            wanted.append(str(Path(experiment.weights).expanduser()))
        if experiment.answers is not None:
            # The folder above the first part of the path that has a user in it.
            wanted.append(str(Path(experiment.answers.partition(USER_FIELD)[0] + "_").expanduser().parent))
    if is_local(study.base_model.path):
        wanted.append(str(Path(study.base_model.path).expanduser()))
    bound = next(filter(None, (environment.get(f"{program}_BIND") for program in PROGRAMS)), "")
    binds = list(dict.fromkeys([*filter(None, bound.split(",")), *_outermost(wanted)]))
    return {
        # Snakemake makes the working directory the home of containers, which would change the hub's default.
        "HF_HOME": hub,
        **{f"{program}_BIND": ",".join(binds) for program in PROGRAMS},
        **{f"{program}ENV_PYTHONPATH": source for program in PROGRAMS},
    }


def _outermost(folders: Sequence[str]) -> list[str]:
    """Return the folders that exist and the targets of links, without those inside another one."""
    there = {name for folder in folders if Path(folder).is_dir() for name in _names(folder)}
    for name in sorted(there):
        if set(name) & set(SEPARATORS):
            raise UserError(
                f"{shown(name)} cannot be bound in a container, because its name has one of the characters "
                f"{' '.join(SEPARATORS)}; rename it, or work without --sdm apptainer"
            )
    return sorted(name for name in there if not any(str(parent) in there for parent in Path(name).parents))


def _names(folder: str) -> tuple[str, str]:
    # Not Path.absolute, which keeps "..".
    return os.path.abspath(folder), os.path.realpath(folder)  # noqa: PTH100

"""Jobs in a container: the image they run in, and the folders that they must see there."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from usertune.core.errors import UserError, shown
from usertune.models.base_folder import is_local
from usertune.models.hub import hub_home
from usertune.study.schema.study import Study

# Apptainer reads variables of both names, SingularityCE those of the second; equal values are one setting.
PROGRAMS = ("APPTAINER", "SINGULARITY")
SEPARATORS = ',:"'


def check_container(study: Study) -> None:
    """Check that a study can be run in containers.

    Raises:
        UserError: it names no image, or none that is there; or it wants several nodes to train together.
    """
    build = "build it by: apptainer build usertune.sif envs/usertune.def"
    if study.container is None:
        raise UserError(f"container: the study names no image, and --sdm apptainer asks for one; {build}")
    if not Path(study.container).exists():
        raise UserError(f"container: there is no image {study.container}; {build}")
    for name, experiment in study.experiments.items():
        if experiment.nodes > 1:
            raise UserError(
                f"experiments.{name}.nodes: {experiment.nodes} nodes cannot train together in containers, since srun, "
                "which starts the others, is outside; set nodes: 1, or work without --sdm apptainer"
            )


def container_environment(
    study: Study, source: str, folders: Sequence[str], environment: Mapping[str, str]
) -> dict[str, str]:
    """Return the environment variables that make a job in a container find the package, its data and the hub's cache.

    Every folder is seen under the name it has outside, and under that of what a symbolic link leads to. Folders that
    are not there yet are left out, since a container does not start with a folder that is missing.

    Args:
        study: whose dataset, results and base model the jobs read and write.
        source: the folder that holds the package; the only one that ``PYTHONPATH`` names inside, since those that
            modules of a cluster put there belong to another Python.
        folders: further folders to be seen.
        environment: the variables that are set now; folders that they bind already stay bound.

    Raises:
        UserError: a folder's name holds a character that separates folders.
    """
    hub = str(hub_home(environment))
    wanted = [*folders, study.dataset.root, study.results, hub, tempfile.gettempdir()]
    if is_local(study.base_model.path):
        wanted.append(str(Path(study.base_model.path).expanduser()))
    bound = next(filter(None, (environment.get(f"{program}_BIND") for program in PROGRAMS)), "")
    binds = list(dict.fromkeys([*filter(None, bound.split(",")), *_outermost(wanted)]))
    return {
        # Snakemake gives containers the working directory as home, where the hub's own default would be another one.
        "HF_HOME": hub,
        **{f"{program}_BIND": ",".join(binds) for program in PROGRAMS},
        **{f"{program}ENV_PYTHONPATH": source for program in PROGRAMS},
    }


def _outermost(folders: Sequence[str]) -> list[str]:
    """Return the folders that are there, and what they lead to, without those that lie in another one."""
    there = {name for folder in folders if Path(folder).is_dir() for name in _names(folder)}
    for name in sorted(there):
        if set(name) & set(SEPARATORS):
            raise UserError(
                f"{shown(name)} cannot be shown to a container, since its name holds one of the characters "
                f"{' '.join(SEPARATORS)}; rename it, or work without --sdm apptainer"
            )
    return sorted(name for name in there if not any(str(parent) in there for parent in Path(name).parents))


def _names(folder: str) -> tuple[str, str]:
    # Not Path.absolute, which keeps "..".
    return os.path.abspath(folder), os.path.realpath(folder)  # noqa: PTH100

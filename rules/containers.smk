"""Containers: the image of all rules, and the host folders that its jobs see."""

import os

from snakemake.exceptions import WorkflowError
from snakemake.settings.types import DeploymentMethod

from usertune.cluster.container import check_container, container_environment
from usertune.core.errors import UserError
from usertune.models.hub import hub_home

IN_CONTAINERS = DeploymentMethod.APPTAINER in workflow.deployment_settings.deployment_method

if IN_CONTAINERS:
    try:
        check_container(STUDY)
    except UserError as error:
        refuse(error)

    container: STUDY.container


def show_folders_to_containers(make_cache=False):
    """Mount the repository, data, results, base model and the hub's cache in containers."""
    if not IN_CONTAINERS:
        return
    if make_cache:
        hub_home(os.environ).mkdir(parents=True, exist_ok=True)
    try:
        os.environ.update(container_environment(STUDY, SOURCE, [str(workflow.basedir), os.getcwd()], os.environ))
    except UserError as error:
        raise WorkflowError(str(error)) from None


show_folders_to_containers()

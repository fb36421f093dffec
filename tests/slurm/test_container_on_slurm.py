"""Jobs in a container on a cluster, with both profiles; on the stand-in for Apptainer."""

from __future__ import annotations

from pathlib import Path

from tests.slurm.conftest import SLURM_PROFILE
from tests.support.contained import CONTAINER_PROFILE, contain, results, starts
from tests.support.stand_in_apptainer import PYTHON_STARTS
from tests.support.workplace import Workplace


def test_submitted_jobs_and_those_of_the_login_node_run_in_the_container(workplace: Workplace, tmp_path: Path) -> None:
    contain(workplace, tmp_path)
    workplace.options = (*CONTAINER_PROFILE, *SLURM_PROFILE)
    output = workplace.run("vanilla", timeout=400)
    assert "has been submitted with SLURM jobid" in output
    programs = [Path(line.split()[0]).name for line in (workplace.folder / PYTHON_STARTS).read_text().splitlines()]
    assert sorted(programs) == ["base_model.py", "predict.py", "prepare.py", "score.py"]
    needed = {
        str(workplace.repository),
        str(workplace.folder),
        str(results(workplace)),
        f"{tmp_path}/hub",
        f"{tmp_path}/elsewhere/data",
    }
    for start in starts(workplace):
        assert start["image"] == f"{tmp_path}/usertune.sif"
        assert start["nv"]
        assert needed <= set(start["binds"])

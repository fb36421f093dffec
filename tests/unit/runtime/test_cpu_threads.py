from __future__ import annotations

import os
import subprocess
import sys

import pytest

from usertune.runtime.cpu_threads import WAITING, threads_of_each, wait_asleep

# What every program in scripts/ does: torch is imported by main, or by what main calls.
PROGRAM = """
from usertune.runtime import step_main
def main(arguments):
    import torch
    print(torch.get_num_threads())
step_main.run(step_main.argument_parser("imports torch"), main)
"""


@pytest.mark.parametrize(("said", "policy"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")])
def test_the_openmp_library_of_a_program_has_the_wait_policy(said: dict[str, str], policy: str) -> None:
    kept = {name: value for name, value in os.environ.items() if name not in WAITING}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env={**kept, **said, "OMP_DISPLAY_ENV": "TRUE"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    # The library prints its settings when torch loads it.
    assert f"OMP_WAIT_POLICY = '{policy}'" in done.stderr


@pytest.mark.parametrize("name", WAITING)
def test_the_persons_choice_is_kept(name: str) -> None:
    environment = {name: "100"}
    wait_asleep(environment)
    assert environment == {name: "100"}


def test_each_variable_is_kept_where_it_is_smaller() -> None:
    given = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "16"}
    assert threads_of_each(16, 4, given) == {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "4"}

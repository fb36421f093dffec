from __future__ import annotations

import os
import subprocess
import sys

import pytest

from usertune.runtime.cpu_threads import WAIT_SETTINGS, limit_spinning, threads_of_each

# What every program in scripts/ does: torch is imported by main, or by what main calls.
PROGRAM = """
from usertune.runtime import step_main
def main(arguments):
    import torch
    print(torch.get_num_threads())
step_main.run(step_main.argument_parser("imports torch"), main)
"""


@pytest.mark.parametrize(
    ("given", "spins"),
    [({}, "30000"), ({"OMP_WAIT_POLICY": "PASSIVE"}, "0"), ({"GOMP_SPINCOUNT": "7"}, "7")],
    ids=["default", "policy", "spins"],
)
def test_the_openmp_library_of_a_program_spins_briefly_unless_the_user_says_how_it_waits(
    given: dict[str, str], spins: str
) -> None:
    kept = {name: value for name, value in os.environ.items() if name not in WAIT_SETTINGS}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**kept, **given, "OMP_DISPLAY_ENV": "VERBOSE"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    # The library prints its settings when torch loads it.
    assert f"GOMP_SPINCOUNT = '{spins}'" in done.stderr


def test_other_openmp_libraries_sleep_at_once() -> None:
    environment: dict[str, str] = {}
    limit_spinning(environment)
    assert environment["OMP_WAIT_POLICY"] == "PASSIVE"


@pytest.mark.parametrize("name", WAIT_SETTINGS)
def test_the_users_choice_is_kept(name: str) -> None:
    environment = {name: "100"}
    limit_spinning(environment)
    assert environment == {name: "100"}


def test_each_variable_is_kept_where_it_is_smaller() -> None:
    given = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "16"}
    assert threads_of_each(16, 4, given) == {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "4"}

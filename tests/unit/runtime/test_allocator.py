"""Freed memory returns to the system, unless the environment says otherwise."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Callable

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries need no such setting")

# Blocks as large as those of a model's layers, with something smaller after each of them, which stays.
FREED = """
import json, sys
from pathlib import Path
from usertune.runtime.memory import return_freed_memory
if json.loads(sys.argv.pop()):
    return_freed_memory()
# From now on, glibc would put blocks of this size into the heap.
large = b"x" * (30 << 20)
del large
small = []
for _ in range(2):
    blocks = []
    for _ in range(20):
        blocks.append(b"x" * (16 << 20))
        small.append(bytearray(200_000))
    del blocks
pages = int(Path("/proc/self/statm").read_text().split()[1])
print(pages * 4096)
"""


def held(run_python: Callable[..., subprocess.Popen[str]], returned: bool, **environment: str) -> int:
    output, error = run_python(FREED, returned, **environment).communicate()
    assert not error
    return int(output)


def test_freed_blocks_return_to_the_system(run_python: Callable[..., subprocess.Popen[str]]) -> None:
    assert held(run_python, returned=False) > 300 << 20
    assert held(run_python, returned=True) < 60 << 20


@pytest.mark.parametrize(
    "own", [{"MALLOC_MMAP_THRESHOLD_": "33554432"}, {"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=33554432"}]
)
def test_a_size_in_the_environment_stays(run_python: Callable[..., subprocess.Popen[str]], own: dict[str, str]) -> None:
    assert held(run_python, returned=True, **own) > 300 << 20

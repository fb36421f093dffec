"""What a study needs is at the head of a dry run, and a training that cannot fit ends a run before its first job."""

from __future__ import annotations

import re

import pytest

from tests.support.forked_snakemake import run_each
from tests.support.workplace import SNAKEMAKE, Workplace

pytestmark = pytest.mark.workflow


def test_a_dry_run_shows_what_a_study_needs_and_a_run_refuses_what_cannot_fit(workplace: Workplace) -> None:
    workplace.replace("  warmup_steps: 1", "  warmup_steps: 0")
    workplace.replace("  batch_size: 4\n  micro_batch_size: 4", "  batch_size: 160\n  micro_batch_size: 160")
    workplace.study.write_text(workplace.study.read_text() + "gpu_memory_gb: 0.785\n")
    runs = [workplace.command("-n")[len(SNAKEMAKE) :], workplace.command()[len(SNAKEMAKE) :]]
    shown, refused = run_each(runs, workplace.folder, workplace.run_environment)
    assert shown[0] == 0, shown[1]
    for line in (
        "GPU memory: 803.8 MiB (gpu_memory_gb of the study)",
        "Tokens of the training samples: not prepared yet; assumed 1,480 for each of at most 15 ",
        "  lora: trains 12.3 k of ",
        "    learning rate reaches 4e-3 after 0 of 1 steps",
        "Warning: training of lora does not fit into memory",
    ):
        assert line in shown[1], shown[1]
    # Assumed lengths refuse nothing; those in the headers of the images do.
    assert "This will be refused" not in shown[1]
    assert refused[0] == 1
    assert "Traceback" not in refused[1]
    for name in ("lora", "full"):
        assert f"experiments.{name}: training of {name} needs about " in refused[1], refused[1]
    there = re.escape("and there are 803.8 MiB (gpu_memory_gb of the study); the smallest change that fits: ")
    assert len(re.findall(there + "(?:micro_batch_size: [0-9]|gradient_checkpointing: true)", refused[1])) == 2, (
        refused[1]
    )
    assert not workplace.results.exists()

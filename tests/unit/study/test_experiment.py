"""What a study works out from its settings."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from usertune.study.schema.experiment import Experiment


@pytest.mark.parametrize(
    ("settings", "processes", "strategy"),
    [
        ({"mode": "full"}, 1, "ddp"),
        ({"mode": "full", "gpus": 2}, 2, "fsdp"),
        ({"mode": "full", "nodes": 2, "gpus": 4}, 8, "fsdp"),
        ({"mode": "full", "gpus": 2, "parallel": "ddp"}, 2, "ddp"),
        ({"mode": "lora", "gpus": 2}, 2, "ddp"),
    ],
)
def test_full_fine_tuning_on_several_gpus_is_sharded_and_adapters_are_not(
    settings: dict[str, object], processes: int, strategy: str
) -> None:
    experiment = Experiment.model_validate(settings)
    assert (experiment.processes, experiment.strategy) == (processes, strategy)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "vanilla", "gpus": 2}, "an experiment of mode vanilla is not trained; remove gpus"),
        ({"mode": "vanilla", "nodes": 2, "parallel": "ddp"}, "remove nodes, parallel"),
        ({"mode": "lora", "gpus": 2, "parallel": "fsdp"}, "parallel: fsdp is only for mode full"),
        (
            {"mode": "full", "gpus": 2, "nodes": 3, "training": {"batch_size": 8, "micro_batch_size": 2}},
            "training.batch_size (8) must be a multiple of training.micro_batch_size x gpus x nodes (2 x 2 x 3)",
        ),
        ({"mode": "full", "gpus": 0}, "greater than or equal to 1"),
    ],
)
def test_settings_that_do_not_go_together(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError) as refused:
        Experiment.model_validate(settings)
    assert message in str(refused.value)

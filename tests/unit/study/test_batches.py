"""How a study cuts its users into the batches that jobs take."""

from __future__ import annotations

from usertune.core.users import batch_label
from usertune.study.schema.study import Study


def test_a_batch_of_data_lies_in_one_split_and_one_batch_of_predictions() -> None:
    study = Study.model_validate(
        {
            "name": "batches",
            "dataset": {"root": "data", "users_per_job": 3},
            "users": {"train": "11-17", "validation": "20", "test": "1-6"},
            "base_model": {"path": "base"},
            "experiments": {"vanilla": {"mode": "vanilla"}},
            "evaluation": {"users_per_job": 4},
        }
    )
    labels = [batch_label(users) for users in study.data_batches]
    assert labels == ["11-13", "14-16", "17", "20", "1-3", "4", "5-6"]
    assert [user for users in study.data_batches for user in users] == list(study.all_users)

"""The section `users`: the users of each split."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema, model_validator

from usertune.core.errors import UserError
from usertune.core.users import parse_users
from usertune.study.files import SPLITS
from usertune.study.schema.base import ConfigModel


def _users(value: Any) -> tuple[str, ...]:
    try:
        return tuple(parse_users(value))
    except UserError as error:
        raise ValueError(str(error)) from None


UserList = Annotated[
    tuple[str, ...],
    BeforeValidator(_users),
    WithJsonSchema({"type": ["string", "integer", "array"], "items": {"type": ["string", "integer"]}}),
]


class Users(ConfigModel):
    """The users of each split."""

    train: UserList = ()
    """Users for training."""
    validation: UserList = ()
    """Users for the validation loss; choose settings on these."""
    test: UserList
    """Users for the evaluation of all experiments."""

    @model_validator(mode="after")
    def _check(self) -> Users:
        if not self.test:
            raise ValueError("test: at least one user is needed")
        owner: dict[str, str] = {}
        for split in SPLITS:
            for user in getattr(self, split):
                if user in owner:
                    raise ValueError(f"user {user} is in both {owner[user]} and {split}; splits must not overlap")
                owner[user] = split
        return self

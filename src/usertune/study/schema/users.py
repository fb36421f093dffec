"""The section `users`: the users of each split, as lists; `usertune.study.splits` makes lists of shares and files."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

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
    """The users of each split.

    A split is a list of numbers, ranges and names (1-3,7,alice), a share of the users that no list names (80 %), rest,
    or a file with one id a line ("@ids.txt").
    """

    train: UserList = ()
    """Users for training."""
    validation: UserList = ()
    """Users for the validation loss; choose settings on these."""
    test: UserList
    """Users for the evaluation of all experiments."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seed by which shares are drawn. It has no effect on lists."""

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

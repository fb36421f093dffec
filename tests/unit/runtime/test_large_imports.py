"""Large imports: no collection within, and none of what they hold afterwards."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from usertune.runtime import large_imports as module
from usertune.runtime.large_imports import collect_rarely, large_imports


@pytest.fixture(autouse=True)
def unfrozen(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(module, "_is_frozen", False)
    gc.unfreeze()
    yield
    gc.unfreeze()
    gc.enable()


class Held:
    """Part of a reference cycle."""

    def __init__(self) -> None:
        self.itself = self


def alive() -> int:
    return sum(isinstance(one, Held) for one in gc.get_objects())


def test_nothing_is_collected_within() -> None:
    with large_imports():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_what_the_first_block_made_is_not_looked_at_again() -> None:
    with large_imports():
        made = [[number] for number in range(1000)]
    frozen = gc.get_freeze_count()
    assert frozen > len(made)
    with large_imports():
        later = [[number] for number in range(1000)]
    assert gc.get_freeze_count() <= frozen
    assert later


def test_garbage_of_later_is_collected() -> None:
    gc.collect()
    before = alive()
    with large_imports():
        pass
    Held()
    with large_imports():
        pass
    assert alive() == before + 1
    gc.collect()
    assert alive() == before


def test_rare_collections_of_a_program_end_before_tensors_are_made() -> None:
    before = gc.get_threshold()
    collect_rarely()
    assert gc.get_threshold() > before
    with large_imports():
        pass
    assert gc.get_threshold() == before


def test_a_failed_import_leaves_the_collector_on() -> None:
    with pytest.raises(ModuleNotFoundError), large_imports():
        import usertune.no_such_module  # noqa: F401
    assert gc.isenabled()


def test_a_collector_that_was_off_stays_off() -> None:
    gc.disable()
    with large_imports():
        pass
    assert not gc.isenabled()

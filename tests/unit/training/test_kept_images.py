"""Images that are kept between epochs: equal losses and weights, and no file is opened again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.calls import NO_LIMITS
from tests.support.fine_tuning import fine_tuning, losses_of, same_weights, train_and_read
from tests.unit.conftest import BASE, Prepared
from usertune.models import conversation, image_memory
from usertune.models.conversation import Collator, ConversationTokenizer
from usertune.models.families.catalogue import family_of
from usertune.models.image_memory import IMAGES, ImageMemory
from usertune.models.loading import load_model, load_processor
from usertune.models.reused import ReusedModel
from usertune.training import kept_images
from usertune.training.finetune import fine_tune
from usertune.training.inputs import FineTuning
from usertune.training.processes import Processes

TWO_IMAGES_GIB = 60_000 / 2**30


def _with_memory(run: FineTuning, image_memory: Any = "auto", **more: Any) -> FineTuning:
    return replace(run, execution=run.execution.model_copy(update={"image_memory": image_memory, **more}))


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The images that this process opened."""
    paths: list[str] = []
    original = conversation.load_image

    def load_image(root: Path, image: Any) -> Any:
        paths.append(image["path"])
        return original(root, image)

    monkeypatch.setattr(conversation, "load_image", load_image)
    return paths


@pytest.mark.parametrize("mode", ["lora", "full"])
def test_images_are_opened_in_the_first_epoch_and_losses_stay_the_same(
    prepared: Prepared, tmp_path: Path, opened: list[str], mode: str
) -> None:
    run = fine_tuning(prepared, mode, epochs=3, validate_every_steps=1)
    samples = [*run.train_samples, *run.validation_samples]
    table, weights = train_and_read(_with_memory(run, 0.0), tmp_path / "none")
    assert len(opened) > 3 * len(samples)
    opened.clear()
    kept_table, kept_weights = train_and_read(_with_memory(run), tmp_path / "kept")
    # Samples that share an image may be in one step, whose batches are made before the first is computed.
    assert len(opened) <= len(samples)
    assert set(opened) == {image["path"] for sample in samples for image in sample["images"]}
    for split in ("train", "validation"):
        assert losses_of(kept_table, split) == pytest.approx(losses_of(table, split), rel=2e-6)
    for name, value in weights.items():
        torch.testing.assert_close(kept_weights[name], value, rtol=0, atol=1e-5)


def test_how_much_fits_and_who_loads_changes_no_bit(prepared: Prepared, tmp_path: Path) -> None:
    run = fine_tuning(prepared, epochs=2)
    measured = fine_tune(_with_memory(run, TWO_IMAGES_GIB), tmp_path / "w", tmp_path / "o", tmp_path / "l.csv")
    assert 0 < measured["images_kept"] < len(run.train_samples)
    assert 0 < measured["image_memory_bytes"] <= 60_000
    assert [way["image_memory"] for way in measured["computed_with"]] == ["features"]
    weights = [
        train_and_read(_with_memory(run, memory, dataloader_num_workers=workers), tmp_path / f"{memory}{workers}")[1]
        for memory, workers in ((TWO_IMAGES_GIB, 0), ("auto", 0), ("auto", 2))
    ]
    assert same_weights(weights[0], weights[1])
    assert same_weights(weights[0], weights[2])


def test_a_trained_vision_tower_gets_patches_and_changes_no_bit(
    prepared: Prepared, tmp_path: Path, opened: list[str]
) -> None:
    run = fine_tuning(prepared, "full", epochs=2, freeze={"vision": False, "merger": False})
    _, weights = train_and_read(_with_memory(run, 0.0), tmp_path / "none")
    opened.clear()
    _, kept = train_and_read(_with_memory(run), tmp_path / "kept")
    assert len(opened) <= len(run.train_samples) + len(run.validation_samples)
    assert same_weights(weights, kept)


def test_what_is_kept_depends_on_the_training(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_memory, "free_memory", lambda: 8 << 30)
    model, family = load_model(BASE, "float32"), family_of(BASE)

    def memory(run: FineTuning) -> ImageMemory | None:
        return kept_images.image_memory(run, model, family)

    twice = _with_memory(fine_tuning(prepared, epochs=2))
    kept = memory(twice)
    assert kept is not None
    assert (kept.kind, kept.most_bytes) == ("features", 2 << 30)
    assert memory(_with_memory(twice, 0.0)) is None
    once = _with_memory(fine_tuning(prepared, epochs=1))
    assert memory(replace(once, validation_samples=[])) is None
    several = memory(replace(twice, processes=Processes(nproc_per_node=2)))
    assert several is not None
    assert (several.kind, several.most_bytes) == ("patches", 1 << 30)
    reused = ReusedModel(lambda: model)
    shared = memory(replace(once, validation_samples=[], reused=reused))
    assert shared is not None
    assert memory(replace(once, reused=reused)) is shared


def test_a_batch_that_was_made_ahead_is_not_computed_again(prepared: Prepared) -> None:
    conversations = ConversationTokenizer(load_processor(BASE, NO_LIMITS), family_of(BASE))
    samples = [*{sample["images"][0]["path"]: sample for sample in prepared.samples("11")}.values()][:2]
    pairs = [(sample, conversations.conversation(sample)) for sample in [*samples, samples[0]]]
    model = load_model(BASE, "float32")
    memory = ImageMemory(family_of(BASE), model, 1 << 30, features=True)
    collator = Collator(conversations, prepared.root)
    ahead = collator.training_batch(pairs, memory.grids)
    assert len(ahead[IMAGES].opened) == 2
    first = memory.complete(model, ahead)
    model.get_image_features = None
    again = memory.complete(model, ahead)
    known = memory.complete(model, collator.training_batch(pairs, memory.grids))
    for inputs in (again, known):
        assert inputs.keys() == first.keys() - {"pixel_values"}
        for got, expected in zip(
            inputs["mm_encoder_outputs"]["image"].pooler_output,
            first["mm_encoder_outputs"]["image"].pooler_output,
            strict=True,
        ):
            assert torch.equal(got, expected)

"""What groups of samples have in common is found and counted: screenshots, almost the same ones, questions."""

from __future__ import annotations

import csv
import io
import json
import random
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw, ImageFont

from tests.support.calls import prepare_one
from usertune.core.errors import UserError
from usertune.core.manifest import read_manifest
from usertune.data.folds import FoldSettings, folds_of
from usertune.data.leakage import Seen, fold_overlaps, in_words, overlaps, pooled_overlap
from usertune.data.measure_leakage import hashes_of, measure_leakage
from usertune.data.perceptual_hash import METHOD, HashStore, perceptual_hash
from usertune.data.prepare import Shared, prepare_user
from usertune.data.recipe import LeakageRecipe, PrepareRecipe
from usertune.data.samples import read_user

SIZE = (360, 780)
WORDS = ("river", "stone", "market", "yellow", "quiet", "engine", "paper", "window", "garden", "silver", "coffee")
FONT = ImageFont.load_default(size=26)
SPLITS = {"train": "11-12", "validation": "", "test": "1"}


def page(seed: str, clock: str, size: tuple[int, int] = SIZE) -> Image.Image:
    """Draw a page of an app: a status bar with a clock, and a list of entries that the seed decides."""
    chance = random.Random(seed)
    image = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(image)
    draw.text((30, 10), clock, "black", FONT)
    draw.text((size[0] - 130, 10), f"5G {random.Random(clock).randint(10, 99)}%", "black", FONT)
    draw.text((24, 60), "Messages", "black", ImageFont.load_default(size=44))
    for top in range(140, size[1] - 80, 96):
        colour = tuple(chance.randint(60, 230) for _ in range(3))
        draw.ellipse((24, top, 94, top + 70), fill=colour)
        draw.text((110, top), " ".join(chance.sample(WORDS, 2)), "black", FONT)
        draw.text((110, top + 36), " ".join(chance.sample(WORDS, chance.randint(2, 5))), "gray", FONT)
    return image


def bits(one: Image.Image, other: Image.Image) -> int:
    first, second = perceptual_hash(one), perceptual_hash(other)
    assert first is not None
    assert second is not None
    return (int(first, 16) ^ int(second, 16)).bit_count()


def as_jpeg(image: Image.Image, quality: int) -> Image.Image:
    content = io.BytesIO()
    image.save(content, "JPEG", quality=quality)
    return Image.open(io.BytesIO(content.getvalue())).convert("RGB")


def test_one_page_at_another_time_and_encoded_again_is_near_and_other_pages_of_the_app_are_not() -> None:
    within = LeakageRecipe(step="leakage", splits={}).within
    pages = [page(seed, "09:41") for seed in "abc"]
    for seed, one in zip("abc", pages, strict=True):
        for other in (
            page(seed, "18:07"),
            as_jpeg(one, 60),
            as_jpeg(page(seed, "23:59"), 70),
            one.resize((270, 585)),
        ):
            assert bits(one, other) <= within
        for other in pages:
            assert other is one or bits(one, other) > within + 8


def test_an_image_of_one_colour_has_no_hash() -> None:
    assert perceptual_hash(Image.new("RGB", (90, 180), "teal")) is None
    assert perceptual_hash(Image.new("RGB", (1, 1), "teal")) is None
    narrow = Image.new("RGB", (1, 150), "white")
    narrow.paste("black", (0, 0, 1, 70))
    assert perceptual_hash(narrow) is not None


def sample(user: str, name: str, *images: str, pair: str = "") -> Seen:
    return Seen(user, name, images, tuple(f"{image}.png" for image in images), pair or f"of {user} {name}")


def test_counts_of_one_pair_of_groups() -> None:
    near = "0" * 63 + "7"
    hashes = {"a": "0" * 64, "b": "f" * 64, "c": near, "d": "0f" * 32, "e": None}
    train = [sample("11", "1", "a", pair="p"), sample("11", "2", "b"), sample("12", "3", "e")]
    test = [
        sample("1", "1", "a", pair="p"),
        sample("1", "2", "a"),
        sample("1", "3", "c"),
        sample("1", "4", "d", pair="p"),
        sample("1", "5"),
        sample("1", "6", "d", "c"),
        sample("1", "7", "c", "a"),
    ]
    (found,) = overlaps({"train": train, "test": test}, hashes, 3)
    assert (found.samples, found.screenshots) == (7, 3)
    assert (found.identical_screenshots, found.near_identical_screenshots, found.identical_pairs) == (1, 1, 1)
    assert found.samples_with_identical_screenshot == 3
    assert found.samples_with_near_identical_screenshot == 2
    assert found.samples_with_identical_pair == 2
    assert found.samples_repeated == 1
    assert (found.affected, found.share) == (5, 5 / 7)
    kinds = [example["kind"] for example in found.examples]
    assert kinds == ["identical", "near-identical", "question and answer"]
    assert found.examples[1] == {
        "kind": "near-identical",
        "bits": 3,
        "later": {"user": "1", "id": "3", "image": "c.png"},
        "earlier": {"user": "11", "id": "1", "image": "a.png"},
    }
    (nothing,) = overlaps({"train": train, "test": test}, hashes, 2)
    assert nothing.near_identical_screenshots == 0


def test_any_named_groups_are_compared_each_with_all_before_it() -> None:
    folds = {f"fold {fold}": [sample("1", f"{fold}", f"{fold % 2}")] for fold in range(3)}
    found = overlaps(folds, {}, 10)
    assert [(item.earlier, item.later, item.affected) for item in found] == [
        ("fold 0", "fold 1", 0),
        ("fold 0", "fold 2", 1),
        ("fold 1", "fold 2", 0),
    ]
    assert [item.any for item in found] == [False, True, False]
    assert overlaps({"train": [], "test": folds["fold 1"]}, {}, 10)[0].any is False
    assert overlaps({"train": folds["fold 1"], "test": []}, {}, 10)[0].share == 0


def test_each_fold_is_compared_with_the_other_folds_of_its_user_alone() -> None:
    """User 1: "a" in folds 1 and 2, "c" near to "b"; user 2 shares "a" with user 1, but nothing between folds."""
    hashes = {"a": "0" * 64, "b": "f" * 64, "c": "f" * 63 + "7", "d": "0f" * 32}
    users = {
        "1": [
            sample("1", "w", "a", pair="p"),
            sample("1", "x", "a", pair="p"),
            sample("1", "y", "b"),
            sample("1", "z", "c"),
        ],
        "2": [sample("2", "w", "a", pair="p"), sample("2", "x", "d")],
    }
    folds = {"1": {"w": 1, "x": 2, "y": 3, "z": 1}, "2": {"w": 1, "x": 2}}
    total, first, second = fold_overlaps(users, folds, hashes, 3)
    assert (first.earlier, first.later, second.later) == (
        "other folds of the user",
        "each fold of user 1",
        "each fold of user 2",
    )
    # w and x show the same screenshot; y and z nearly the same.
    assert (first.samples, first.affected, first.share) == (4, 4, 1)
    assert (first.samples_with_identical_screenshot, first.samples_with_near_identical_screenshot) == (2, 2)
    # "a" is counted in both of its folds.
    assert (first.identical_screenshots, first.near_identical_screenshots, first.identical_pairs) == (2, 2, 2)
    assert first.samples_repeated == 2
    assert (second.samples, second.any, second.share) == (2, False, 0)
    assert (total.later, total.samples, total.affected) == ("each fold of all test users", 6, 4)
    assert total.share == 4 / 6
    assert len(total.examples) == 3
    assert in_words(asdict(first)) == (
        "each fold of user 1 and other folds of the user: 2 identical and 2 nearly identical screenshots, 2 identical "
        "questions and answers; 4 of 4 samples are affected"
    )
    # Pooled weights are also trained on the other folds of other users: "a" of user 2 is in the first fold of user 1.
    pooled = pooled_overlap(users, folds, hashes, 3)
    assert (pooled.earlier, pooled.later) == ("other folds of all test users", "each fold of all test users")
    assert (pooled.samples, pooled.affected, pooled.samples_with_identical_screenshot) == (6, 5, 3)
    assert in_words(asdict(pooled)).endswith("; 5 of 6 samples are affected")


class Data:
    """Raw data of some users, prepared with or without perceptual hashes."""

    def __init__(self, root: Path) -> None:
        self.root, self.store = root, HashStore(root / "hashes")
        self.out = root / "out/leakage.json"
        self.manifests: list[Path] = []

    def add(self, user: str, *samples: tuple[str, Image.Image | bytes | None], hashed: bool = True) -> None:
        """Write samples, each an instruction and an image (or its bytes), and prepare them."""
        lines = []
        for number, (text, image) in enumerate(samples):
            content: list[dict[str, str]] = [{"type": "text", "text": text}]
            name = f"{user}_{number}.png"
            if isinstance(image, bytes):
                (self.root / name).write_bytes(image)
            elif image is not None:
                image.save(self.root / name)
            if image is not None:
                content.insert(0, {"type": "image", "image": name})
            turns = [
                {"role": "user", "content": content},
                {"role": "assistant", "content": "```grounding\n[5, 6]\n```"},
            ]
            lines.append(json.dumps({"id": f"{number}", "messages": turns}))
        (self.root / f"user_{user}.jsonl").write_text("\n".join(lines))
        manifest = self.root / f"out/user_{user}.manifest.json"
        recipe = PrepareRecipe(step="prepare", task="grounding")
        files = (self.root / f"out/user_{user}.jsonl", manifest)
        prepare_user(recipe, self.root, user, *files, shared=Shared(hashes=self.store if hashed else None))
        self.manifests.append(manifest)

    def measure(self, splits: dict[str, str] | None = None, **keys: Any) -> dict[str, Any]:
        # As the workflow passes it: canonical JSON, in which test comes before train.
        recipe = LeakageRecipe.parse(LeakageRecipe(step="leakage", splits=splits or SPLITS, **keys).text())
        measure_leakage(recipe, self.manifests, self.root, self.store.folder, self.out)
        return read_manifest(self.out)


def content(image: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", **options)
    return file.getvalue()


@pytest.fixture
def data(tmp_path: Path) -> Data:
    """Four test samples: of three the screenshot is planted among the training users', in three ways."""
    found = Data(tmp_path)
    planted = [page(seed, "09:41") for seed in "abc"]
    found.add("11", ("one", planted[0]), ("two", planted[1]), ("three", None))
    found.add("12", ("four", planted[2]), ("five", page("d", "10:00")), hashed=False)
    found.add(
        "1",
        ("six", (tmp_path / "11_0.png").read_bytes()),
        ("two", content(planted[1], quality=70)),
        ("seven", page("c", "18:07")),
        ("eight", page("e", "09:41")),
        ("three", None),
    )
    return found


@pytest.mark.parametrize("kept", [True, False])
def test_planted_screenshots_and_questions_are_found_with_and_without_stored_hashes(data: Data, kept: bool) -> None:
    if not kept:
        for path in data.store.folder.iterdir():
            path.unlink()
    manifest = data.measure()
    (found,) = manifest["overlaps"]
    assert (found["earlier"], found["later"], found["samples"]) == ("train", "test", 5)
    assert (found["identical_screenshots"], found["near_identical_screenshots"]) == (1, 2)
    assert (found["identical_pairs"], found["samples_repeated"], found["affected"]) == (2, 0, 3)
    images = {example["later"]["image"]: example["earlier"]["image"] for example in found["examples"][:3]}
    assert images == {"1_0.png": "11_0.png", "1_1.png": "11_1.png", "1_2.png": "12_0.png"}
    (row,) = csv.DictReader(data.out.with_suffix(".csv").read_text().splitlines())
    assert (row["later"], row["affected"], row["share"]) == ("test", "3", "0.6")
    assert manifest["unreadable"] == 0
    assert set(manifest["inputs"]["train"]) == {"11", "12"}
    # Every image is in the store now, and none is decoded again.
    for path in data.root.glob("*_*.png"):
        path.unlink()
    assert data.measure()["overlaps"] == manifest["overlaps"]


def test_preparing_with_and_without_hashes_gives_the_same_samples(data: Data, tmp_path: Path) -> None:
    with_hashes = (tmp_path / "out/user_1.jsonl").read_bytes()
    prepare_one(tmp_path, "1", tmp_path / "other/user_1.jsonl", tmp_path / "other/user_1.manifest.json")
    assert (tmp_path / "other/user_1.jsonl").read_bytes() == with_hashes
    stored = data.store.read("1")
    images = {image["sha256"] for line in with_hashes.splitlines() for image in json.loads(line)["images"]}
    assert set(stored) == images


def test_a_damaged_store_is_as_good_as_none(data: Data) -> None:
    expected = data.measure()["overlaps"]
    file = data.store.folder / "user_1.json"
    before = file.read_text()
    for text in ("", "{}", "[]", '{"method": "phash 16x16", "hashes": {"a": "b"}}', "\0" * 10, before[:-9]):
        file.write_text(text)
        assert data.store.read("1") == {}
    assert data.measure()["overlaps"] == expected
    assert file.read_text() == before


def test_hashes_of_another_method_are_not_used(data: Data) -> None:
    file = data.store.folder / "user_1.json"
    file.write_text(file.read_text().replace(METHOD, "phash 8x8"))
    assert data.store.read("1") == {}


def test_an_image_that_cannot_be_read_any_more_is_compared_by_its_bytes_and_counted(data: Data) -> None:
    (data.store.folder / "user_1.json").unlink()
    (data.root / "1_0.png").unlink()
    (data.root / "1_2.png").write_bytes(b"changed")
    manifest = data.measure()
    (found,) = manifest["overlaps"]
    assert (found["identical_screenshots"], found["near_identical_screenshots"]) == (1, 1)
    assert manifest["unreadable"] == 2
    _, samples = read_user(data.manifests[-1])
    assert hashes_of("1", samples, data.root, data.store)[1] == 2


def test_users_are_those_of_the_recipe(data: Data) -> None:
    with pytest.raises(UserError, match="user 12 is in no split of the study"):
        data.measure({"train": "11", "test": "1"})
    with pytest.raises(UserError, match="the prepared samples of user 13 were not given"):
        data.measure({"train": "11-13", "test": "1"})
    assert not data.out.exists()


def test_folds_of_test_users_are_compared_too_and_too_few_samples_are_refused(tmp_path: Path) -> None:
    data, same = Data(tmp_path), page("a", "12:00")
    data.add("11", ("nine", page("c", "9:00")), ("ten", same))
    images = [same, same, page("b", "12:00"), same, page("d", "12:00")]
    data.add("1", *((f"question {number}", image) for number, image in enumerate(images)))
    folds = FoldSettings(count=2, by="episode", seed=0)
    splits = {"train": "11", "test": "1"}
    manifest = data.measure(splits, folds=folds)
    fold_of = folds_of(read_user(data.manifests[-1])[1], folds)
    # The samples 0, 1 and 3 show the same screenshot, and not all of them are in one fold.
    assert len({fold_of[name] for name in "013"}) == 2
    total, own = manifest["folds"]
    assert (total["samples"], total["samples_with_identical_screenshot"], total["share"]) == (5, 3, 0.6)
    assert {**total, "later": own["later"]} == own
    with data.out.with_suffix(".csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["later"] for row in rows] == ["test", "each fold of all test users", "each fold of user 1"]
    assert "folds" not in data.measure(splits)
    # With one user, the folds of all users are those of this user.
    *_, pooled = data.measure(splits, folds=folds, pooled=True)["folds"]
    assert pooled == {**total, "earlier": "other folds of all test users"}
    with pytest.raises(UserError, match=r"user 1 has 5 episodes, which is too few for 99 folds"):
        data.measure(splits, folds=folds.model_copy(update={"count": 99}))


def test_a_study_with_one_split_has_no_pair(tmp_path: Path) -> None:
    data = Data(tmp_path)
    data.add("1", ("one", None))
    assert data.measure({"train": "", "validation": "", "test": "1"})["overlaps"] == []

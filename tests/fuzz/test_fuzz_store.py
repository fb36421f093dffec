"""Whatever happens to the store's files, only what was stored comes back."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.mutations import changed_bytes
from usertune.inference.prediction_store import Prediction, PredictionStore

USER = "7"
REQUESTS = st.text("0123456789abcdef", min_size=1, max_size=64)
PREDICTIONS = st.dictionaries(REQUESTS, st.builds(Prediction), max_size=5)
WRITTEN = {
    "a" * 64: Prediction(text="```grounding\n[1, 2]\n```", new_tokens=12, stopped=True, provenance="0" * 16),
    "b" * 64: Prediction(text='quotes ", \\ and \u2028 \u4e2d\U0001f600', new_tokens=0, stopped=False, provenance=""),
    "c" * 64: Prediction(text="", new_tokens=4096, stopped=False, provenance="f" * 16),
    "": Prediction(text="{}", new_tokens=1, stopped=True, provenance="0" * 16),
}


def write(store: PredictionStore, predictions: dict[str, Prediction]) -> None:
    store.writer().append((USER, request, prediction) for request, prediction in predictions.items())


@pytest.fixture(scope="module")
def segment(tmp_path_factory: pytest.TempPathFactory) -> tuple[PredictionStore, Path, bytes]:
    """A store with one segment that holds `WRITTEN`, the segment's file, and its bytes."""
    folder = tmp_path_factory.mktemp("store")
    store = PredictionStore(folder, "f" * 64)
    write(store, WRITTEN)
    (path,) = folder.rglob("*.jsonl")
    return store, path, path.read_bytes()


@given(PREDICTIONS, PREDICTIONS)
def test_what_was_stored_comes_back_and_the_later_answer_counts(
    earlier: dict[str, Prediction], later: dict[str, Prediction]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = PredictionStore(folder, "f" * 64)
        write(store, earlier)
        write(store, later)
        assert store.read(USER) == earlier | later


@given(st.data())
def test_from_a_damaged_segment_comes_only_what_was_stored(
    segment: tuple[PredictionStore, Path, bytes], data: st.DataObject
) -> None:
    store, path, whole = segment
    content = data.draw(changed_bytes(whole))
    path.write_bytes(content)
    found = store.read(USER)
    assert found.items() <= WRITTEN.items()
    # A line that still stands between line ends is found again, whatever happened to the others.
    freshness = set(content.split(b"\n")) & set(whole.split(b"\n")[:-1])
    assert len(found) >= len(freshness)


@given(st.data())
def test_from_a_torn_segment_comes_every_whole_line(
    segment: tuple[PredictionStore, Path, bytes], data: st.DataObject
) -> None:
    store, path, whole = segment
    length = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:length])
    # A line whose line end alone is missing is whole.
    complete = whole[: length + 1].count(b"\n")
    assert list(store.read(USER).items()) == list(WRITTEN.items())[:complete]


@given(
    st.binary(max_size=300)
    | st.lists(st.sampled_from([b"{", b"}", b'"check"', b":", b",", b"[", b"\n", b"1"])).map(b"".join)
)
def test_from_junk_comes_nothing(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = PredictionStore(folder, "f" * 64)
        path = store.folder / f"user_{USER}" / "junk.jsonl"
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
        assert store.read(USER) == {}

"""Numbers as people read them."""

from __future__ import annotations

from usertune.core.formatting import byte_size, count


def test_numbers_of_weights_are_short() -> None:
    assert [count(number) for number in (8_767_123_696, 21_823_488, 24_576, 7)] == ["8.77 B", "21.8 M", "24.6 k", "7"]


def test_bytes_are_in_a_unit_that_shows_them() -> None:
    sizes = (0, 7, 1024, 98_304, 87_293_952, 5 << 29, 1 << 41)
    assert [byte_size(size) for size in sizes] == [
        "0", "7 B", "1.0 KiB", "96.0 KiB", "83.2 MiB", "2.5 GiB", "2,048.0 GiB",
    ]  # fmt: skip

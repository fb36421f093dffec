"""Finds perceptual hashes that differ in few bits, without comparing all with all.

Multi-index hashing (Norouzi, Punjani, Fleet 2012, "Fast search in Hamming space with multi-index hashing"): the 256
bits are cut into 16 parts of 16 bits. If two hashes differ in fewer than 16 bits, one of the parts is equal; if they
differ in fewer than 32, one part differs in at most one bit. So only hashes with such a part are compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from usertune.data.perceptual_hash import BITS, SIDE

PARTS = SIDE
VALUES = 1 << SIDE
# Limit of `within`: one part differs in at most one bit.
MOST_BITS = 2 * PARTS - 1
# Pairs that are compared at once: about 200 MB.
CHUNK = 1 << 20

# Part p has the bits with (row + column) % 16 == p. Pages of one layout share many low frequencies, which are in the
# first rows and columns; spread over all parts they make fewer parts equal.
_ROWS = np.broadcast_to(np.arange(SIDE), (PARTS, SIDE))
_COLUMNS = (np.arange(PARTS)[:, None] - np.arange(SIDE)) % SIDE


class HashIndex:
    """An index of perceptual hashes.

    Args:
        hashes: the hashes, as 64 hex digits each.
    """

    def __init__(self, hashes: Sequence[str]) -> None:
        self._words = _words(hashes)
        parts = _parts(self._words)
        # For each part: the hashes in the order of their value, and where each value starts.
        self._orders = [np.argsort(parts[:, part], kind="stable") for part in range(PARTS)]
        self._starts = [
            np.concatenate([[0], np.cumsum(np.bincount(parts[:, part], minlength=VALUES))]) for part in range(PARTS)
        ]

    def find(self, hashes: Sequence[str], within: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Find one similar hash of the index for each of some hashes.

        Args:
            hashes: the hashes to look for.
            within: number of bits that may differ, at most 31.

        Returns:
            For each hash the position of a similar one in the index, or -1 if there is none; and in how many bits the
            two differ (-1 without one). Which one of several is found depends only on the hashes and their order.
        """
        if not 0 <= within <= MOST_BITS:
            raise ValueError(f"within is {within}; this search finds differences of 0 to {MOST_BITS} bits")
        words = _words(hashes)
        parts = _parts(words)
        position = np.full(len(words), -1, dtype=np.int64)
        distance = np.full(len(words), -1, dtype=np.int64)
        changes = [0] if within < PARTS else [0, *(1 << bit for bit in range(SIDE))]
        for part in range(PARTS):
            for change in changes:
                left = np.flatnonzero(position < 0)
                if not len(left):
                    return position, distance
                keys = parts[left, part] ^ change
                for asked, candidates in self._pairs(part, keys):
                    rows = left[asked]
                    bits = np.bitwise_count(words[rows] ^ self._words[candidates]).sum(axis=1, dtype=np.int64)
                    close = np.flatnonzero(bits <= within)
                    # The closest one last: of equal indices numpy keeps the last value.
                    close = close[np.argsort(-bits[close], kind="stable")]
                    position[rows[close]], distance[rows[close]] = candidates[close], bits[close]
        return position, distance

    def _pairs(self, part: int, keys: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Yield (index of a key, position of a hash with this value of the part), many at once."""
        starts, order = self._starts[part], self._orders[part]
        first, counts = starts[keys], starts[keys + 1] - starts[keys]
        ends = np.cumsum(counts)
        begin = 0
        while begin < len(keys):
            done = ends[begin - 1] if begin else 0
            end = max(begin + 1, int(np.searchsorted(ends, done + CHUNK, side="right")))
            own = counts[begin:end]
            if total := int(own.sum()):
                offsets = np.arange(total) - np.repeat(np.cumsum(own) - own, own)
                yield np.repeat(np.arange(begin, end), own), order[np.repeat(first[begin:end], own) + offsets]
            begin = end


def _words(hashes: Sequence[str]) -> NDArray[np.uint64]:
    """Return hashes as (number, 4) words of 64 bits."""
    return np.frombuffer(bytes.fromhex("".join(hashes)), dtype=np.uint64).reshape(-1, BITS // 64)


def _parts(words: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return the parts of hashes as (number, 16) values below 65536."""
    bits = np.unpackbits(words.view(np.uint8).reshape(-1, BITS // 8), axis=1).reshape(-1, SIDE, SIDE)
    packed = np.packbits(bits[:, _ROWS, _COLUMNS], axis=2)
    return packed[:, :, 0].astype(np.int64) << 8 | packed[:, :, 1]

"""Orders that no library release can change: a fixed mixer, and permutations made of it.

The mixer is splitmix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014). NumPy's own random
streams are not promised to stay the same between releases.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

ROUND_KEYS = tuple(np.uint64(turn * 0xD1342543DE82EF95 % 2**64) for turn in range(6))
SHIFT = np.uint64(32)
MULTIPLIERS = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)

Words = NDArray[np.uint64]


def mix(values: Words) -> Words:
    """splitmix64's finaliser on every element (a bijection of 64-bit integers)."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * MULTIPLIERS[0]
    values = (values ^ (values >> np.uint64(27))) * MULTIPLIERS[1]
    return values ^ (values >> np.uint64(31))


def derive_key(*parts: int | str) -> int:
    """One 64-bit key from names and numbers, by SHA-256: different parts give unrelated keys."""
    digest = hashlib.sha256("\0".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "little")


def derived_keys(count: int, *parts: int | str) -> Words:
    """[count] keys, from `derive_key` and the numbers below `count`."""
    return mix(np.arange(count, dtype=np.uint64) ^ np.uint64(derive_key(*parts)))


def shuffled(count: int, key: int) -> NDArray[np.int64]:
    """The numbers below `count` in the order that `key` fixes. Memory and time O(count)."""
    keys = mix(np.arange(count, dtype=np.uint64) ^ np.uint64(key))
    return np.argsort(keys, kind="stable").astype(np.int64)


@dataclass(frozen=True)
class Permutations:
    """Permutations of the numbers below `count`, one for each element; any place of any of them costs the same.

    A Feistel network (Luby and Rackoff 1988) over a grid of `high` times `low` numbers, the smallest near-square that
    holds `count`, walked along its cycle until it is back below `count` (Black and Rogaway 2002): no table is built.

    Attributes:
        count: how many numbers, below 2^50.
        high: the rows of the grid; `low` its columns.
        key: which permutation.
    """

    count: Words
    high: Words
    low: Words
    key: Words

    @classmethod
    def of(cls, count: NDArray[np.int64], key: Words) -> Permutations:
        # IEEE square roots are correctly rounded, so every machine finds the same grid.
        high = np.ceil(np.sqrt(count.astype(np.float64))).astype(np.uint64)
        words = count.astype(np.uint64)
        return cls(words, high, (words + high - np.uint64(1)) // high, key)

    @classmethod
    def joined(cls, parts: Sequence[Permutations]) -> Permutations:
        """All of these, one after another."""
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))

    def take(self, index: NDArray[np.int64]) -> Permutations:
        """The permutations with these indices."""
        return Permutations(self.count[index], self.high[index], self.low[index], self.key[index])

    def __call__(self, place: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where each `place` below its `count` goes; both of the permutations' shape."""
        value = self._walk(place.astype(np.uint64))
        outside = np.flatnonzero(value >= self.count)
        while len(outside):
            value[outside] = self.take(outside)._walk(value[outside])
            outside = outside[value[outside] >= self.count[outside]]
        return value.astype(np.int64)

    def _walk(self, value: Words) -> Words:
        """One step of the cycle."""
        first, second = np.divmod(value, self.low)
        size, other = self.high, self.low
        for round_key in ROUND_KEYS:
            first = first + below(scramble(second ^ (self.key + round_key)), size)
            first -= size * (first >= size)
            first, second, size, other = second, first, other, size
        return first * self.low + second


def scramble(values: Words) -> Words:
    """32 well-mixed bits of each value: the middle of splitmix64's finaliser."""
    values = values * MULTIPLIERS[0]
    values ^= values >> SHIFT
    values *= MULTIPLIERS[1]
    return values >> SHIFT


def below(bits: Words, limit: Words) -> Words:
    """32 random bits scaled to a number below `limit` (Lemire 2019, without the rejection)."""
    return bits * limit >> SHIFT

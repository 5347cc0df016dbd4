"""Orders that no library release can change: a fixed mixer, and permutations made of it.

The mixer is splitmix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014). NumPy's own random
streams are not promised to stay the same between releases.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

ROUND_KEYS = tuple(np.uint64(turn * 0xD1342543DE82EF95 % 2**64) for turn in range(6))


def mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """splitmix64's finaliser on every element (a bijection of 64-bit integers)."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def derive_key(*parts: int | str) -> int:
    """One 64-bit key from names and numbers, by SHA-256: different parts give unrelated keys."""
    digest = hashlib.sha256("\0".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "little")


def shuffled(count: int, key: int) -> NDArray[np.int64]:
    """The numbers below `count` in the order that `key` fixes. Memory and time O(count)."""
    keys = mix(np.arange(count, dtype=np.uint64) ^ np.uint64(key))
    return np.argsort(keys, kind="stable").astype(np.int64)


def permute(index: NDArray[np.int64], count: NDArray[np.int64], key: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Where each `index` below its `count` goes under the permutation of that many numbers which its `key` fixes.

    A Feistel network (Luby and Rackoff 1988) on the next even number of bits, walked along its cycle until it is back
    below `count` (Black and Rogaway 2002): no table is built, so any place of any permutation costs the same.
    All three arrays have one shape.
    """
    half_bits = (bit_length(np.maximum(count - 1, 1)) + 1) // 2
    value = index.astype(np.uint64)
    limit = count.astype(np.uint64)
    pending = np.arange(len(value))
    while len(pending):
        value[pending] = feistel(value[pending], half_bits[pending].astype(np.uint64), key[pending])
        pending = pending[value[pending] >= limit[pending]]
    return value.astype(np.int64)


def feistel(value: NDArray[np.uint64], half_bits: NDArray[np.uint64], key: NDArray[np.uint64]) -> NDArray[np.uint64]:
    mask = (np.uint64(1) << half_bits) - np.uint64(1)
    left, right = value >> half_bits, value & mask
    for round_key in ROUND_KEYS:
        scrambled = mix(right ^ (key + round_key))
        left, right = right, left ^ (scrambled & mask)
    return (left << half_bits) | right


def bit_length(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Bits that each positive value below 2^52 needs (exact: frexp reads the exponent of an exact double)."""
    return np.frexp(values.astype(np.float64))[1].astype(np.int64)

"""MinHash signatures (Broder 1997): the share of places in which two agree estimates their texts' Jaccard similarity.

Hash i of an n-gram is a_i * x + b_i modulo 2^32, x being 32 well mixed bits of the n-gram and a_i odd: a permutation of
the 32-bit numbers each, and one multiplication and one addition, which NumPy does in vector registers.
"""

import numpy as np

from data.prepare.duplicates.words import mix, ngrams, parts

KEY = 0x4272_6963_6B79_6172  # of the hash functions: the same everywhere, for ever
NONE = np.uint32(2**32 - 1)  # in every place of a text without words
CHUNK = 1 << 15  # n-grams whose hashes stay in a core's cache


def signatures(texts: list[str], ngram: int, num_hashes: int) -> np.ndarray:
    """One signature a text, [texts, num_hashes] uint32; all NONE for a text without words."""
    minima = np.full((len(texts), num_hashes), NONE, dtype=np.uint32)
    a, b = _functions(num_hashes)
    for numbers, group in parts(texts):
        found = ngrams(group, ngram, short=True)
        bits = (found.hashes >> np.uint64(32)).astype(np.uint32)
        owners = np.repeat(np.asarray(numbers), found.counts)
        for start in range(0, len(bits), CHUNK):
            _lower(minima, bits[start : start + CHUNK], owners[start : start + CHUNK], a, b)
    return minima


def band_keys(minima: np.ndarray, bands: int) -> np.ndarray:
    """A 64-bit key of each band of each signature, [texts, bands] int64; keys of different bands differ."""
    rows = minima.reshape(len(minima), bands, minima.shape[1] // bands).astype(np.uint64)
    keys = np.broadcast_to(np.arange(bands, dtype=np.uint64), rows.shape[:2])
    for row in range(rows.shape[2]):
        keys = mix(keys ^ rows[:, :, row]) + np.uint64(row)
    return keys.view(np.int64)


def similarity(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The estimated Jaccard similarity of signatures side by side: [pairs]."""
    return (a == b).mean(axis=1)


def _lower(minima: np.ndarray, bits: np.ndarray, owners: np.ndarray, a: np.ndarray, b: np.ndarray) -> None:
    """Takes a run of n-grams into the minima of their texts; `owners` never falls."""
    begins = np.flatnonzero(np.r_[True, owners[1:] != owners[:-1]])
    texts = owners[begins]
    lowest = np.empty((len(a), len(begins)), dtype=np.uint32)
    hashed = np.empty_like(bits)
    for i in range(len(a)):
        np.multiply(bits, a[i], out=hashed)
        np.add(hashed, b[i], out=hashed)
        np.minimum.reduceat(hashed, begins, out=lowest[i])
    minima[texts] = np.minimum(minima[texts], lowest.T)


def _functions(count: int) -> tuple[np.ndarray, np.ndarray]:
    """The multipliers and the additions of `count` hash functions, uint32."""
    drawn = mix(np.uint64(KEY) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    return (drawn >> np.uint64(32)).astype(np.uint32) | np.uint32(1), drawn.astype(np.uint32)

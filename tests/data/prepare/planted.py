"""Real text, and near duplicates of it at a known similarity, worked out by brute force from the texts alone.

As a script: how many pairs of each similarity the banding finds, and how many of these the threshold leaves.
"""

import random
import re
import sysconfig
from collections.abc import Iterator
from functools import cache
from itertools import islice
from pathlib import Path

import numpy as np

from data.prepare.duplicates import minhash
from data.prepare.duplicates.choices import NearDuplicates


def shingles(text: str, n: int = 5) -> set[tuple[str, ...]]:
    words = re.findall(r"[^\W_]+", text.lower())
    return {tuple(words[i : i + n]) for i in range(max(len(words) - n + 1, min(len(words), 1)))}


def jaccard(a: str, b: str) -> float:
    of_a, of_b = shingles(a), shingles(b)
    return len(of_a & of_b) / len(of_a | of_b)


@cache
def real_texts(count: int, words: int) -> list[str]:
    """Pieces of Python's own library of at least so many words, none of them with much in common with another."""
    texts: list[str] = []
    seen: set[tuple[str, ...]] = set()
    for text in _pieces(words):
        own = shingles(text)
        if len(own) > 0.9 * words and len(own & seen) < 0.1 * len(own):
            texts.append(text)
            seen |= own
        if len(texts) == count:
            return texts
    raise AssertionError(f"only {len(texts)} of {count} texts")


def plant(text: str, similarity: float, seed: int) -> str:
    """`text` with as many edits as leave a Jaccard similarity of at least so much, one at least: words replaced, or its
    end cut.
    """
    draw = random.Random(seed)
    parts = re.split(r"([^\W_]+)", text)
    places = list(range(1, len(parts), 2))
    order = draw.sample(places, len(places)) if seed % 3 else places[::-1]

    def edited(edits: int) -> str:
        changed = list(parts)
        for place in order[:edits]:
            changed[place] = f"new{draw.randrange(10**9)}" if seed % 3 else ""
        return "".join(changed)

    low, high = 1, len(places)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if jaccard(text, edited(middle)) >= similarity else (low, middle)
    return edited(low)


def found_shares(pairs: list[tuple[str, str]], choice: NearDuplicates) -> tuple[float, float]:
    """Of pairs of texts, those that share a band, and those that are above the threshold as well."""
    signatures = minhash.signatures([text for pair in pairs for text in pair], choice.ngram, choice.num_hashes)
    keys = minhash.band_keys(signatures, choice.bands)
    banded = (keys[::2] == keys[1::2]).any(axis=1)
    similar = minhash.similarity(signatures[::2], signatures[1::2]) >= choice.threshold
    return float(banded.mean()), float((banded & similar).mean())


def _pieces(words: int) -> Iterator[str]:
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("**/*.py")):
        if not {"test", "site-packages", "dist-packages", "encodings"} & set(path.parts):
            lines = path.read_text(encoding="utf-8", errors="ignore").splitlines()
            for start in range(0, len(lines), 10 + words // 5):
                piece = "\n".join(lines[start : start + 10 + words // 5])
                found = list(islice(re.finditer(r"[^\W_]+", piece), words))
                if len(found) == words:
                    yield piece[: found[-1].end()]


def main() -> None:
    texts = real_texts(1000, 200)
    choice = NearDuplicates()
    print(f"{choice.bands} bands of {choice.num_hashes // choice.bands}, threshold {choice.threshold}")
    print("Jaccard  pairs  by theory  share a band  found")
    for similarity in (0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95):
        pairs = [(text, plant(text, similarity, seed)) for seed, text in enumerate(texts)]
        true = np.mean([jaccard(*pair) for pair in pairs])
        theory = 1 - (1 - true ** (choice.num_hashes // choice.bands)) ** choice.bands
        banded, found = found_shares(pairs, choice)
        print(f"  {true:.3f}  {len(pairs):5,}      {theory:.3f}         {banded:.3f}  {found:.3f}")


if __name__ == "__main__":
    main()

"""What a recipe says of duplicates and benchmarks: the keys `deduplicate` and `decontaminate`."""

from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass
class NearDuplicates:
    """Documents that share most of their words with another one: MinHash, banded, verified, in components."""

    ngram: int = 5  # words a shingle; FineWeb's (Penedo et al. 2024)
    # FineWeb has 14 bands of 8, which find 92% of pairs at Jaccard 0.8; 20 bands of 8 find 97%, 1 - (1 - 0.8^8)^20.
    num_hashes: int = 160
    bands: int = 20
    # Of the estimated Jaccard similarity, off by 0.03 (one sigma) at 0.8; The Stack v2's (Lozhkov et al. 2024).
    threshold: float = 0.7

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.ngram < 1:
            yield "ngram", "expected at least 1"
        if self.bands < 1:
            yield "bands", "expected at least 1"
        elif self.num_hashes < 1 or self.num_hashes % self.bands:
            yield "num_hashes", f"expected a multiple of bands ({self.bands})"
        if not 0 < self.threshold <= 1:
            yield "threshold", "expected a number above 0 and at most 1"


@dataclass
class RepeatedLines:
    """Long lines that many documents have: all but the first of these lose them."""

    min_characters: int = 200  # about 50 tokens, the shortest repeat that Lee et al. 2022 remove
    max_documents: int = 1  # a line in more documents than these is repeated; CCNet's (Wenzek et al. 2020)
    across_domains: bool = True  # false: each domain is searched by itself

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.min_characters < 1:
            yield "min_characters", "expected at least 1"
        if self.max_documents < 1:
            yield "max_documents", "expected at least 1"


@dataclass
class Deduplicate:
    """What counts as said before, beyond equal documents, which are always dropped. Off unless asked for: it takes text
    that is no copy, and how much repetition is too much depends on the data."""

    near: NearDuplicates | None = None
    lines: RepeatedLines | None = None


@dataclass
class Benchmark:
    """Texts that must not be trained on."""

    name: str = ""
    path: str = ""  # a file, a folder or a glob; *.jsonl has one example a line, any other file is one text
    columns: list[str] = field(default_factory=list)  # jsonl; none: every string of a record

    def problems(self) -> Iterator[tuple[str, str]]:
        if not self.name:
            yield "name", "expected a name"
        if not self.path or "://" in self.path:
            yield "path", "expected a local file, a folder or a glob"


@dataclass
class Decontaminate:
    """Documents that share a run of words with a benchmark are dropped."""

    benchmarks: list[Benchmark] = field(default_factory=list)
    ngram: int = 13  # words, in lower case and without punctuation: GPT-3's (Brown et al. 2020, appendix C)
    max_documents: int | None = None  # n-grams in more documents are common phrases and don't count; GPT-3: 10

    def problems(self) -> Iterator[tuple[str, str]]:
        if not self.benchmarks:
            yield "benchmarks", "expected at least one benchmark"
        if len({benchmark.name for benchmark in self.benchmarks}) < len(self.benchmarks):
            yield "benchmarks", "expected distinct names"
        if self.ngram < 1:
            yield "ngram", "expected at least 1"
        if self.max_documents is not None and self.max_documents < 1:
            yield "max_documents", "expected at least 1"

"""The texts of benchmarks, as hashes of their n-grams that every task holds."""

import glob
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.errors import DataError
from data.prepare.cleaning.encoding import Unicode
from data.prepare.duplicates.choices import Benchmark, Decontaminate
from data.prepare.duplicates.words import ngrams, parts
from data.prepare.folders import files_below

# Every Python worker holds 10 bytes of each: 160 MiB. All of MMLU's questions have about a million.
MAX_NGRAMS = 1 << 24
GROUP = 10_000  # examples hashed at a time


@dataclass(frozen=True)
class Contamination:
    """What must not be trained on."""

    names: list[str]
    length: int  # words of an n-gram
    hashes: np.ndarray  # [n-grams], sorted, distinct
    owners: np.ndarray  # [n-grams], the first benchmark in `names` that has it
    examples: list[int]  # [names]
    short: list[int]  # [names], examples with fewer words than an n-gram: they can't be found

    @property
    def fingerprint(self) -> str:
        """sha256 over what is searched for."""
        total = hashlib.sha256(json.dumps([self.names, self.length]).encode())
        total.update(self.hashes.tobytes())
        total.update(self.owners.tobytes())
        return total.hexdigest()

    def find(self, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which of `hashes` a benchmark has, and whose each of these is."""
        places = np.minimum(np.searchsorted(self.hashes, hashes), len(self.hashes) - 1)
        hits = np.flatnonzero(self.hashes[places] == hashes)
        return hits, self.owners[places[hits]]


def read_benchmarks(choice: Decontaminate) -> Contamination:
    """Reads and hashes all benchmarks.

    Raises:
        DataError: a file can't be read, a benchmark has no n-gram at all, or all of them together have too many.
    """
    hashes, owners = np.empty(0, np.uint64), np.empty(0, np.uint16)
    examples, short = [], []
    for number, benchmark in enumerate(choice.benchmarks):
        key = f"decontaminate.benchmarks[{number}]"
        counts = [0, 0]
        # Documents come cleaned: an é that is written in two characters would match none of theirs.
        for texts in _grouped(map(Unicode().apply, _examples(benchmark, key))):
            found, few = _hashes(texts, choice.ngram)
            counts = [counts[0] + len(texts), counts[1] + few]
            hashes, first = np.unique(np.concatenate([hashes, found]), return_index=True)
            owners = np.concatenate([owners, np.full(len(found), number, np.uint16)])[first]
            if len(hashes) > MAX_NGRAMS:
                raise DataError(
                    f"{key}.path: the benchmarks have more than {MAX_NGRAMS:,} different runs of {choice.ngram} words, "
                    "more than a task can hold; leave out training splits, or name fewer columns"
                )
        if counts[0] == counts[1]:
            raise DataError(
                f"{key}.path: none of the {counts[0]:,} examples of {benchmark.path} has {choice.ngram} words; "
                "correct the path or the columns, or lower decontaminate.ngram"
            )
        examples.append(counts[0])
        short.append(counts[1])
    names = [benchmark.name for benchmark in choice.benchmarks]
    return Contamination(names, choice.ngram, hashes, owners, examples, short)


def benchmark_files(benchmark: Benchmark, key: str) -> list[Path]:
    """The files that a benchmark's path names, sorted.

    Raises:
        DataError: there is none.
    """
    path = Path(benchmark.path).expanduser()
    found = files_below(path) if path.is_dir() else map(Path, glob.glob(str(path), recursive=True))  # noqa: PTH207
    files = sorted(file for file in found if file.is_file())
    if not files:
        raise DataError(f"{key}.path: there is no file {benchmark.path} (from {Path.cwd()}); correct the path")
    return files


def _examples(benchmark: Benchmark, key: str) -> Iterator[str]:
    for file in benchmark_files(benchmark, key):
        try:
            if file.suffix != ".jsonl":
                if benchmark.columns:
                    raise DataError(f"{key}.columns: {file} has none; only a .jsonl file has")
                text = file.read_text(encoding="utf-8", errors="replace")
                if "\0" in text:  # such as a compressed file, or Parquet: it would match nothing, and nobody would know
                    raise DataError(f"{key}.path: {file} is no text; unpack it, or make it a .jsonl file")
                yield text
                continue
            with file.open(encoding="utf-8", errors="replace") as lines:
                for number, line in enumerate(lines, 1):
                    if line.strip():
                        yield _record_text(line, benchmark.columns, f"{key}: {file}, line {number}")
        except OSError as error:
            raise DataError(f"{key}.path: can't read {file} ({error.strerror})") from None


def _record_text(line: str, columns: list[str], where: str) -> str:
    try:
        record = json.loads(line)
    except ValueError:
        raise DataError(f"{where} is no valid JSON; correct the file") from None
    if columns:
        missing = [name for name in columns if not isinstance(record, dict) or name not in record]
        if missing:
            raise DataError(f"{where} has no {missing[0]!r}; correct the benchmark's columns")
        record = [record[name] for name in columns]
    text = "\n".join(_strings(record))
    return text.encode("utf-8", "replace").decode()  # half an emoji, which JSON can spell, is no text


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _strings(item)


def _grouped(texts: Iterator[str]) -> Iterator[list[str]]:
    group: list[str] = []
    for text in texts:
        group.append(text)
        if len(group) == GROUP:
            yield group
            group = []
    if group:
        yield group


def _hashes(texts: list[str], length: int) -> tuple[np.ndarray, int]:
    """Distinct hashes of all n-grams, and how many texts have none."""
    totals = np.zeros(len(texts), dtype=np.int64)
    hashes = [np.empty(0, np.uint64)]
    for numbers, group in parts(texts):
        found = ngrams(group, length, short=False)
        np.add.at(totals, numbers, found.counts)
        hashes.append(np.unique(found.hashes))
    return np.unique(np.concatenate(hashes)), int((totals == 0).sum())

"""Sorted rows as they come to a task, one run of equal numbers after the other."""

import itertools
from collections.abc import Iterator
from operator import itemgetter

import numpy as np
import pyarrow as pa


def runs(batches: Iterator[pa.RecordBatch], column: str) -> Iterator[tuple[int, Iterator[pa.Table]]]:
    """(number, its rows in one or more tables), for each number in `column`."""
    for number, slices in itertools.groupby(_slices(batches, column), key=itemgetter(0)):
        yield number, (rows for _, rows in slices)


def _slices(batches: Iterator[pa.RecordBatch], column: str) -> Iterator[tuple[int, pa.Table]]:
    for batch in filter(len, batches):
        numbers = batch.column(column).to_numpy()
        cuts = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(numbers)]
        table = pa.Table.from_batches([batch])
        for start, stop in itertools.pairwise(cuts):
            yield int(numbers[start]), table.slice(start, stop - start)

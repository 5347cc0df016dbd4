"""Buckets: runs of a split's documents in the order of keys, each small enough for one task to sort and to pack.

Keys are uniform, so equal ranges of keys hold about equal amounts of text. Best-fit packing depends on the buckets, and
nothing else that is written does.
"""

from dataclasses import dataclass

from pyspark.sql import Column
from pyspark.sql import functions as F

from data.prepare.hashed import BITS, leading_bits
from data.prepare.places import Places, of_place

BUCKET_BYTES = 16 << 20  # of text, in UTF-8


@dataclass(frozen=True)
class Buckets:
    """Buckets are numbered through all splits."""

    first: Places  # each split's first
    number: Places  # how many each split has
    total: int


def divide(sizes: Places) -> Buckets:
    """By how many bytes of text each split has."""
    first, number, total = {}, {}, 0
    for place, size in sorted(sizes.items()):
        first[place], number[place] = total, max(1, -(-size // BUCKET_BYTES))
        total += number[place]
    return Buckets(first, number, total)


def bucket_of(buckets: Buckets) -> Column:
    """The number of each row's bucket, by its domain, split and key."""
    return of_place(buckets.first) + F.shiftright(leading_bits(F.col("key")) * of_place(buckets.number), BITS)

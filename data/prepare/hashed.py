"""Hashes as numbers: what is chosen or ordered by a hash is the same on any machine, in any partitioning."""

from pyspark.sql import Column
from pyspark.sql import functions as F

BITS = 32  # of a hash that count when it is read as a number


def leading_bits(hex_hash: Column) -> Column:
    """The first BITS of a hex hash as a long."""
    return F.conv(F.substring(hex_hash, 1, BITS // 4), 16, 10).cast("long")


def fraction(hex_hash: Column) -> Column:
    """A hex hash as a double from 0 to below 1, uniform."""
    return leading_bits(hex_hash) / F.lit(float(1 << BITS))


def rehash(purpose: str, hex_hash: Column) -> Column:
    """Another hex hash, independent of the first for each purpose."""
    return F.sha2(F.concat(F.lit(f"{purpose}:"), hex_hash), 256)

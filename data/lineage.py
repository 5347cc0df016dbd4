"""From a sample back to the documents that it is made of, as a dataset's lineage tells it; no Spark is needed.

Lineage has one row (SCHEMA) for each document kept, in lineage/DOMAIN/SPLIT/part-NNNNN.parquet. A part has the
documents that first occur in a run of shards, and the number of the first of these shards; rows are sorted by sample,
so Parquet's own statistics lead to the few that one needs.
"""

import bisect
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset

from data.errors import DataError
from data.manifest import AGAIN, LINEAGE, Manifest, ShardRecord, folder_of

SCHEMA = pa.schema(
    {
        "domain": pa.string(),
        "split": pa.string(),
        # Where its first token lies: in which shard of its split, sample of its split, and place in that sample.
        "shard": pa.int64(),
        "sample": pa.int64(),
        "position": pa.int64(),
        "tokens": pa.int64(),  # end-of-text included; those that the sample has no room for are in the following ones
        "bytes": pa.int64(),  # of its text in UTF-8
        "key": pa.string(),  # sha256("order SEED:" + sha256(text)), both in hex; text as cleaning left it
        "source": pa.int32(),  # place in the domain's list of sources, from 0
        "origin": pa.string(),
        "licence": pa.string(),
        "time": pa.string(),
        "first_sample": pa.int64(),  # the first and the last sample that have some of it
        "last_sample": pa.int64(),
        # Null, unless best-fit packing has cut it: its tokens from `start` on are at this place.
        "pieces": pa.list_(
            pa.struct({name: pa.int64() for name in ("start", "tokens", "shard", "sample", "position")})
        ),
    }
)


@dataclass(frozen=True)
class Fragment:
    """What of one document lies in one sample: `tokens` from position `position` on, which are the document's from
    `start` on."""

    sample: int
    position: int
    tokens: int
    start: int
    document: dict[str, Any]  # its row (SCHEMA)


def fragments(folder: Path, manifest: Manifest, domain: str, split: str, samples: range) -> list[Fragment]:
    """What these samples are made of, in the order of their tokens.

    Raises:
        DataError: the dataset in `folder` has no such samples, or its lineage is missing or damaged.
    """
    check_samples(manifest, domain, split, samples)
    of_split = Path(folder) / LINEAGE / folder_of(domain, split)
    begins, ends = (pyarrow.dataset.field(name) for name in ("first_sample", "last_sample"))
    try:
        rows = pyarrow.dataset.dataset(of_split, SCHEMA, format="parquet").to_table(
            filter=(begins < samples.stop) & (ends >= samples.start)
        )
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"can't read the lineage in {of_split} ({str(error).splitlines()[0]}); {AGAIN}") from None
    found = [part for row in rows.to_pylist() for part in _fragments(row, manifest.max_seq_len, samples)]
    return sorted(found, key=lambda part: (part.sample, part.position))


def check_samples(manifest: Manifest, domain: str, split: str, samples: range) -> None:
    """Raises:
    DataError: the dataset has no such domain, split or samples.
    """
    if domain not in manifest.domains:
        raise DataError(f"there is no domain {domain!r}; the dataset has {', '.join(manifest.domains)}")
    splits = manifest.domains[domain].splits
    if split not in splits:
        raise DataError(f"{domain} has no split {split!r}; it has {', '.join(splits)}")
    number = splits[split].samples
    if not 0 <= samples.start < samples.stop <= number:
        raise DataError(f"{domain}/{split} has samples 0 to {number - 1:,}, not {samples.start:,}:{samples.stop:,}")


def shard_of(shards: list[ShardRecord], sample: int) -> tuple[ShardRecord, int]:
    """The shard that has this sample of a split, and which one of the shard's it is."""
    ends = list(accumulate(shard.samples for shard in shards))
    number = bisect.bisect_right(ends, sample)
    return shards[number], sample - ends[number] + shards[number].samples


def _fragments(row: dict[str, Any], length: int, samples: range) -> Iterator[Fragment]:
    """Those of a document's fragments that are in `samples`."""
    for piece in row["pieces"] or [{**row, "start": 0}]:
        offset = piece["sample"] * length + piece["position"]
        stop = offset + piece["tokens"]
        for sample in range(max(samples.start, piece["sample"]), min(samples.stop, -(-stop // length))):
            begin = max(offset, sample * length)
            end = min(stop, (sample + 1) * length)
            yield Fragment(sample, begin - sample * length, end - begin, piece["start"] + begin - offset, row)

"""`brickyard trace`: which documents a sample is made of."""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path

from data.errors import DataError
from data.lineage import Fragment, fragments, shard_of
from data.manifest import Manifest, folder_of


def trace_command(folder: Path, domain: str, samples: str, split: str, as_json: bool) -> int:
    """Print what the samples of a split of a dataset are made of. Returns the exit code.

    Raises:
        DataError: there are no such samples, or the dataset can't say.
    """
    manifest = Manifest.read(folder)
    found = fragments(folder, manifest, domain, split, read_samples(samples))
    shards = manifest.domains[domain].splits[split].shards
    for sample, parts in groupby(found, key=lambda part: part.sample):
        shard, row = shard_of(shards, sample)
        file = f"{folder_of(domain, split)}/{shard.file}"
        if not as_json:
            print(f"{domain}/{split} sample {sample}: row {row} of {file}")
        for part in parts:
            place = {"sample": sample, "file": file, "row": row}
            print(json.dumps({**place, **told(part)}) if as_json else line(part))
    return 0


def read_samples(text: str) -> range:
    """The samples of `N` or `FIRST:STOP`.

    Raises:
        DataError: it is neither.
    """
    first, colon, stop = text.partition(":")
    try:
        return range(int(first), int(stop) if colon else int(first) + 1)
    except ValueError:
        raise DataError(f"{text}: expected a sample, such as 123, or a range of them, such as 120:130") from None


def told(part: Fragment) -> dict[str, object]:
    return {"position": part.position, "tokens": part.tokens, "start": part.start, "document": part.document}


def line(part: Fragment) -> str:
    document = part.document
    place = f"{part.position:,}-{part.position + part.tokens - 1:,}"
    of = "all" if part.tokens == document["tokens"] else f"{part.start:,}-{part.start + part.tokens - 1:,}"
    known = [document[name] for name in ("origin", "licence", "time") if document[name] is not None]
    what = [f"{place:>14}", f"{of} of {document['tokens']:,} tokens", *known]
    return "  ".join([*what, f"source {document['source']}", document["key"]])

"""Small real MDS datasets for tests, and plans of them. Row r of domain d holds d, r and what follows from both.

As in what `brickyard prepare` writes, what stands before the tokens is of another length in each row.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from streaming import MDSWriter

from data.mixture.plan import Plan
from data.mixture.schedule import Schedule, ScheduleAnchor, quantise

LENGTH = 8


def write_domains(
    root: Path, rows: Mapping[str, int], rows_per_shard: int, compression: str | None = None
) -> list[Path]:
    """Writes each domain into ROOT/DOMAIN, in shards of about so many rows, and returns the folders."""
    columns = {"document_offsets": "ndarray:uint16", "tokens": f"ndarray:uint16:{LENGTH}"}
    size_limit = 450 + rows_per_shard * (4 + 10 + 2 * LENGTH)
    for number, (name, count) in enumerate(rows.items()):
        settings = {"columns": columns, "hashes": ["xxh64"], "compression": compression, "size_limit": size_limit}
        with MDSWriter(out=str(root / name), **settings) as writer:
            for row in range(count):
                tokens = tokens_of(np.array([number]), np.array([row]))[0].astype(np.uint16)
                writer.write({"document_offsets": np.arange(1 + row % 3, dtype=np.uint16), "tokens": tokens})
    return [root / name for name in rows]


def tokens_of(domain: NDArray[Any], row: NDArray[Any]) -> NDArray[np.int64]:
    """[n, LENGTH] the tokens of these rows."""
    columns = [domain, row, domain + row, *(row * k % 251 for k in range(3, LENGTH))]
    return np.stack(columns, axis=1).astype(np.int64)


def shard_rows(folder: Path) -> list[int]:
    return [shard["samples"] for shard in json.loads((folder / "index.json").read_text())["shards"]]


def plan_of(
    folders: Sequence[Path], anchors: Mapping[int, Sequence[float]], ramp: str = "step", seed: int = 17
) -> Plan:
    """A plan of these folders, a domain each, with the given weights from each anchor on."""
    domains = tuple(folder.name for folder in folders)
    points = [
        ScheduleAnchor(at, quantise(dict(zip(domains, weights, strict=True)), domains), ramp if at else "step")
        for at, weights in anchors.items()
    ]
    return Plan(Schedule(domains, tuple(points)), {folder.name: shard_rows(folder) for folder in folders}, seed=17)

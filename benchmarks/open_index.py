"""What does it take to open the index of a very large dataset: 180,000 shards, 2.95 billion samples?

    .venv/bin/python benchmarks/open_index.py

Streaming opens it as each rank of a run does: 20 domains, no shard there yet. Time and memory are those of opening
alone, without the imports. Ends with one JSON line.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

from data.mixture.plan import Plan
from data.mixture.schedule import Schedule, ScheduleAnchor, quantise
from data.mixture.stream import CurriculumDataset

DOMAINS, ROWS_OF_A_SHARD, LENGTH = 20, 16_389, 2048


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=180_000, help="in all domains together (default: %(default)s)")
    options = parser.parse_args()
    names = tuple(f"domain{number}" for number in range(DOMAINS))
    shards = options.shards // DOMAINS
    with tempfile.TemporaryDirectory(prefix="open-index-") as folder:
        print("open_index: writing indexes", file=sys.stderr, flush=True)
        for name in names:
            write_index(Path(folder) / name, shards)
        schedule = Schedule(names, (ScheduleAnchor(0, quantise(dict.fromkeys(names, 1), names)),))
        plan = Plan(schedule, dict.fromkeys(names, np.full(shards, ROWS_OF_A_SHARD)), seed=17)
        process = psutil.Process()
        before, began = process.memory_info().rss, time.perf_counter()
        dataset = CurriculumDataset(plan, [Path(folder) / name for name in names], device_batch_size=16)
        seconds, gigabytes = time.perf_counter() - began, (process.memory_info().rss - before) / 2**30
        print(f"{dataset.num_shards:,} shards, {dataset.size:,} samples: {seconds:.1f} s, {gigabytes:.2f} GiB")
    print(json.dumps({"shards": dataset.num_shards, "seconds": round(seconds, 1), "gibibytes": round(gigabytes, 2)}))


def write_index(folder: Path, shards: int) -> None:
    """An index as `brickyard prepare` writes it."""
    folder.mkdir()
    entries = [
        {
            "column_encodings": ["ndarray:uint16", f"ndarray:uint32:{LENGTH}"],
            "column_names": ["document_offsets", "tokens"],
            "column_sizes": [None, 4 * LENGTH],
            "compression": None,
            "format": "mds",
            "hashes": ["sha1", "xxh64"],
            "raw_data": {
                "basename": f"shard.{number:05}.mds",
                "bytes": ROWS_OF_A_SHARD * (4 * LENGTH + 4) + 300,
                "hashes": {"sha1": f"{number:040x}", "xxh64": f"{number:016x}"},
            },
            "samples": ROWS_OF_A_SHARD,
            "size_limit": None,
            "version": 2,
            "zip_data": None,
        }
        for number in range(shards)
    ]
    (folder / "index.json").write_text(json.dumps({"shards": entries, "version": 2}))


if __name__ == "__main__":
    main()

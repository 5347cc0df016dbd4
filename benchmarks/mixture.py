"""How fast do samples come in a curriculum's order? Against Streaming's own static mix of the same shards, with as many
workers, and against reading the same bytes in the order in which they lie.

    .venv/bin/python benchmarks/mixture.py

Also: the time to the first batch anywhere in a run, samples a second of the plan alone, and what a seek takes. Writes
real MDS shards of 2,048-token samples into a temporary folder, and removes them. Ends with one JSON line.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import os
import platform
import random
import statistics
import sys
import tempfile
import time
import tracemalloc
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from streaming import MDSWriter, Stream, StreamingDataLoader, StreamingDataset

from data.mixture.loader import PREFETCH_FACTOR, CurriculumLoader
from data.mixture.plan import Plan
from data.mixture.schedule import Schedule, ScheduleAnchor, quantise
from data.mixture.stream import CurriculumDataset

LENGTH = 2048
CASES = ((2, 16), (2, 64), (1, 16), (0, 16))  # dataloader workers, samples of a batch
SECONDS = 3.0  # that each loader is measured for
WARM_UP = 20  # batches before that: the workers are started and what they read ahead is read
POSITIONS = (0, 10**6, 3 * 10**9)
DOMAINS, SHARDS_OF_A_DOMAIN, ROWS_OF_A_SHARD = 20, 500, 15_000
SEEKS = 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=1000, help="of shards to read (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="pairs of measurements (default: %(default)s)")
    parser.add_argument("--folder", type=Path, help="where the temporary folder is made (default: the system's)")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    print(f"machine: {machine()}")
    with tempfile.TemporaryDirectory(prefix="mixture-", dir=options.folder) as folder:
        results = {
            "machine": machine(),
            **loading(Path(folder) / "large", options.megabytes, options.rounds),
            **first_batches(Path(folder) / "small"),
            **plan_alone(),
        }
    print(json.dumps(results))


def machine() -> str:
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    name = models[0].partition(":")[2].strip() if models else platform.machine()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{name}, {os.cpu_count()} cores, {memory:.0f} GiB"


def say(line: str) -> None:
    print(f"mixture: {line}", file=sys.stderr, flush=True)


def loading(root: Path, megabytes: int, rounds: int) -> dict[str, Any]:
    """Samples a second of a curriculum and of Streaming's static mix, in turns, and of a plain read."""
    weights = {"web": 0.4, "code": 0.3, "math": 0.2, "news": 0.1}
    rows = megabytes * 10**6 // (4 * LENGTH * len(weights))
    say(f"writing {megabytes:,} MB of shards")
    folders = [write_domain(root / name, rows, rows_of_a_shard=2000) for name in weights]
    plan = plan_of(folders, list(weights.values()))
    limit = statistics.median(plain_read(folders) for _ in range(rounds))
    print(f"plain read of the same bytes: {limit:,.0f} samples/s, {limit * 4 * LENGTH / 1e9:.1f} GB/s")
    ratios, shares = {}, {}
    for workers, batch in CASES:
        pairs = []
        for turn in range(rounds):
            say(f"loading with {workers} workers, batches of {batch}: {turn + 1} of {rounds}")
            make = {
                "ours": lambda w=workers, b=batch: ours(plan, folders, w, b),
                "static": lambda w=workers, b=batch: static(folders, weights, w, b),
            }
            order = list(make) if turn % 2 == 0 else list(make)[::-1]
            measured = {name: samples_per_second(make[name]) for name in order}
            pairs.append((measured["ours"], measured["static"]))
        ratio = [mine / other for mine, other in pairs]
        mine, other = (statistics.median(side) for side in zip(*pairs, strict=True))
        case = f"{workers} workers, batches of {batch}"
        ratios[case] = round(statistics.median(ratio), 2)
        shares[case] = round(mine / limit, 3)
        print(
            f"{case:>25}: {mine:9,.0f} samples/s, static mix {other:8,.0f}, "
            f"ratio {statistics.median(ratio):5.2f} ({min(ratio):.2f} to {max(ratio):.2f})"
        )
    return {"loader_to_static_mix": ratios, "loader_to_plain_read": shares}


def write_domain(folder: Path, rows: int, rows_of_a_shard: int) -> Path:
    random_tokens = np.random.default_rng(0)
    size_limit = rows_of_a_shard * (4 * LENGTH + 20) + 500
    columns = {"document_offsets": "ndarray:uint16", "tokens": f"ndarray:uint32:{LENGTH}"}
    offsets = np.array([0, LENGTH // 3, LENGTH], np.uint16)  # of two documents
    with MDSWriter(out=str(folder), columns=columns, size_limit=size_limit) as writer:
        for _ in range(rows):
            tokens = random_tokens.integers(0, 100_000, LENGTH, np.uint32)
            writer.write({"document_offsets": offsets, "tokens": tokens})
    return folder


def plan_of(folders: Sequence[Path], weights: Sequence[float]) -> Plan:
    domains = tuple(folder.name for folder in folders)
    schedule = Schedule(domains, (ScheduleAnchor(0, quantise(dict(zip(domains, weights, strict=True)), domains)),))
    return Plan(schedule, {folder.name: shard_rows(folder) for folder in folders}, seed=17)


def shard_rows(folder: Path) -> list[int]:
    return [shard["samples"] for shard in json.loads((folder / "index.json").read_text())["shards"]]


def plain_read(folders: Sequence[Path]) -> float:
    """Samples a second of reading the files from one end to the other, into the same memory."""
    into, read, began = bytearray(1 << 20), 0, time.perf_counter()
    for path in itertools.chain.from_iterable(folder.glob("*.mds") for folder in folders):
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(into):
                read += count
    return read / (4 * LENGTH) / (time.perf_counter() - began)


def ours(plan: Plan, folders: Sequence[Path], workers: int, batch: int) -> Iterable[Any]:
    return CurriculumLoader(CurriculumDataset(plan, folders, batch), workers)


def static(folders: Sequence[Path], weights: dict[str, float], workers: int, batch: int) -> Iterable[Any]:
    streams = [Stream(local=str(folder), proportion=weights[folder.name]) for folder in folders]
    dataset = StreamingDataset(streams=streams, batch_size=batch, shuffle=True)
    prefetch = PREFETCH_FACTOR if workers else None
    return StreamingDataLoader(dataset, batch_size=batch, num_workers=workers, prefetch_factor=prefetch)


def samples_per_second(make: Callable[[], Iterable[Any]]) -> float:
    batches = iter(make())
    for _ in range(WARM_UP):
        next(batches)
    samples, began = 0, time.perf_counter()
    while (passed := time.perf_counter() - began) < SECONDS:
        samples += len(next(batches)["tokens"])
    del batches
    gc.collect()  # ends the workers
    return samples / passed


def first_batches(root: Path) -> dict[str, Any]:
    """Seconds to the first batch, of a run that begins or goes on at each position; the plan knows nothing before."""
    say(f"writing {DOMAINS * SHARDS_OF_A_DOMAIN:,} small shards")
    folders = [write_domain(root / f"domain{number}", 2 * SHARDS_OF_A_DOMAIN, 2) for number in range(DOMAINS)]
    seconds = {}
    for position in POSITIONS:
        plan = plan_of(folders, [1 / DOMAINS] * DOMAINS)
        began = time.perf_counter()
        dataset = CurriculumDataset(plan, folders, device_batch_size=16)
        opened = time.perf_counter()
        dataset.load_state_dict({"epoch": 0, "sample_in_epoch": position, "num_canonical_nodes": 1, "shuffle_seed": 1})
        batch = next(iter(CurriculumLoader(dataset, num_workers=1)))
        seconds[f"{position:.0e}"] = round(time.perf_counter() - opened, 3)
        assert batch["sample"].tolist() == list(range(position, position + 16))
        print(
            f"first batch at sample {position:,}: {seconds[f'{position:.0e}']:.2f} s, "
            f"after {opened - began:.2f} s to open {sum(len(shard_rows(folder)) for folder in folders):,} shards"
        )
    return {"seconds_to_first_batch": seconds}


def plan_alone() -> dict[str, Any]:
    """Samples a second, seeks and memory of a plan of many shards, whose weights change all along."""
    say("the plan alone")
    tracemalloc.start()
    slow = long_plan()
    for position in seek_positions():
        slow.read([position])
    peak = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    began = time.perf_counter()
    plan = long_plan()
    built = time.perf_counter() - began
    first, *others = [seconds_of(lambda at=position: plan.read([at])) for position in seek_positions()]
    ids = [10**6 / seconds_of(lambda at=at: plan[at : at + 10**6]) for at in (0, 10**9, POSITIONS[-1] - 10**6)]
    shared = np.arange(512)[:, None] * 64 * 16 + np.arange(16)  # what one of 64 ranks reads of 512 steps
    ids_of_a_rank = [shared.size / seconds_of(lambda at=at: plan.read(at + shared)) for at in (0, 10**9)]
    print(
        f"plan: built in {built * 1e3:.0f} ms; {min(ids) / 1e6:.1f} M samples/s, of a rank's share of 64 "
        f"{min(ids_of_a_rank) / 1e6:.2f} M samples/s"
    )
    print(
        f"seek within {POSITIONS[-1]:,} samples: the first, at its end, {first * 1e3:.1f} ms; then "
        f"{statistics.median(others) * 1e3:.1f} ms ({max(others) * 1e3:.1f} at most); memory {peak:.1f} MB at most"
    )
    return {
        "plan_million_samples_per_second": round(min(ids) / 1e6, 2),
        "seek_ms": {"first": round(first * 1e3, 1), "median": round(statistics.median(others) * 1e3, 1)},
        "seek_peak_mb": round(peak, 1),
    }


def long_plan() -> Plan:
    """Twenty domains of 500 shards of 15,000 samples; ramps from one skewed mixture to its opposite and back."""
    domains = tuple(f"domain{number}" for number in range(DOMAINS))
    rising = quantise({name: number + 1 for number, name in enumerate(domains)}, domains)
    end = POSITIONS[-1]
    anchors = (
        ScheduleAnchor(0, rising),
        ScheduleAnchor(end // 2, rising[::-1], "linear"),
        ScheduleAnchor(end, rising, "cosine"),
    )
    rows = np.full(SHARDS_OF_A_DOMAIN, ROWS_OF_A_SHARD)
    return Plan(Schedule(domains, anchors), dict.fromkeys(domains, rows), seed=17)


def seek_positions() -> list[int]:
    """The end first, then anywhere."""
    return [POSITIONS[-1] - 1, *random.Random(17).sample(range(POSITIONS[-1]), SEEKS)]


def seconds_of(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()

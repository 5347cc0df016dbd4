"""A run that was killed leaves nothing that stays, and nothing that the next run stumbles over."""

import itertools
import multiprocessing
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import pytest
from streaming.base.shared import prefix
from torch import distributed as dist

from data.mixture.leftovers import BLOCK, SHARED_MEMORY, number_of_leader, remove_dead_shared_memory
from data.mixture.loader import CurriculumLoader
from data.mixture.stream import CurriculumDataset

from mds_shards import plan_of, write_domains

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["data.mixture.loader", "mds_shards"])
DOMAINS = {"web": 400, "code": 300}


@pytest.fixture(scope="module")
def remote(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("remote")
    write_domains(root, DOMAINS, rows_per_shard=20)
    return root


def read(remote: Path, root: Path, workers: int, persistent: bool, batches: int) -> None:
    """Read so many batches through a cache in `root`; then say so."""
    multiprocessing.set_start_method("fork", force=True)  # as it is in a process that was not forked by a server
    os.environ["TMPDIR"] = tempfile.mkdtemp(dir=root)  # each run has one of its own; Streaming keeps locks there
    tempfile.tempdir = None
    folders, remotes = [root / name for name in DOMAINS], [str(remote / name) for name in DOMAINS]
    plan = plan_of([remote / name for name in DOMAINS], {0: (0.5, 0.5)})
    dataset = CurriculumDataset(plan, folders, device_batch_size=4, remotes=remotes)
    loader = CurriculumLoader(dataset, workers, persistent_workers=persistent)
    first = 0
    for batch in itertools.islice(loader, batches):
        assert batch["sample"].tolist() == list(range(first, first + 4))
        (root / "reading").write_text(str(dataset._shm_prefix_int))
        (root / "reading").rename(root / "read")
        first += 4


def start(*arguments: object) -> BaseProcess:
    process = CONTEXT.Process(target=read, args=arguments)
    process.start()
    return process


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def blocks_of(number: str) -> dict[str, int]:
    """The blocks of shared memory with this number: name -> inode."""
    return {path.name: path.stat().st_ino for path in SHARED_MEMORY.glob(f"{int(number):06}_*")}


@pytest.mark.parametrize(("workers", "persistent"), [(0, False), (2, False), (2, True)])
def test_after_kill_9_the_next_run_starts_and_clears_up(
    remote: Path, tmp_path: Path, workers: int, persistent: bool
) -> None:
    killed = start(remote, tmp_path, workers, persistent, 10**6)
    wait_until((tmp_path / "read").exists)
    number = (tmp_path / "read").read_text()
    children = psutil.Process(killed.pid).children()
    readers = [child for child in children if child.name() == "pt_data_worker"]
    assert len(readers) == workers
    for child in set(children) - set(readers):  # Python's own tracker of shared memory, as when a container is killed
        child.kill()
    os.kill(killed.pid or 0, signal.SIGKILL)
    killed.join()
    _, alive = psutil.wait_procs(readers, timeout=3)  # well before they would look for their parent themselves
    assert not alive
    left = blocks_of(number)
    assert len(left) >= 6, "shared memory that outlives its run is what this is about"
    following = start(remote, tmp_path, workers, persistent, 50)
    following.join(120)
    assert following.exitcode == 0
    assert not set(left.items()) & set(blocks_of(number).items())


@pytest.fixture
def number() -> Iterator[str]:
    """A number that no dataset of this machine comes to."""
    number = str(900_000_000 + uuid4().int % 99_999_999)
    yield number
    for path in SHARED_MEMORY.glob(f"{number}_*"):
        path.unlink(missing_ok=True)


def test_only_blocks_that_nobody_has_open_are_dead(number: str) -> None:
    for name in ("locals", "shard_states", "unknown"):
        (SHARED_MEMORY / f"{number}_{name}").write_bytes(b"x")
    assert BLOCK.fullmatch(f"{number}_locals")
    with (SHARED_MEMORY / f"{number}_shard_states").open("rb+"):
        remove_dead_shared_memory()
        assert len(blocks_of(number)) == 3
    remove_dead_shared_memory()
    assert set(blocks_of(number)) == {f"{number}_unknown"}


def test_a_dataset_in_use_keeps_its_blocks(remote: Path) -> None:
    folders = [remote / name for name in DOMAINS]
    dataset = CurriculumDataset(plan_of(folders, {0: (0.5, 0.5)}), folders, device_batch_size=4)
    before = blocks_of(str(dataset._shm_prefix_int))
    assert len(before) >= 6
    remove_dead_shared_memory()
    assert blocks_of(str(dataset._shm_prefix_int)) == before
    assert next(iter(CurriculumLoader(dataset)))["sample"].tolist() == [0, 1, 2, 3]


def test_a_dataset_keeps_no_other_ones_blocks_open(remote: Path) -> None:
    """Streaming opens them to see which numbers are taken."""

    def shared_files() -> int:
        links = Path("/proc/self/fd").iterdir()
        return sum(link.is_symlink() and str(link.readlink()).startswith(str(SHARED_MEMORY)) for link in links)

    folders = [remote / name for name in DOMAINS]
    counts = [shared_files()]
    kept = []
    for _ in range(4):
        kept.append(CurriculumDataset(plan_of(folders, {0: (0.5, 0.5)}), folders, device_batch_size=4))
        counts.append(shared_files())
    assert len({after - before for before, after in itertools.pairwise(counts)}) == 1


def find_number(rank: int, folder: str, numbers: Any) -> None:
    """Each rank finds another number, as it does where a run ends between the two."""
    os.environ.update(LOCAL_RANK=str(rank), RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2")
    dist.init_process_group("gloo", rank=rank, world_size=2, store=dist.FileStore(f"{folder}/store", 2))
    prefix._check_and_find_retrying = lambda *arguments, **options: 7 + rank
    with number_of_leader():
        numbers.put(prefix._check_and_find_retrying([], [], shm_name="locals", retry=1))
    assert prefix._check_and_find_retrying() == 7 + rank


def test_ranks_of_a_machine_take_the_number_of_their_leader(tmp_path: Path) -> None:
    numbers = CONTEXT.Queue()
    ranks = [CONTEXT.Process(target=find_number, args=(rank, str(tmp_path), numbers)) for rank in range(2)]
    for rank in ranks:
        rank.start()
    assert [numbers.get(timeout=60) for _ in ranks] == [7, 7]
    for rank in ranks:
        rank.join()
        assert rank.exitcode == 0

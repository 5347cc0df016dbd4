"""A small rehearsal: all ranks of a run meet, sum a tensor, and their machines compare clocks and storage."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from launch.node import Node

if TYPE_CHECKING:
    from torch.distributed import Store

HUNG = 10.0  # seconds, after three times the patience with others, in which all else has said why it does not work
MOST_SKEW = 5.0  # seconds between clocks; logs are out of order, and from some minutes on S3 refuses requests
NUMBERS = 2**18  # in the tensor, 1 MiB
EXPECTED = (
    "every port between the machines must be open, and GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME may have to name the "
    "network"
)


class Machine(NamedTuple):
    """What a machine tells the others: its name, its time in seconds, and the file that it has written."""

    name: str
    clock: float
    file: str


def meet(node: Node, count: int, folder: Path) -> list[str]:
    """What is wrong, as the `count` ranks of this machine find when they meet all others at MASTER_ADDR:MASTER_PORT.

    This process must not have used a GPU: ranks are forked from it. All machines are to see `folder`.
    """
    if node.count * count == 1:
        return []
    import torch.distributed  # noqa: F401  # for the ranks

    ranks = [start(node, count, local, folder) for local in range(count)]
    deadline = time.monotonic() + 3 * node.patience + HUNG
    found = [problem for pid, end in ranks for problem in finish(pid, end, deadline)]
    return list(dict.fromkeys(found))  # ranks of a machine mostly find the same


def start(node: Node, count: int, local: int, folder: Path) -> tuple[int, int]:
    """Fork a rank. Returns its process, and a pipe that says what is wrong."""
    read, write = os.pipe()
    if pid := os.fork():
        os.close(write)
        return pid, read
    with suppress(BaseException):
        said = rehearse(node, count, local, folder)
        os.write(write, "\n".join(said).encode())
        os._exit(0)
    os._exit(1)


def finish(pid: int, end: int, deadline: float) -> list[str]:
    """Wait for a rank. Returns what it has found."""
    while not (ended := os.waitpid(pid, os.WNOHANG))[0] and time.monotonic() < deadline:
        time.sleep(0.05)
    with os.fdopen(end, "rb") as pipe:
        if not ended[0]:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return ["a rank's rehearsal hung; NCCL_DEBUG=INFO may show where"]
        if ended[1]:
            return [f"a rank's rehearsal has ended with {os.waitstatus_to_exitcode(ended[1])}"]
        return pipe.read().decode().splitlines()


def rehearse(node: Node, count: int, local: int, folder: Path) -> list[str]:
    """In a rank: what is wrong."""
    try:
        return list(compare(node, count, local, folder))
    except Exception as error:  # each transport has its own
        said = (str(error) or type(error).__name__).splitlines()[0]
        return [
            f"does not meet the others at {os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']} ({said}); {EXPECTED}"
        ]


def compare(node: Node, count: int, local: int, folder: Path) -> Iterator[str]:
    import torch
    import torch.distributed as dist

    device = torch.device("cuda", local) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    rank, world, patience = node.rank * count + local, node.count * count, timedelta(seconds=node.patience)
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = dist.TCPStore(address, port, world, is_master=rank == 0, timeout=patience)
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=patience)
    ones = torch.ones(NUMBERS, device=device)
    dist.all_reduce(ones)
    if not bool((ones == world).all()):
        yield f"{backend} sums wrongly: {world} ones come to {float(ones.min()):g}; leave this machine out"
    file = folder / f".check-{secrets.token_hex(8)}"
    try:
        if local == 0:
            yield from compare_machines(node, store, file)
        dist.barrier()  # until all have read
    finally:
        if local == 0:
            file.unlink(missing_ok=True)
    if rank == 0:
        time.sleep(0.5)  # the store goes with this rank, and the others are still leaving
    dist.destroy_process_group()


def compare_machines(node: Node, store: Store, file: Path) -> Iterator[str]:
    """Right after all have met: whose clocks go wrong, and who has other storage."""
    me = Machine(socket.gethostname(), time.time(), str(file.resolve()))
    try:
        file.write_text(me.name)
    except OSError as error:
        yield f"{file.parent} can't be written to, and the run is to lie there: {error.strerror or error}"
    store.set(f"machine-{node.rank}", json.dumps(me))
    machines = [Machine(*json.loads(store.get(f"machine-{rank}"))) for rank in range(node.count)]
    yield from clock_problems(machines, node.rank)
    yield from unseen(machines, node.rank)


def clock_problems(machines: Sequence[Machine], mine: int) -> Iterator[str]:
    """Whether this machine's clock goes otherwise than the first one's."""
    ahead = machines[mine].clock - machines[0].clock
    if abs(ahead) > MOST_SKEW:
        apart = f"{abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} that of {machines[0].name}"
        yield f"its clock is {apart}; `timedatectl` says which is set by NTP"


def unseen(machines: Sequence[Machine], mine: int) -> Iterator[str]:
    """Whether this machine sees what the first one has written."""
    written = Path(machines[0].file)
    if not written.exists() or written.read_text() != machines[0].name:
        yield (
            f"does not see what {machines[0].name} writes to {written.parent}, where the run is to lie; it must be on "
            "storage that all machines share"
        )

"""This machine among those of a run."""

from __future__ import annotations

import ipaddress
import os
import socket
from dataclasses import dataclass

from train.errors import RecipeError


@dataclass(frozen=True)
class Node:
    """This machine among those of a run, which all start as many ranks."""

    rank: int = 0
    count: int = 1
    master: str | None = None  # HOST:PORT of node 0, where ranks find each other; None: on this machine alone
    patience: float = 90.0  # seconds for others to come, when all are checked: torch may be read from slow storage


def tell(node: Node, count: int) -> dict[str, str]:
    """What the ranks of this machine are told by their environment. RANK is the first one's, who speaks for all.

    Raises:
        RecipeError: the machine can't be one of these.
    """
    if not 0 <= node.rank < node.count:
        raise RecipeError(f"--node-rank: expected a number from 0 to {node.count - 1}, found {node.rank}")
    if node.master is None and node.count > 1:
        raise RecipeError("--nodes: expected --master HOST:PORT too, which is node 0 and any free port of it")
    address, colon, port = (node.master or f"127.0.0.1:{free_port()}").rpartition(":")
    if not colon or not port.isdigit():
        raise RecipeError(f"--master: expected HOST:PORT, found {node.master}")
    named = os.environ.get("GLOO_SOCKET_IFNAME")  # by whoever knows better
    interface = named or (interface_towards(address) if node.count > 1 else None)
    return {
        "RANK": str(node.rank * count),
        "WORLD_SIZE": str(node.count * count),
        "LOCAL_WORLD_SIZE": str(count),
        "NODE_RANK": str(node.rank),
        "MASTER_ADDR": address,
        "MASTER_PORT": port,
        **({"GLOO_SOCKET_IFNAME": interface} if interface else {}),
    }


def interface_towards(address: str) -> str | None:
    """The network interface that leads to a host, or that has its address here; None where that can't be known.

    Gloo would take the one that this machine's own name leads to, which in many an /etc/hosts is the loopback.
    """
    import psutil

    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((address, 1))  # sends nothing
            mine = probe.getsockname()[0]
    except OSError:
        return None
    if ipaddress.ip_address(mine).is_loopback:
        return None
    names = (name for name, ends in psutil.net_if_addrs().items() if any(end.address == mine for end in ends))
    return next(names, None)


def gpus_or_one() -> int:
    import torch

    return torch.cuda.device_count() or 1


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]

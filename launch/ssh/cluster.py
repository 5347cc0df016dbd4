"""The hosts that OpenSSH reaches: yamls/clusters/ssh.yaml."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

from launch.cluster import Cluster
from train.schema import Problem

HOST = re.compile(r"([\w.-]+@)?[A-Za-z0-9][\w.-]*")


@dataclass(kw_only=True)
class SshCluster(Cluster):
    """Restarts are those after failures that come one after another, no checkpoint between them."""

    hosts: list[str]  # as ssh knows them, such as node-a or me@10.0.0.7; ranks meet at the first one
    nodes: int = 0  # the first so many of them; 0: all
    user: str | None = None  # null: ssh's own choice
    port: int | None = None  # of sshd; null: ssh's own choice
    ssh_options: list[str] = field(default_factory=list)  # as after ssh's -o, such as StrictHostKeyChecking=accept-new
    master: str | None = None  # the first host as the others know it; null: as it stands under `hosts`
    master_port: int = 29500  # of it; free, and open to the others
    interface: str | None = None  # of the network between them, such as eth0; null: the one that leads to `master`
    setup: list[str] = field(default_factory=list)  # lines of bash run before, such as `module load cuda`
    python: str | None = None  # an interpreter that every host has; null: the one that launches
    secrets: list[str] = field(default_factory=list)  # variables that are set where you launch, handed to every rank
    restarts: int = 10
    lost_after: int = 60  # seconds without a word from a host, or to a host, after which it is given up
    save_within: int = 300  # seconds that ranks have for the step in hand and the save when the launcher is gone

    place_of_secrets: ClassVar[str] = "set it where you launch, and put its name under `secrets`"

    def __post_init__(self) -> None:
        self.nodes = self.nodes or len(self.hosts)

    def problems(self) -> Iterator[Problem]:
        if not self.hosts:
            yield "hosts", "expected the names of hosts"
            return
        yield from super().problems()
        yield from self.at_least(1, "port", "master_port", "save_within")
        yield from self.at_least(3, "lost_after")
        for index, host in enumerate(self.hosts):
            if not HOST.fullmatch(host):
                yield f"hosts[{index}]", f"expected the name of a host, such as node-a or me@10.0.0.7, found {host}"
            elif host in self.hosts[:index]:
                yield f"hosts[{index}]", f"{host} is named twice"
        if self.nodes > len(self.hosts):
            yield "nodes", f"expected at most the number of hosts ({len(self.hosts)}), found {self.nodes}"
        for index, option in enumerate(self.ssh_options):
            if option.startswith("-") or "=" not in option:
                yield f"ssh_options[{index}]", f"expected OPTION=VALUE, as after ssh's -o, found {option}"
        yield from self.secret_problems()

    def secret_problems(self) -> Iterator[Problem]:
        for index, name in enumerate(self.secrets):
            if not name.isidentifier():
                yield f"secrets[{index}]", "expected the name of a variable, not what is in it"
            elif name not in os.environ:
                yield f"secrets[{index}]", f"{name} is not set here"

    @property
    def address(self) -> str:
        """Of the first host, for the others."""
        return self.master or self.hosts[0].rpartition("@")[2]

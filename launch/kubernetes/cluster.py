"""What a Kubernetes cluster is asked for: yamls/clusters/kubernetes.yaml."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import ClassVar, Literal

from launch.cluster import Cluster
from train.schema import Problem

NAME = re.compile(r"[a-z0-9]([-.a-z0-9]*[a-z0-9])?")
QUANTITY = re.compile(r"\d+(\.\d+)?([KMGTPE]i|[kMGTPE])?")


@dataclass(kw_only=True)
class Volume:
    """Storage that every pod has at the same path as the machine that launches: one of claim and host_path."""

    path: str
    claim: str | None = None  # a PersistentVolumeClaim, ReadWriteMany
    host_path: str | None = None  # a folder of every node, where a shared file system is mounted there

    def problems(self) -> Iterator[Problem]:
        if not self.path.startswith("/"):
            yield "path", f"expected a path from / on, found {self.path}"
        if (self.claim is None) == (self.host_path is None):
            yield "", "expected claim or host_path"
        if self.claim is not None and not NAME.fullmatch(self.claim):
            yield "claim", f"expected the name of a PersistentVolumeClaim, found {self.claim}"
        if self.host_path is not None and not self.host_path.startswith("/"):
            yield "host_path", f"expected a path from / on, found {self.host_path}"


@dataclass(kw_only=True)
class Toleration:
    """Of a taint that would keep pods off a node."""

    key: str | None = None  # null: of every taint
    operator: Literal["Exists", "Equal"] = "Exists"
    value: str | None = None  # with Equal
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None  # null: all of them

    def problems(self) -> Iterator[Problem]:
        if (self.operator == "Equal") != (self.value is not None):
            yield "value", "expected with operator Equal, and only there"
        if self.operator == "Equal" and self.key is None:
            yield "key", "expected with operator Equal"


@dataclass(kw_only=True)
class KubernetesCluster(Cluster):
    """A node is a pod here, whose resources are those of one machine."""

    image: str  # with the packages of requirements.lock; the code comes from the run's folder
    volumes: list[Volume]  # that hold the run's folder and the dataset
    namespace: str | None = None  # null: kubectl's
    gpu: str = "nvidia.com/gpu"  # the resource of which gpus_per_node are asked for
    memory_per_node: str | None = None  # such as 1800Gi, asked for and not exceeded; /dev/shm counts; null: no limit
    resources: dict[str, str] = field(default_factory=dict)  # further ones of each node, such as rdma/hca: 8
    service_account: str | None = None  # null: the namespace's default
    node_selector: dict[str, str] = field(default_factory=dict)  # labels of nodes that will do
    tolerations: list[Toleration] = field(default_factory=list)
    secrets: list[str] = field(default_factory=list)  # names of Secrets, whose keys become variables of every rank
    start_within: int = 1200  # seconds that the first pods wait for the last, whose image may be long in coming
    save_within: int = 300  # seconds for the step in hand and the save, once a pod is told to end
    python: str = "python"  # of the image

    place_of_secrets: ClassVar[str] = "put it into a Secret of the cluster, and the name of that under `secrets`"

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        yield from self.at_least(1, "start_within", "save_within")
        for name in ("namespace", "service_account"):
            if (value := getattr(self, name)) is not None and not NAME.fullmatch(value):
                yield name, f"expected small letters, digits and -, found {value}"
        for index, name in enumerate(self.secrets):
            if not NAME.fullmatch(name):
                yield f"secrets[{index}]", "expected the name of a Secret, not what is in it"
        asked = {"memory_per_node": self.memory_per_node or "0"}
        asked |= {f"resources.{name}": quantity for name, quantity in self.resources.items()}
        for key, quantity in asked.items():
            if not QUANTITY.fullmatch(quantity):
                yield key, f"expected a quantity, such as 8 or 1800Gi, found {quantity}"
        if not self.volumes:
            yield "volumes", "expected the storage that holds the run's folder and the dataset"
        paths = [PurePosixPath(volume.path) for volume in self.volumes]
        for index, path in enumerate(paths):
            if path in paths[:index]:
                yield f"volumes[{index}].path", f"{path} is taken"

"""The manifest that Kubernetes is given: a JobSet (https://jobset.sigs.k8s.io) of one job, with a pod for each node."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from launch.cluster import MISTAKE, STOPPED
from launch.kubernetes.cluster import KubernetesCluster, Toleration
from launch.snapshot import Snapshot

JOB, CHECK, CONTAINER, PORT = "nodes", "check", "train", 29500
LONGEST = 63  # characters of a DNS label, which the name of a pod must be
RESTART, ATTEMPT = "RESTART", "jobset.sigs.k8s.io/restart-attempt"  # a variable, and what JobSet notes on each pod
DROPPED: tuple[Any, ...] = (None, [], {})


def manifest(cluster: KubernetesCluster, run_name: str, folder: Path, snapshot: Snapshot) -> dict[str, Any]:
    """A JobSet that runs what is in `snapshot`. Relative paths in the recipe start at `folder`."""
    name = jobset_name(run_name, snapshot, cluster.nodes)
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": given(name=name, namespace=cluster.namespace),
        "spec": {
            "network": {"enableDNSHostnames": True},
            "failurePolicy": failure_policy(cluster.restarts),
            "replicatedJobs": [
                {"name": JOB, "replicas": 1, "template": {"spec": job(cluster, name, folder, snapshot)}}
            ],
        },
    }


def jobset_name(run_name: str, snapshot: Snapshot, nodes: int) -> str:
    """Of the run and the launch. Every launch has its own, as a JobSet can't be changed; the longest pod's name, which
    ends with five characters of chance, must fit too."""
    word = re.sub("[^a-z0-9]+", "-", run_name.lower()).strip("-")
    if not word[:1].isalpha():
        word = f"run-{word}".rstrip("-")
    end = f"-{snapshot.path.name}"
    return word[: LONGEST - len(f"{end}-{JOB}-0-{nodes - 1}-12345")].rstrip("-") + end


def failure_policy(restarts: int) -> dict[str, Any]:
    """Of the JobSet, once its job has failed: all pods are made anew, when all of the old ones are gone. That a rank
    failed is counted; that nodes were taken back is not; a mistake of the user's is the end.

    Which of `pod_failure_policy`'s rules a job has failed by, only its message says.
    """
    mistake = {
        "name": "mistake",
        "action": "FailJobSet",
        "onJobFailureReasons": ["PodFailurePolicy"],
        "onJobFailureMessagePatterns": [f"failed with exit code {MISTAKE} matching"],
    }
    stopped = {
        "name": "stopped",
        "action": "RestartJobSetAndIgnoreMaxRestarts",
        "onJobFailureReasons": ["PodFailurePolicy"],
    }
    return {"maxRestarts": restarts, "restartStrategy": "BlockingRecreate", "rules": [mistake, stopped]}


def pod_failure_policy() -> dict[str, Any]:
    """Of the job: pods whose failure is no failure of the training. Every rank saves and ends when one is told to, so
    the pods that stay end with STOPPED when one is evicted."""
    codes = {"containerName": CONTAINER, "operator": "In", "values": [MISTAKE, STOPPED]}
    return {
        "rules": [
            {"action": "FailJob", "onExitCodes": codes},
            {"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        ]
    }


def job(cluster: KubernetesCluster, name: str, folder: Path, snapshot: Snapshot) -> dict[str, Any]:
    """One pod that fails is the end of all: the ranks of the others would wait for its ranks."""
    return {
        "completionMode": "Indexed",
        "completions": cluster.nodes,
        "parallelism": cluster.nodes,
        "backoffLimit": 0,
        "podFailurePolicy": pod_failure_policy(),
        "template": {"spec": pod(cluster, name, folder, snapshot)},
    }


def pod(cluster: KubernetesCluster, name: str, folder: Path, snapshot: Snapshot) -> dict[str, Any]:
    """One that is not fit has failed, which counts: the next one may come to another node."""
    volumes: list[dict[str, Any]] = [
        {"name": f"storage-{index}", "persistentVolumeClaim": {"claimName": volume.claim}}
        if volume.claim is not None
        else {"name": f"storage-{index}", "hostPath": {"path": volume.host_path, "type": "Directory"}}
        for index, volume in enumerate(cluster.volumes)
    ]
    return given(
        restartPolicy="Never",
        terminationGracePeriodSeconds=cluster.save_within,
        serviceAccountName=cluster.service_account,
        nodeSelector=cluster.node_selector,
        tolerations=[toleration(each) for each in cluster.tolerations],
        initContainers=[check(cluster, name, folder, snapshot)],
        containers=[container(cluster, CONTAINER, command(cluster, name, snapshot), folder, snapshot)],
        volumes=[{"name": "shm", "emptyDir": {"medium": "Memory"}}, *volumes],  # a container's own has 64 MB
    )


def check(cluster: KubernetesCluster, name: str, folder: Path, snapshot: Snapshot) -> dict[str, Any]:
    """Knows which restart it belongs to."""
    made = container(cluster, CHECK, check_command(cluster, name, snapshot), folder, snapshot)
    field = {"fieldPath": f"metadata.annotations['{ATTEMPT}']"}
    return {**made, "env": [{"name": RESTART, "valueFrom": {"fieldRef": field}}, *made["env"]]}


def container(
    cluster: KubernetesCluster, name: str, command: list[str], folder: Path, snapshot: Snapshot
) -> dict[str, Any]:
    storage = [{"name": f"storage-{index}", "mountPath": volume.path} for index, volume in enumerate(cluster.volumes)]
    return given(
        name=name,
        image=cluster.image,
        command=command,
        workingDir=str(folder),
        env=[{"name": key, "value": literal(value)} for key, value in environment(cluster, snapshot).items()],
        envFrom=[{"secretRef": {"name": secret}} for secret in cluster.secrets],
        resources=resources(cluster),
        volumeMounts=[{"name": "shm", "mountPath": "/dev/shm"}, *storage],
    )


def command(cluster: KubernetesCluster, name: str, snapshot: Snapshot) -> list[str]:
    """What each pod runs, as its first process, which is the one that has SIGTERM."""
    return launch(cluster, name, snapshot, "local")


def check_command(cluster: KubernetesCluster, name: str, snapshot: Snapshot) -> list[str]:
    """What finds out before whether the pods are fit, and meet."""
    gpus = [] if cluster.gpus_per_node is None else ["--gpus", str(cluster.gpus_per_node)]
    restart = ["--restart", f"$({RESTART})", "--restart-wait", str(cluster.restart_wait)]  # a JobSet restarts at once
    return launch(cluster, name, snapshot, "check", *gpus, "--patience", str(cluster.start_within), *restart)


def launch(cluster: KubernetesCluster, name: str, snapshot: Snapshot, *what: str) -> list[str]:
    """-P: of the folder that it runs in, nothing is imported. Kubernetes puts in the number of the pod."""
    master = f"{name}-{JOB}-0-0.{name}:{PORT}"  # the first pod, by the JobSet's own service
    node = ["--nodes", str(cluster.nodes), "--node-rank", "$(JOB_COMPLETION_INDEX)", "--master", master]
    words = ["-m", "launch", "launch", *what, "-n", str(cluster.ranks_per_node), *node]
    return [literal(cluster.python), "-P", *words, literal(str(snapshot.recipe))]


def environment(cluster: KubernetesCluster, snapshot: Snapshot) -> dict[str, str]:
    """A pod sees all of its machine's CPUs, however few it has asked for: threads are counted here."""
    threads = {} if cluster.cpus_per_rank is None else {"OMP_NUM_THREADS": str(cluster.cpus_per_rank)}
    return {"PYTHONPATH": str(snapshot.code), **threads, **cluster.environment}


def resources(cluster: KubernetesCluster) -> dict[str, Any]:
    """What has a limit is asked for as well, but for CPUs, of which a pod may use what others leave."""
    limits = dict(cluster.resources)
    if cluster.gpus_per_node is not None:
        limits[cluster.gpu] = str(cluster.gpus_per_node)
    if cluster.memory_per_node is not None:
        limits["memory"] = cluster.memory_per_node
    requests = dict(limits)
    if cluster.cpus_per_rank is not None:
        requests["cpu"] = str(cluster.cpus_per_rank * cluster.ranks_per_node)
    return given(requests=requests, limits=limits)


def toleration(of: Toleration) -> dict[str, Any]:
    return given(key=of.key, operator=of.operator, value=of.value, effect=of.effect)


def literal(text: str) -> str:
    """Kubernetes reads $(NAME) in commands and variables, and $$ as $."""
    return text.replace("$", "$$")


def given(**items: Any) -> dict[str, Any]:
    return {key: value for key, value in items.items() if value not in DROPPED}

"""The manifest that `brickyard launch kubernetes` applies, and the mistakes that it finds first. No cluster needed."""

import copy
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from kubeflow_trainer_api.models.jobset_v1alpha2_job_set import JobsetV1alpha2JobSet
from pydantic import ValidationError

from launch.kubernetes.cluster import KubernetesCluster
from launch.kubernetes.manifest import jobset_name, manifest
from launch.snapshot import Snapshot
from train.reader import RecipeSource, read_recipe

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parent / "kubernetes_job.yaml"
CLUSTER = """\
namespace: training
image: example.com/brickyard:1
nodes: 4
ranks_per_node: 8
gpus_per_node: 8
cpus_per_rank: 12
memory_per_node: 1800Gi
resources: {rdma/hca: 8}
volumes:
  - {path: FOLDER, claim: shared}
  - {path: /scratch, host_path: /mnt/scratch}
service_account: trainer
node_selector: {pool: gpu}
tolerations:
  - {key: nvidia.com/gpu, effect: NoSchedule}
  - {key: team, operator: Equal, value: llm}
secrets: [wandb, s3]
environment: {NCCL_DEBUG: WARN, PRICE: 5$}
restarts: 7
save_within: 900
"""
LEAST = "image: brickyard\nnodes: 1\nranks_per_node: 1\nvolumes: [{path: /shared, claim: shared}]\n"


@pytest.fixture
def launch(launch_on, tmp_path):
    def run(cluster=CLUSTER, *more):
        return launch_on("kubernetes", cluster.replace("FOLDER", str(tmp_path)), *more)

    return run


@pytest.fixture
def kubectl(tmp_path, monkeypatch):
    """A script that keeps what it is given."""

    def install(then="echo jobset created"):
        script = tmp_path / "bin" / "kubectl"
        script.parent.mkdir(exist_ok=True)
        script.write_text(f'#!/bin/sh\necho "$@" >{tmp_path}/arguments\ncat >{tmp_path}/applied\n{then}\n')
        script.chmod(0o755)
        monkeypatch.setenv("PATH", f"{script.parent}:{os.environ['PATH']}")

    return install


def manifest_of(text, folder):
    """Of a cluster's YAML, for a run in `folder`."""
    file = folder / "some.yaml"
    file.write_text(text)
    return manifest(read_recipe(KubernetesCluster, RecipeSource(file)), "test", folder, Snapshot(folder / "0001"))


def holds_to_the_schemas(jobset):
    """The models are made from the schemas that Kubernetes and JobSet publish; what these do not know, is dropped."""
    try:
        return JobsetV1alpha2JobSet.from_dict(jobset).to_dict() == jobset
    except ValidationError:
        return False


def test_a_dry_run_prints_the_job_and_does_nothing(launch, tmp_path, capfd):
    assert launch(CLUSTER, "--dry-run") == 0
    printed = capfd.readouterr().out
    assert printed.replace(str(tmp_path), "/shared") == GOLDEN.read_text()
    assert holds_to_the_schemas(yaml.safe_load(printed))
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("text", [LEAST, (ROOT / "yamls" / "clusters" / "kubernetes.yaml").read_text()])
def test_manifests_hold_to_the_published_schemas(text, tmp_path):
    jobset = manifest_of(text, tmp_path)
    assert holds_to_the_schemas(jobset)
    assert yaml.safe_load(yaml.safe_dump(jobset)) == jobset


@pytest.mark.parametrize(
    ("place", "key", "value"),
    [
        ([], "restarts", 3),
        (["failurePolicy"], "maxRestarts", "3"),
        (["replicatedJobs", 0, "template", "spec"], "parallel", 2),
        (["replicatedJobs", 0, "template", "spec", "podFailurePolicy", "rules", 0], "action", "Fail"),
        (["replicatedJobs", 0, "template", "spec", "template", "spec"], "restartPolicy", "Sometimes"),
        (["replicatedJobs", 0, "template", "spec", "template", "spec", "containers", 0], "workDir", "/"),
        (["replicatedJobs", 0, "template", "spec", "template", "spec", "containers", 0, "env", 0], "value", 1),
        (["replicatedJobs", 0, "template", "spec", "template", "spec", "volumes", 0, "emptyDir"], "disk", "Memory"),
    ],
)
def test_the_schemas_find_what_is_wrong(place, key, value):
    jobset = yaml.safe_load(GOLDEN.read_text())
    part = (changed := copy.deepcopy(jobset))["spec"]
    for step in place:
        part = part[step]
    part[key] = value
    assert holds_to_the_schemas(jobset)
    assert not holds_to_the_schemas(changed)


@pytest.mark.parametrize(
    ("run_name", "nodes", "name"),
    [
        ("Base 1.6B_v2", 2, "base-1-6b-v2-0012"),
        ("25m", 2, "run-25m-0012"),
        ("ü", 1, "run-0012"),
        ("x-" * 99, 3072, None),
    ],
)
def test_a_jobset_has_a_name_that_its_pods_can_have(run_name, nodes, name):
    found = jobset_name(run_name, Snapshot(Path("launches/0012")), nodes)
    assert name in (None, found)
    pod = f"{found}-nodes-0-{nodes - 1}-abcde"
    assert re.fullmatch("[a-z]([-a-z0-9]*[a-z0-9])?", pod)
    assert len(pod) <= 63
    assert "--" not in pod


@pytest.mark.parametrize(
    ("said", "action"),
    [
        ("Container train for pod a/b failed with exit code 2 matching FailJob rule at index 0", "FailJobSet"),
        (
            "Container train for pod a/b failed with exit code 143 matching FailJob rule at index 0",
            "RestartJobSetAndIgnoreMaxRestarts",
        ),
        (
            "Pod a/b has condition DisruptionTarget matching FailJob rule at index 1",
            "RestartJobSetAndIgnoreMaxRestarts",
        ),
    ],
)
def test_what_follows_a_failure(said, action):
    """Of the first rule whose patterns find the message of the job, as Kubernetes words it, and JobSet reads it."""
    policy = yaml.safe_load(GOLDEN.read_text())["spec"]["failurePolicy"]
    assert policy["maxRestarts"] == 7
    patterns = [(rule["action"], rule.get("onJobFailureMessagePatterns", [""])) for rule in policy["rules"]]
    assert next(action for action, found in patterns if any(re.search(each, said) for each in found)) == action
    assert all(rule["onJobFailureReasons"] == ["PodFailurePolicy"] for rule in policy["rules"])  # others are counted


def test_what_is_applied_is_what_the_dry_run_prints(launch, kubectl, tmp_path, capfd):
    kubectl()
    assert launch(CLUSTER, "--dry-run") == 0
    printed = capfd.readouterr().out
    assert launch() == 0
    said = capfd.readouterr().out
    assert "JobSet a-run-0001" in said
    assert (tmp_path / "applied").read_text() == printed
    assert (tmp_path / "arguments").read_text() == "apply --filename -\n"
    folder = tmp_path / "runs" / "a run" / "launches" / "0001"
    assert (folder / "job").read_text() == "a-run-0001"
    assert (folder / "job.yaml").read_text() == printed
    assert "run_name: a run" in (folder / "recipe.yaml").read_text()
    kept = [file.read_text() for file in folder.rglob("*") if file.is_file() and "code" not in file.parts]
    assert not any("not-to-be-seen" in text for text in [printed, said, *kept])
    assert launch(CLUSTER, "--dry-run") == 0
    assert "name: a-run-0002" in capfd.readouterr().out


def test_what_a_pod_runs_can_be_run(launch, kubectl, tmp_path):
    """Up to the sentence that there is no such node: from the snapshot, as `python` of this machine."""
    kubectl()
    assert launch() == 0
    [job] = yaml.safe_load((tmp_path / "applied").read_text())["spec"]["replicatedJobs"]
    [train] = job["template"]["spec"]["template"]["spec"]["containers"]
    command = [word.replace("$(JOB_COMPLETION_INDEX)", "4") for word in train["command"]]
    environment = {each["name"]: each["value"].replace("$$", "$") for each in train["env"]}
    assert environment["PRICE"] == "5$"
    assert environment["OMP_NUM_THREADS"] == "12"
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        command, cwd=train["workingDir"], env={"PATH": path, **environment}, capture_output=True, text=True
    )
    assert done.returncode == 2, done.stderr
    assert "--node-rank: expected a number from 0 to 3, found 4" in done.stderr


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("nodes: 4", "nodes: 0", "cluster.yaml:3: nodes: expected 1 or more, found 0"),
        ("nodes: 4", "nodes: 3", "number of ranks (24), found 32"),
        ("ranks_per_node: 8", "ranks_per_node: 9", "ranks_per_node: expected at most gpus_per_node (8), found 9"),
        ("restarts: 7", "restarts: -1", "restarts: expected 0 or more, found -1"),
        ("image: example.com/brickyard:1\n", "", "image: this key is required"),
        ("NCCL_DEBUG", "WANDB_API_KEY", "environment.WANDB_API_KEY: may be a secret, and this file is copied: put it"),
        ("[wandb, s3]", "[WANDB_API_KEY=abc]", "secrets[0]: expected the name of a Secret, not what is in it"),
        ("1800Gi", "1800 GB", "memory_per_node: expected a quantity, such as 8 or 1800Gi, found 1800 GB"),
        ("rdma/hca: 8", "rdma/hca: all", "resources.rdma/hca: expected a quantity"),
        ("claim: shared", "claims: shared", "volumes[0].claims: no such key; did you mean claim?"),
        (", claim: shared", "", "volumes[0]: expected claim or host_path"),
        ("path: FOLDER", "path: shared", "volumes[0].path: expected a path from / on, found shared"),
        ("path: /scratch", "path: FOLDER", "volumes[1].path: "),
        ("path: FOLDER", "path: /other", "cluster.yaml:9: volumes: no pod will see FOLDER/runs/a run/launches/0001"),
        ("path: FOLDER", "path: FOLDER/runs", "volumes: no pod will see FOLDER/dataset"),
        ("operator: Equal, ", "", "tolerations[1].value: expected with operator Equal"),
        ("effect: NoSchedule", "effect: Never", "tolerations[0].effect: expected NoSchedule or PreferNoSchedule or"),
        ("namespace: training", "namespace: Training", "namespace: expected small letters"),
    ],
)
def test_mistakes_are_said_and_nothing_is_applied(launch, kubectl, tmp_path, capfd, before, after, said):
    kubectl()
    assert launch(CLUSTER.replace(before, after)) == 2
    assert said.replace("FOLDER", str(tmp_path)) in capfd.readouterr().err
    assert not (tmp_path / "runs").exists()
    assert not (tmp_path / "applied").exists()


def test_where_there_is_no_kubectl_it_says_so(launch, tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert launch() == 2
    assert "kubectl is not here" in capfd.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_what_kubernetes_refuses_is_one_sentence(launch, kubectl, tmp_path, capfd):
    kubectl('echo "error: no matches for kind JobSet" >&2; exit 1')
    assert launch() == 2
    said = capfd.readouterr().err
    assert f"kubectl refuses {tmp_path}/runs/a run/launches/0001/job.yaml: error: no matches for kind JobSet" in said

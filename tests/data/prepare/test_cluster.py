"""Real clusters: workers that have none of our code, given what --print-submit prints; killed executors; Connect."""

import os
import socket
import subprocess
import sys
import sysconfig
import tarfile
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pyspark
import pytest
from omegaconf import OmegaConf
from quick import QUICK

from data.prepare.duplicates.choices import Deduplicate, NearDuplicates, RepeatedLines
from data.prepare.recipe import SparkChoice
from launch.cli import main

from corpus import recipe, same_files, write_corpus

ROOT = Path(__file__).parents[3]
SPARK_CLASS = Path(pyspark.__file__).parent / "bin" / "spark-class"
DEPLOY = "org.apache.spark.deploy"
EXECUTOR = "CoarseGrainedExecutorBackend"
CLIENT_JVM = "-XX:TieredStopAtLevel=1"


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture
def cluster(tmp_path):
    """The master's address; each worker has a core and leaves its executors' folders in tmp_path/workers."""
    port = free_port()
    url = f"spark://127.0.0.1:{port}"
    here = ["--host", "127.0.0.1", "--webui-port", "0"]
    size = ["--cores", "1", "--memory", "1g", "--work-dir", f"{tmp_path}/workers"]
    worker = [f"{DEPLOY}.worker.Worker", *here, *size, url]
    daemons = [[f"{DEPLOY}.master.Master", *here, "--port", str(port)], worker, worker]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    env |= {"SPARK_DAEMON_MEMORY": "256m", "SPARK_DAEMON_JAVA_OPTS": CLIENT_JVM, "SPARK_LOCAL_IP": "127.0.0.1"}
    quiet = {"cwd": tmp_path, "env": env, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    processes = [subprocess.Popen([SPARK_CLASS, *daemon], **quiet) for daemon in daemons]
    yield url
    for process in reversed(processes):
        process.terminate()
        process.wait(timeout=30)


def pack_environment(path):
    """As little as passes for an environment: a link to Python, and a line that says where its packages lie.

    That line does not lead to this checkout, which lies in the real environment by way of another one.
    """
    folder = path.parent / "small"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").symlink_to(Path(sys.executable).resolve())
    (folder / "pyvenv.cfg").write_text(f"home = {Path(sys.executable).resolve().parent}\n")
    packages = folder / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"
    packages.mkdir(parents=True)
    (packages / "packages.pth").write_text(sysconfig.get_path("purelib") + "\n")
    with tarfile.open(path, "w:gz") as archive:
        archive.add(folder, ".")


def cluster_conf():
    return {
        "spark.driver.host": "127.0.0.1",
        "spark.executor.memory": "512m",
        "spark.executor.defaultJavaOptions": CLIENT_JVM,
        "spark.sql.shuffle.partitions": "2",
        **QUICK,
    }


def kill_one_at_work(seconds=120):
    """Kills the Java of an executor that has started Python for a task of its own."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.NoSuchProcess):  # processes come and go
                if process.name() == "java" and EXECUTOR in " ".join(process.cmdline()) and process.children():
                    return process.kill()
        time.sleep(0.1)
    pytest.fail("no executor is at work")


@pytest.mark.cluster
def test_killed_executors_change_nothing(cluster, tmp_path):
    write_corpus(tmp_path)
    domains = {"code": recipe(tmp_path, tmp_path).domains["code"]}
    there = recipe(
        tmp_path, tmp_path / "there" / "dataset", domains=domains, spark=SparkChoice(cluster, "512m", cluster_conf())
    )
    here = recipe(tmp_path, tmp_path / "here" / "dataset", domains=domains)
    for name, each in (("there.yaml", there), ("here.yaml", here)):
        (tmp_path / name).write_text(OmegaConf.to_yaml(OmegaConf.structured(each)))
    brickyard = [sys.executable, "-m", "launch", "prepare"]
    run = {"cwd": tmp_path, "env": {**os.environ, "PYTHONPATH": str(ROOT)}, "text": True}
    subprocess.run([*brickyard, "here.yaml"], **run, check=True, timeout=300)
    killed = 0
    with subprocess.Popen([*brickyard, "there.yaml"], **run, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "reading" in line or "writing" in line:
                kill_one_at_work()
                killed += 1
    assert (process.returncode, killed) == (0, 2)
    assert same_files(tmp_path / "here" / "dataset", tmp_path / "there" / "dataset")


@pytest.mark.cluster
def test_a_cluster_writes_the_same_bytes_as_this_machine(cluster, tmp_path):
    write_corpus(tmp_path)
    domains = {"code": recipe(tmp_path, tmp_path).domains["code"]}
    there = recipe(
        tmp_path, tmp_path / "there" / "dataset", domains=domains, spark=SparkChoice(cluster, "512m", cluster_conf())
    )
    here = recipe(tmp_path, tmp_path / "here" / "dataset", domains=domains)
    for name, each in (("there.yaml", there), ("here.yaml", here)):
        (tmp_path / name).write_text(OmegaConf.to_yaml(OmegaConf.structured(each)))
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    brickyard = [sys.executable, "-m", "launch", "prepare"]
    run = {"cwd": tmp_path, "env": env, "check": True, "text": True, "timeout": 300}
    said = subprocess.run([*brickyard, "there.yaml", "--print-submit"], **run, stdout=subprocess.PIPE).stdout
    pack_packages, pack_code, submit = said.splitlines()
    assert pack_packages.startswith(f"tar -czf environment.tar.gz -C {sys.prefix}")
    pack_environment(tmp_path / "environment.tar.gz")  # the real one is gigabytes
    subprocess.run(pack_code, shell=True, **run)
    said = subprocess.run(submit, shell=True, **run, stdout=subprocess.PIPE).stdout
    assert "is ready" in said
    executors = sorted(path.parents[2].name for path in (tmp_path / "workers").glob("app-*/*/environment/bin/python"))
    assert len(executors) == 2, "both workers ran tasks with what was sent to them"
    subprocess.run([*brickyard, "here.yaml"], **run)
    assert same_files(tmp_path / "here" / "dataset", tmp_path / "there" / "dataset")


@pytest.fixture
def connect_server(tmp_path):
    """The address of a Spark Connect server, in whose Python our packages are and our code is not."""
    port = free_port()
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    env |= {"SPARK_LOCAL_IP": "127.0.0.1", "PYSPARK_PYTHON": sys.executable}
    server = ["--class", "org.apache.spark.sql.connect.service.SparkConnectServer", "--master", "local[2]"]
    server += ["--conf", f"spark.connect.grpc.binding.port={port}", "--conf", "spark.ui.enabled=false"]
    server += ["--driver-memory", "1g", "--driver-java-options", CLIENT_JVM, "spark-internal"]
    submit = SPARK_CLASS.with_name("spark-submit")
    with (tmp_path / "server.log").open("w") as log:
        process = subprocess.Popen([submit, *server], cwd=tmp_path, env=env, stdout=log, stderr=subprocess.STDOUT)
    deadline = time.monotonic() + 120
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            break
        except OSError:
            assert process.poll() is None and time.monotonic() < deadline, (tmp_path / "server.log").read_text()
            time.sleep(0.2)
    yield f"sc://127.0.0.1:{port}"
    process.terminate()
    process.wait(timeout=30)


@pytest.mark.cluster
def test_a_spark_connect_server_writes_the_same_bytes_as_this_machine(connect_server, tmp_path):
    write_corpus(tmp_path)
    choice = {"deduplicate": Deduplicate(NearDuplicates(), RepeatedLines())}
    there = recipe(tmp_path, tmp_path / "there" / "dataset", spark=SparkChoice(connect_server), **choice)
    here = recipe(tmp_path, tmp_path / "here" / "dataset", **choice)
    for name, each in (("there.yaml", there), ("here.yaml", here)):
        (tmp_path / name).write_text(OmegaConf.to_yaml(OmegaConf.structured(each)))
        command = [sys.executable, "-m", "launch", "prepare", name]
        env = {**os.environ, "PYTHONPATH": str(ROOT), **({"JAVA_HOME": "/nowhere"} if each is there else {})}
        subprocess.run(command, cwd=tmp_path, env=env, check=True, timeout=300)
    assert same_files(tmp_path / "here" / "dataset", tmp_path / "there" / "dataset")


def test_a_server_that_does_not_answer_is_said(tmp_path, capsys):
    write_corpus(tmp_path)
    address = f"sc://127.0.0.1:{free_port()}"
    there = recipe(tmp_path, tmp_path / "there" / "dataset", spark=SparkChoice(address))
    (tmp_path / "there.yaml").write_text(OmegaConf.to_yaml(OmegaConf.structured(there)))
    assert main(["prepare", str(tmp_path / "there.yaml")]) == 2
    assert f"spark.master: {address}: no Spark Connect server answers there" in capsys.readouterr().err
    assert main(["prepare", str(tmp_path / "there.yaml"), "--print-submit"]) == 2
    assert "to which nothing is submitted" in capsys.readouterr().err

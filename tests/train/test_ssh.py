"""`brickyard launch ssh` on two hosts with a cable between them that is pulled: the steps are those of one run."""

import contextlib
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from launch.cli import main
from train.callbacks.metrics_file import iterate_rows

from metric_rows import rows
from processes import brickyard
from ssh_hosts import NOBODY, NODES, PORT, Hosts, ssh_hosts, wait_for, why_not

OPTIONS = ("max_duration=200ba", "save_interval=20ba", "eval_interval=100ba")
CLUSTER = """\
hosts: [{hosts}]
ranks_per_node: 1
port: {port}
ssh_options: [IdentityFile={folder}/key, UserKnownHostsFile={folder}/known_hosts]
environment: {{OMP_NUM_THREADS: "1"}}
secrets: [A_SECRET]
restart_wait: 2
lost_after: 6
save_within: 20
"""

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    if reason := why_not():
        pytest.skip(reason)
    with ssh_hosts() as both:
        yield both


@pytest.fixture
def launch(workshop: SimpleNamespace, hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("A_SECRET", "not-to-be-seen")

    def start(name: str, *more: str, nodes: str = ", ".join(NODES)) -> subprocess.Popen:
        cluster = workshop.root / "cluster.yaml"
        cluster.write_text(CLUSTER.format(hosts=nodes, port=PORT, folder=hosts.folder))
        command = [
            "launch",
            "ssh",
            "--cluster",
            str(cluster),
            str(workshop.recipe),
            f"run_name={name}",
            *OPTIONS,
            *more,
        ]
        return hosts.start(command, workshop.root / f"{name}.log")

    return start


def processes_of(run: Path) -> list[int]:
    """That write to a log of the run, on any host."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            if (process / "fd" / "1").readlink().parent == run / "logs":
                found.append(int(process.name))
    return found


def wait_for_step(run: Path, step: int, launcher: subprocess.Popen, log: Path) -> None:
    def done() -> bool:
        assert launcher.poll() is None, log.read_text()
        metrics = run / "metrics.jsonl"
        return metrics.exists() and any(row["batch"] >= step for row in iterate_rows(metrics))

    wait_for(done, f"step {step}", 180)


def test_whatever_happens_the_run_goes_on(workshop: SimpleNamespace, hosts: Hosts, launch: Any) -> None:
    """The launcher killed, the launcher asked to end, the cable pulled: the steps are those of one run."""
    run, log = workshop.root / "runs" / "spoilt-ssh", workshop.root / "spoilt-ssh.log"
    launcher = launch("spoilt-ssh", "dist_timeout=30")
    wait_for_step(run, 25, launcher, log)
    assert len(processes_of(run)) >= 2
    launcher.kill()
    wait_for(lambda: not processes_of(run), "end of ranks", 60)
    assert (run / "logs" / "rank0.log").read_text().count("which is saved") == 1

    launcher = launch("spoilt-ssh", "dist_timeout=30")
    wait_for_step(run, len(rows(run)) + 25, launcher, log)
    launcher.send_signal(signal.SIGINT)
    assert launcher.wait(60) == 130, log.read_text()
    assert (run / "logs" / "rank0.log").read_text().count("which is saved") == 2
    assert not processes_of(run)

    launcher = launch("spoilt-ssh", "dist_timeout=30")
    wait_for_step(run, len(rows(run)) + 25, launcher, log)
    hosts.plug("down")
    time.sleep(2)  # which is nothing
    hosts.plug("up")
    wait_for_step(run, len(rows(run)) + 10, launcher, log)
    assert "restart" not in log.read_text()
    hosts.plug("down")
    wait_for(lambda: "node-b is lost" in log.read_text(), "notice of the cable", 120)
    wait_for(lambda: "node-b: ssh can't reach it" in log.read_text(), "attempt without the cable", 120)
    hosts.plug("up")
    assert launcher.wait(300) == 0, log.read_text()
    said = log.read_text()
    assert "restart 1 of 10 in 2 s" in said and "done: 200 steps" in said
    assert not processes_of(run)

    kept = [file.read_text() for file in run.rglob("*") if file.suffix in (".log", ".yaml", ".json")]
    assert not any("not-to-be-seen" in text for text in [said, *kept])
    local = ["launch", "local", "-n", "2", str(workshop.recipe), "run_name=whole-ssh", *OPTIONS, "wandb.mode=disabled"]
    assert brickyard(local, workshop.root / "whole-ssh.log") == [0]
    assert rows(run) == rows(workshop.root / "runs" / "whole-ssh")

    launcher = launch("spoilt-ssh", "max_duration=400ba", nodes="node-a")  # on one host alone
    wait_for_step(run, 205, launcher, log)
    assert main(["launch", "stop", str(run)]) == 0
    assert launcher.wait(60) == 143, log.read_text()
    assert (run / "logs" / "rank0.log").read_text().count("which is saved") == 3


def test_a_host_that_is_not_fit_is_named_and_nothing_is_started(
    workshop: SimpleNamespace, hosts: Hosts, launch: Any
) -> None:
    run, log = workshop.root / "runs" / "unfit", workshop.root / "unfit.log"
    assert launch("unfit", nodes=f"node-a, {NOBODY}").wait(120) == 2
    assert f"{NOBODY}: ssh can't reach it" in log.read_text()
    hosts.on("node-b", "mount", "-t", "tmpfs", "tmpfs", str(workshop.root))
    try:
        assert launch("unfit").wait(120) == 2
    finally:
        hosts.on("node-b", "umount", str(workshop.root))
    assert "node-b: " in log.read_text() and f"{run} is not what it is where you launch: it must" in log.read_text()
    assert not run.exists()
    dataset = hosts.folder / "empty"
    dataset.mkdir()
    hosts.on("node-b", "mount", "--bind", str(dataset), str(workshop.dataset))
    try:
        assert launch("unfit").wait(180) == 2
    finally:
        hosts.on("node-b", "umount", str(workshop.dataset))
    assert f"node-b: can't read {workshop.dataset}/manifest.json" in log.read_text()
    assert not run.exists()

"""A real SLURM on this machine: a controller and two nodes, each with a name and a shared memory of its own.

The nodes are Debian's slurmd in namespaces: two machines do not share /dev/shm, where a run keeps what the ranks of one
machine have in common, nor a host name, nor a folder for temporary files.
"""

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

NODES = ("node-a", "node-b")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "unshare")
PORTS = {"SlurmctldPort": 0, "node-a": 0, "node-b": 0}

CONFIGURATION = """\
ClusterName=test
SlurmctldHost=node-a(127.0.0.1)
SlurmctldPort={SlurmctldPort}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
SlurmUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
TaskProlog={folder}/prolog
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
AccountingStorageType=accounting_storage/none
MailProg=/bin/true
ReturnToService=2
KillWait=5
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=1,bf_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmdParameters=config_overrides
NodeName=node-a NodeHostname={host} NodeAddr=127.0.0.1 Port={node-a} CPUs=2
NodeName=node-b NodeHostname={host} NodeAddr=127.0.0.1 Port={node-b} CPUs=2
PartitionName=train Nodes=node-a,node-b Default=YES PriorityTier=1 GraceTime=60
PartitionName=urgent Nodes=node-a,node-b PriorityTier=10 PreemptMode=OFF
"""

# What runs in them ends with them.
NAMESPACES = ("unshare", "--mount", "--uts", "--pid", "--fork", "--mount-proc", "--kill-child")
# Its own shared memory, its own name, and the names of both; then the node itself.
NODE = """\
mount --make-rprivate / && mount -t tmpfs tmpfs /dev/shm && mount --bind {folder}/hosts /etc/hosts && hostname {node} &&
mkdir -p {folder}/tmp-{node} && exec slurmd -D -N {node} -f {folder}/slurm.conf
"""
PROLOG = """\
#!/bin/sh
echo export TMPDIR={folder}/tmp-$SLURMD_NODENAME
"""


def why_not() -> str | None:
    """Why there can be no such cluster here."""
    if missing := [program for program in PROGRAMS if not shutil.which(program)]:
        return f"not here: {', '.join(missing)} (Debian: apt-get install slurmctld slurmd slurm-client munge)"
    if subprocess.run([*NAMESPACES, "true"], capture_output=True).returncode:
        return "may not make namespaces here, which two nodes on one machine need (run as root)"
    return None


@contextlib.contextmanager
def slurm_cluster() -> Iterator[Path]:
    """Its folder, in which slurm.conf and all logs lie, while it runs; SLURM_CONF leads there."""
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # the path of a socket has to be short
    write_files(folder)
    munged = ["munged", "--foreground", "--force", f"--key-file={folder}/munge.key"]
    munged += [f"--{name}-file={folder}/munge/{name}" for name in ("log", "pid", "seed")]
    daemons = [
        [*munged, f"--socket={folder}/munge/socket"],
        ["unshare", "--uts", "sh", "-c", f"hostname node-a && exec slurmctld -D -f {folder}/slurm.conf"],
        *([*NAMESPACES, "sh", "-c", NODE.format(folder=folder, node=node)] for node in NODES),
    ]
    before, os.environ["SLURM_CONF"] = os.environ.get("SLURM_CONF"), str(folder / "slurm.conf")
    processes = []
    try:
        for number, daemon in enumerate(daemons):
            log = (folder / f"daemon-{number}.out").open("w")
            processes.append(subprocess.Popen(daemon, stdout=log, stderr=subprocess.STDOUT, cwd=folder))
            if number < 2:
                wait_for(lambda: any((folder / "munge").glob("socket")), "munge")
        wait_for(lambda: ask("sinfo", "--noheader", "--format=%T %D").strip() == "idle 2", "idle nodes")
        yield folder
    finally:
        with contextlib.suppress(subprocess.CalledProcessError, AssertionError):
            ask("scancel", "--user=root")
            wait_for(lambda: not ask("squeue", "--noheader"), "end of jobs")
        for process in processes:
            process.kill()
            process.wait()
        os.environ.pop("SLURM_CONF")
        if before is not None:
            os.environ["SLURM_CONF"] = before
        shutil.rmtree(folder)


def write_files(folder: Path) -> None:
    for name in ("munge", "state", *(f"spool-{node}" for node in NODES)):
        (folder / name).mkdir()
    (folder / "munge.key").write_bytes(secrets.token_bytes(128))
    (folder / "munge.key").chmod(0o600)
    ports = {name: free_port() for name in PORTS}
    host = socket.gethostname()
    (folder / "slurm.conf").write_text(CONFIGURATION.format(folder=folder, host=host, **ports))
    (folder / "hosts").write_text(f"127.0.0.1 localhost {host} {' '.join(NODES)}\n")
    (folder / "prolog").write_text(PROLOG.format(folder=folder))
    (folder / "prolog").chmod(0o755)


def ask(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def wait_for(done, what: str, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, f"no {what} after {seconds:g} s"
        time.sleep(0.1)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]

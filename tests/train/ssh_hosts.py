"""Two hosts on this machine, joined by one cable: each has a network, a name, processes and a shared memory of its own,
and OpenSSH's sshd with its defaults. A launcher stands on the first one."""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

NODES = {"node-a": "10.213.17.1", "node-b": "10.213.17.2"}
NOBODY = "node-c"  # has an address, and is not there
PROGRAMS = ("ip", "ssh", "sshd", "ssh-keygen", "unshare", "nsenter")
PORT = 2222

# What runs in them ends with them.
NAMESPACES = ("unshare", "--net", "--mount", "--uts", "--pid", "--fork", "--mount-proc", "--kill-child")
OWN_NAMES = "mount --make-rprivate / && mount --bind {folder}/hosts /etc/hosts"
NODE = """\
{own_names} && mount -t tmpfs tmpfs /dev/shm && hostname {node} && ip link set lo up && mkdir -p /run/sshd &&
mkdir {folder}/tmp-{node} && exec {sshd} -D -e -f {folder}/{node}.conf
"""
CONFIGURATION = """\
Port {port}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/key.pub
StrictModes no
PidFile none
SetEnv TMPDIR={folder}/tmp-{node}
"""


def why_not() -> str | None:
    """Why there can be no such hosts here."""
    if missing := [program for program in PROGRAMS if not shutil.which(program)]:
        return f"not here: {', '.join(missing)} (Debian: apt-get install iproute2 openssh-client openssh-server)"
    if subprocess.run([*NAMESPACES, "true"], capture_output=True).returncode:
        return "may not make namespaces here, which two hosts on one machine need (run as root)"
    return None


class Hosts:
    """Both, while they run."""

    def __init__(self, folder: Path, processes: dict[str, subprocess.Popen]) -> None:
        self.folder = folder
        self.processes = processes

    def on(self, node: str, *command: str) -> str:
        """What a command says that sees a host's network and folders."""
        inside = ["nsenter", f"--target={self.processes[node].pid}", "--net", "--mount"]
        return subprocess.run([*inside, *command], check=True, capture_output=True, text=True).stdout

    def plug(self, state: str) -> None:
        """Pull the cable (`down`), or plug it in again (`up`)."""
        self.on("node-b", "ip", "link", "set", "eth0", state)

    def start(self, arguments: Sequence[str], log: Path) -> subprocess.Popen:
        """`brickyard ARGUMENTS` on the first host, as the process that is returned."""
        inside = ["nsenter", f"--target={self.processes['node-a'].pid}", "--net", "unshare", "--mount", "sh", "-c"]
        exec_it = f'{OWN_NAMES.format(folder=self.folder)} && exec "$@"'
        command = [*inside, exec_it, "sh", sys.executable, "-m", "launch", *arguments]
        with log.open("a") as file:
            return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)


@contextlib.contextmanager
def ssh_hosts() -> Iterator[Hosts]:
    folder = Path(tempfile.mkdtemp(prefix="ssh-"))
    write_files(folder)
    processes = {}
    try:
        for node in NODES:
            own_names = OWN_NAMES.format(folder=folder)
            script = NODE.format(own_names=own_names, folder=folder, node=node, sshd=shutil.which("sshd"))
            log = (folder / f"{node}.log").open("w")
            processes[node] = subprocess.Popen([*NAMESPACES, "sh", "-c", script], stdout=log, stderr=subprocess.STDOUT)
        hosts = Hosts(folder, processes)
        wait_for(lambda: all("listening" in (folder / f"{node}.log").read_text() for node in NODES), "sshd")
        join(hosts)
        yield hosts
    finally:
        for process in processes.values():
            process.kill()
            process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def join(hosts: Hosts) -> None:
    """A cable between both, which is named eth0 at either end."""
    ends = [word for node in NODES for word in (f"eth-{os.getpid()}-{node[-1]}",)]
    subprocess.run(["ip", "link", "add", ends[0], "type", "veth", "peer", "name", ends[1]], check=True)
    for end, (node, address) in zip(ends, NODES.items(), strict=True):
        pid = str(hosts.processes[node].pid)
        subprocess.run(["ip", "link", "set", end, "netns", pid, "name", "eth0"], check=True)
        hosts.on(node, "ip", "address", "add", f"{address}/24", "dev", "eth0")
        hosts.on(node, "ip", "link", "set", "eth0", "up")


def write_files(folder: Path) -> None:
    for name in ("host_key", "key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    known = (folder / "host_key.pub").read_text()
    (folder / "known_hosts").write_text("".join(f"[{node}]:{PORT},[{ip}]:{PORT} {known}" for node, ip in NODES.items()))
    names = "".join(f"{address} {node}\n" for node, address in NODES.items())
    (folder / "hosts").write_text(f"127.0.0.1 localhost\n{names}10.213.17.3 {NOBODY}\n")
    for node in NODES:
        (folder / f"{node}.conf").write_text(CONFIGURATION.format(folder=folder, node=node, port=PORT))


def wait_for(done, what: str, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, f"no {what} after {seconds:g} s"
        time.sleep(0.1)

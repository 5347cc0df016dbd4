"""The commands of `brickyard launch ssh`, and the mistakes that it finds first. No other host is needed."""

import subprocess
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parent / "ssh_commands.sh"
CLUSTER = """\
hosts: [node-a, me@10.0.0.7, node-c, node-d]
ranks_per_node: 8
gpus_per_node: 8
cpus_per_rank: 12
user: trainer
port: 2222
ssh_options: [IdentityFile=~/.ssh/my cluster]
master_port: 23456
interface: eth1
setup: [module load cuda, "export GREETING='two words'"]
environment: {NCCL_DEBUG: WARN, MOTTO: two words}
secrets: [WANDB_API_KEY]
python: /shared/venv/bin/python
"""


@pytest.fixture
def launch(launch_on):
    def run(cluster=CLUSTER, *more):
        return launch_on("ssh", cluster, *more)

    return run


def test_a_dry_run_prints_the_commands_and_does_nothing(launch, tmp_path, capfd):
    assert launch(CLUSTER, "--dry-run") == 0
    said = capfd.readouterr().out
    assert said.replace(str(tmp_path), "/shared").replace(lock(said), "LOCK") == GOLDEN.read_text()
    assert "not-to-be-seen" not in said
    assert not (tmp_path / "runs").exists()


def lock(said: str) -> str:
    """The run's, which depends on where it lies."""
    return said.partition("launch.ssh.host ")[2].split()[0]


def test_a_shell_takes_the_commands_as_they_are_meant(launch, tmp_path, capfd):
    """`ssh` is a script that prints its words, and has a shell read what is for the other host's."""
    ssh = tmp_path / "bin" / "ssh"
    ssh.parent.mkdir()
    ssh.write_text("#!/bin/bash\nprintf '<%s>' \"$@\"; bash -n\n")
    ssh.chmod(0o755)
    assert launch(CLUSTER, "--dry-run") == 0
    commands = capfd.readouterr().out
    done = subprocess.run(["bash", "-c", f"PATH={ssh.parent}:$PATH\n{commands}"], capture_output=True, text=True)
    assert done.stdout.count("<-T><-o><IdentityFile=~/.ssh/my cluster><-o><BatchMode=yes>") == 4
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("[node-a, me@10.0.0.7, node-c, node-d]", "[]", "hosts: expected the names of hosts"),
        ("node-d", "-oProxyCommand=x", "hosts[3]: expected the name of a host"),
        ("node-d", "node-a", "hosts[3]: node-a is named twice"),
        (
            "ranks_per_node: 8",
            "ranks_per_node: 8\nnodes: 5",
            "nodes: expected at most the number of hosts (4), found 5",
        ),
        ("ranks_per_node: 8", "ranks_per_node: 8\nnodes: 3", "number of ranks (24), found 32"),
        ("[IdentityFile=", "[-i ", "ssh_options[0]: expected OPTION=VALUE"),
        ("NCCL_DEBUG", "WANDB_API_KEY", "put its name under `secrets`"),
        ("[WANDB_API_KEY]", "[HF_TOKEN]", "secrets[0]: HF_TOKEN is not set here"),
        ("[WANDB_API_KEY]", "[not-a-name]", "secrets[0]: expected the name of a variable, not what is in it"),
        ("master_port: 23456", "master_port: 0", "master_port: expected 1 or more, found 0"),
        ("interface", "interfaces", "interfaces: no such key; did you mean interface?"),
    ],
)
def test_mistakes_are_said_and_nothing_is_started(launch, tmp_path, capfd, monkeypatch, before, after, said):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    assert launch(CLUSTER.replace(before, after)) == 2
    assert said in capfd.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_host_that_ssh_does_not_reach_is_named(launch, tmp_path, capfd, monkeypatch):
    """`ssh` is a script that says what ssh would."""
    ssh = tmp_path / "bin" / "ssh"
    ssh.parent.mkdir()
    ssh.write_text('#!/bin/sh\necho "ssh: connect to host: No route to host" >&2; exit 255\n')
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", str(ssh.parent), prepend=":")
    assert launch() == 2
    said = capfd.readouterr().err
    assert "node-c: ssh can't reach it (ssh: connect to host: No route to host); `ssh node-c true` must work" in said
    assert not (tmp_path / "runs").exists()

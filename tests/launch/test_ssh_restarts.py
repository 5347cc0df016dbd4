"""When `brickyard launch ssh` starts a run again, and when it does not. Hosts are made up; nothing is waited for."""

from types import SimpleNamespace

import pytest

import launch.ssh.launch as ssh

CLUSTER = "hosts: [node-a, node-b]\nranks_per_node: 16\nrestarts: 2\nrestart_wait: 30\n"


@pytest.fixture
def launch(launch_on, tmp_path, monkeypatch):
    """Launches on hosts that end with these codes, attempt by attempt; returns the exit code and the waits in seconds.

    In an attempt that is marked with a step, a checkpoint of it is written before the end.
    """

    def run(*attempts, signals=()):
        waits, left = [], list(attempts)

        class Fleet(SimpleNamespace):
            def __init__(self, *arguments):
                super().__init__(log=tmp_path / "hosts.log", signals=list(signals), check=lambda orders, within: None)

            def run(self, orders):
                assert len(orders) == 2
                codes, steps[0] = left.pop(0)
                if isinstance(codes, Exception):
                    raise codes
                self.stopped = 143 in codes or 130 in codes
                return codes

        steps = [0]
        monkeypatch.setattr(ssh, "Fleet", Fleet)
        monkeypatch.setattr(ssh.RunDirectory, "steps_done", lambda self: steps[0])
        monkeypatch.setattr(ssh.Restarts, "told_to_stop_within", lambda self, wait: waits.append(wait))
        return launch_on("ssh", CLUSTER), waits

    return run


FAILED = [1, 255]


def test_a_failure_is_tried_again_with_longer_waits_up_to_a_limit(launch):
    assert launch((FAILED, 0), (FAILED, 0), (FAILED, 0)) == (1, [30, 60])
    assert launch((FAILED, 0), (ssh.Unready(["node-b: ssh can't reach it"]), 0), ([0, 0], 0)) == (0, [30, 60])


def test_a_checkpoint_between_failures_begins_the_count_anew(launch):
    attempts = [(FAILED, 10), (FAILED, 10), (FAILED, 20), (FAILED, 20), (FAILED, 30), ([0, 0], 40)]
    assert launch(*attempts) == (0, [30, 60, 30, 60, 30])


def test_so_does_a_rollback(launch):
    """The newest checkpoint is then an older one."""
    assert launch((FAILED, 20), (FAILED, 10), (FAILED, 10), ([0, 0], 15)) == (0, [30, 30, 60])


@pytest.mark.parametrize(
    ("codes", "signals", "expected"),
    [
        ([2, 1], [], 2),
        ([143, 143], [], 143),
        ([130, 130], [2], 130),
        ([143, 1], [], 143),
        ([0, 0], [15], 0),
        ([1, 255], [15], 143),
    ],
)
def test_a_mistake_and_what_was_asked_for_are_not(launch, codes, signals, expected):
    assert launch((codes, 0), signals=signals) == (expected, [])


def test_stop_is_heeded_while_hosts_are_checked(launch, tmp_path, monkeypatch, capfd):
    """And not taken for one that an earlier launcher did not heed."""
    stop = tmp_path / "runs" / "a run" / "stop"
    monkeypatch.setattr(ssh.Launch, "check", lambda self: stop.touch())
    assert launch(([0, 0], 0)) == (143, [])
    assert not stop.exists() and "stopped before training" in capfd.readouterr().err


def test_only_one_launches_a_run(launch, tmp_path, capfd):
    run = ssh.RunDirectory(tmp_path / "runs" / "a run")
    with ssh.alone(run):
        assert launch(([0, 0], 0)) == (2, [])
    assert "is launching this run; stop it, or choose another run_name" in capfd.readouterr().err
    assert not run.path.exists()

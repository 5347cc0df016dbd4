"""What runs on a host at the far end of an ssh connection, and the launcher's side of it. Pipes stand for ssh."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launch.ssh.fleet import LOST, Fleet, Unready
from launch.ssh.host import READY, holders

ROOT = Path(__file__).parents[2]
PATIENT = 'trap "trap \\"exit 9\\" TERM; echo told" TERM; echo begun; while :; do sleep 0.05; done'


@pytest.fixture
def word(tmp_path):
    """Of a run that no other test has."""
    return f"test-{os.getpid()}-{tmp_path.name}"


def far_end(word, lost_after=30.0, save_within=30.0):
    return [sys.executable, "-P", "-m", "launch.ssh.host", word, str(lost_after), str(save_within)]


@pytest.fixture
def start(word):
    """Starts a far end that has been told to run a script of the shell."""
    started = []

    def run(script, **patience):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "env": {**os.environ, "PYTHONPATH": str(ROOT)}}
        far = subprocess.Popen(far_end(word, **patience), text=True, **pipes)
        started.append(far)
        assert far.stdout.readline() == f"{READY}\n"
        order = {"command": ["sh", "-c", script], "environment": {"A_SECRET": "not-to-be-seen"}}
        tell(far, json.dumps(order))
        return far

    yield run
    for far in started:
        far.kill()
        far.wait()
    (Path("/dev/shm") / f"brickyard-{os.getuid()}-{word}.ssh").unlink(missing_ok=True)


def tell(far, line):
    far.stdin.write(f"{line}\n")
    far.stdin.flush()


def test_it_runs_what_it_is_told_and_ends_with_its_code(start):
    far = start('echo "${#A_SECRET} letters"; exit 7')
    assert far.stdout.read() == "14 letters\n"
    assert far.wait(10) == 7


def test_signals_are_handed_on(start):
    far = start(PATIENT)
    assert far.stdout.readline() == "begun\n"
    tell(far, str(int(signal.SIGTERM)))
    assert far.stdout.readline() == "told\n"
    tell(far, str(int(signal.SIGTERM)))
    assert far.wait(10) == 9


def test_when_the_launcher_is_gone_the_command_is_asked_to_end_and_then_made_to(start):
    far = start(PATIENT, save_within=1.0)
    assert far.stdout.readline() == "begun\n"
    far.stdin.close()
    assert far.stdout.read() == "told\n"
    assert far.wait(10) == 9


def test_silence_counts_as_well(start):
    far = start(PATIENT, lost_after=2.0, save_within=1.0)
    assert far.stdout.readline() == "begun\n"
    assert far.stdout.read() == "told\n"
    assert far.wait(10) == 9


def test_of_a_far_end_that_is_killed_nothing_stays_when_the_next_one_begins(start, word, tmp_path):
    """The command ignores every signal, and its child, which has its own session, is all that is left."""
    far = start(f"trap '' TERM; setsid sh -c 'trap \"\" TERM; echo $$ >{tmp_path}/pid; sleep 600' & sleep 600")
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        time.sleep(0.02)
    far.kill()
    left = int((tmp_path / "pid").read_text())
    os.kill(left, 0)
    path = Path("/dev/shm") / f"brickyard-{os.getuid()}-{word}.ssh"
    assert left in list(holders(path))
    for holder in holders(path):
        os.kill(holder, signal.SIGKILL)
    assert start("exit 3").wait(10) == 3


def fleet_of(tmp_path, **commands):
    return Fleet(dict(commands), "", tmp_path / "hosts.log", lost_after=30, save_within=0)


BEGIN = f'echo {READY}; while read order && [ -z "$order" ]; do :; done'  # as a far end does
ORDER = {"command": ["true"], "environment": {}}


def test_a_fleet_says_why_hosts_are_not_ready(tmp_path):
    fleet = fleet_of(
        tmp_path,
        away=["sh", "-c", "echo No route to host >&2; exit 255"],
        bare=["sh", "-c", "echo there is no python; exit 2"],
        fine=["sh", "-c", f"echo {READY}; cat >/dev/null"],
    )
    with pytest.raises(Unready) as reasons:
        fleet.run([ORDER] * 3)
    said = str(reasons.value)
    assert said == (
        "away: ssh can't reach it (No route to host); `ssh away true` must work without a question; "
        "bare: there is no python"
    )


def test_a_fleet_says_what_checks_have_found(tmp_path):
    fleet = fleet_of(
        tmp_path,
        good=["sh", "-c", f"{BEGIN}; echo fit"],
        ill=["sh", "-c", f"{BEGIN}; echo 'check: GPU 3 is ill; leave it out'; exit 2"],
    )
    with pytest.raises(Unready, match=r"^ill: GPU 3 is ill; leave it out$"):
        fleet.check([ORDER] * 2, within=20)


def test_a_fleet_shows_its_first_host_and_keeps_all(tmp_path, capfd):
    fleet = fleet_of(
        tmp_path,
        first=["sh", "-c", f"{BEGIN}; echo step 1"],
        second=["sh", "-c", f"{BEGIN}; echo loading; exit 7"],
    )
    assert fleet.run([ORDER] * 2) == [0, 7]
    assert sorted(capfd.readouterr().out.splitlines()) == ["second: loading", "step 1"]
    assert sorted((tmp_path / "hosts.log").read_text().splitlines()) == ["first: step 1", "second: loading"]


def test_when_a_host_fails_the_others_are_made_to_end(tmp_path, monkeypatch):
    import launch.ssh.fleet

    for name, seconds in {"GRACE": 0.1, "AGAIN": 0.1, "GIVEN_UP": 2.0}.items():
        monkeypatch.setattr(launch.ssh.fleet, name, seconds)
    fleet = fleet_of(
        tmp_path,
        failing=["sh", "-c", f"{BEGIN}; exit 1"],
        waiting=["sh", "-c", f"{BEGIN}; while read number; do [ $number = 15 ] && exit 143; done"],
        deaf=["sh", "-c", f"echo {READY}; exec sleep 600"],
    )
    assert fleet.run([ORDER] * 3) == [1, 143, LOST] and not fleet.stopped


def test_a_host_that_was_stopped_is_no_failure_of_those_that_waited_for_it(tmp_path):
    fleet = fleet_of(
        tmp_path,
        stopped=["sh", "-c", f"{BEGIN}; exit 143"],
        left=["sh", "-c", f"{BEGIN}; exit 1"],
    )
    assert fleet.run([ORDER] * 2) == [143, 1] and fleet.stopped

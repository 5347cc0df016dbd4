"""How a launch is stopped, and what it outlives."""

import os
import subprocess
import sys
import time
from pathlib import Path

import launch.local
from launch.local import Rank, Watch
from launch.stopping import HEEDED_WITHIN, forget_old_wish, told_to_stop

ROOT = Path(__file__).parents[2]
UNREAD = """
import os, sys
from launch import cli
from launch.say import say, show
from train.errors import Stopped

def train(options):
    for _ in range(1000):
        show("a line\\n")
        say("and another")
    raise Stopped(2, 7)

cli.run_train = train
sys.exit(cli.main(["train", "recipe.yaml"]))
"""


def test_a_reader_that_goes_stops_nothing_and_changes_no_exit_code():
    """As `brickyard launch ... 2>&1 | tee log` at Ctrl-C, which ends tee as well."""
    reader, writer = os.pipe()
    os.close(reader)
    ended = subprocess.run([sys.executable, "-c", UNREAD], stdout=writer, stderr=writer, cwd=ROOT)
    os.close(writer)
    assert ended.returncode == 130


def test_a_wish_is_heeded_once(tmp_path):
    stop = tmp_path / "stop"
    assert not told_to_stop(stop)
    stop.touch()
    assert told_to_stop(stop) and not told_to_stop(stop)


def test_a_folder_that_can_not_be_reached_has_no_wish(tmp_path):
    (tmp_path / "file").touch()
    forget_old_wish(tmp_path / "file" / "stop")
    assert not told_to_stop(tmp_path / "file" / "stop")


def test_a_wish_that_comes_while_a_launch_begins_is_meant_for_it(tmp_path):
    stop = tmp_path / "stop"
    stop.touch()
    forget_old_wish(stop)
    assert stop.exists()
    long_ago = time.time() - HEEDED_WITHIN - 1
    os.utime(stop, (long_ago, long_ago))
    forget_old_wish(stop)
    assert not stop.exists()


def ranks_that(tmp_path: Path, *scripts: str) -> Watch:
    (tmp_path / "rank0.log").touch()
    started = [os.spawnvp(os.P_NOWAIT, "sh", ["sh", "-c", script]) for script in scripts]
    return Watch([Rank(n, pid, tmp_path / "rank0.log", 0) for n, pid in enumerate(started)], tmp_path / "stop")


def test_ranks_that_have_stopped_give_rank_0_time_for_its_last_words(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(launch.local, "GRACE", 0.1)
    monkeypatch.setattr(launch.local, "LAST_WORDS", 0.1)
    watch = ranks_that(tmp_path, "sleep 1.5; exit 143", "exit 143")
    assert watch.until_ended() == 143
    assert [rank.code for rank in watch.ranks] == [143, 143] and capfd.readouterr().err == ""
    watch = ranks_that(tmp_path, "sleep 600", "exit 1")
    assert watch.until_ended() == 1
    assert watch.killed == watch.ranks[:1]

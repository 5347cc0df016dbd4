"""`brickyard launch check` on machines that really meet."""

import shutil
from types import SimpleNamespace

from processes import brickyard, finish, free_port, start


def test_the_ranks_of_a_machine_meet(workshop: SimpleNamespace) -> None:
    log = workshop.root / "check.log"
    assert brickyard(["launch", "check", "-n", "2", str(workshop.recipe), "run_name=checked"], log) == [0]
    assert "fit: " in log.read_text() and "ranks: 2" in log.read_text()
    assert not (workshop.root / "runs" / "checked").exists()


def test_a_machine_that_meets_nobody_says_so(workshop: SimpleNamespace) -> None:
    log, where = workshop.root / "alone.log", f"127.0.0.1:{free_port()}"
    command = ["launch", "check", "-n", "1", "--nodes", "2", "--node-rank", "0", "--master", where, "--patience", "1"]
    assert brickyard([*command, str(workshop.recipe), "run_name=checked"], log) == [2]
    assert f"check: does not meet the others at {where} (" in log.read_text()
    assert "every port between the machines must be open" in log.read_text()


def test_two_machines_meet_and_each_says_what_is_wrong_with_it(workshop: SimpleNamespace) -> None:
    log, where = workshop.root / "checks.log", ["--nodes", "2", "--master", f"127.0.0.1:{free_port()}"]
    command = ["launch", "check", "-n", "1", *where, str(workshop.recipe), "run_name=checked"]
    bad = shutil.copytree(workshop.dataset, workshop.root / "damaged")
    next(bad.rglob("*.mds")).unlink()
    first = start([*command, "--node-rank", "0"], log)
    second = start([*command, "--node-rank", "1", f"dataset.path={bad}"], log)
    assert finish([*first, *second]) == [0, 2]
    said = log.read_text()
    assert "fit: " in said and f"check: shard {bad}" in said
    assert not list(workshop.root.glob("**/.check-*"))

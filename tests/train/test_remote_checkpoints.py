"""A run's copy in an object store: a run goes on from it on an empty disk, and from any kind of store."""

import errno
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from s3_server import S3Settings, s3_server

from data.errors import DataError
from data.stores import FsspecStore, Store, open_store
from train.checkpoints.checksums import read_checksums, write_checksums
from train.checkpoints.names import steps_of
from train.checkpoints.remote import RemoteRun, send_newest
from train.checkpoints.retention import Retention
from train.errors import RecipeError
from train.run_directory import RunDirectory

from metric_rows import rows
from processes import brickyard

BUCKET = "bricks"


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Settings]:
    """A server that speaks as S3 does, with an empty bucket."""
    with s3_server(BUCKET) as settings:
        yield settings


@pytest.fixture(params=["file", "memory", "s3", "s3 at its root"])
def store(request: pytest.FixtureRequest, tmp_path: Path, s3: S3Settings) -> Store:
    urls = {
        "file": f"file://{tmp_path}/copies/run",
        "memory": "memory://copies/run",
        "s3": f"s3://{BUCKET}/copies/run/",
        "s3 at its root": f"s3://{BUCKET}",
    }
    return open_store(urls[request.param])


def test_every_kind_of_store_does_the_same(store: Store, tmp_path: Path) -> None:
    file, fetched = tmp_path / "file", tmp_path / "fetched"
    for content in (b"one", b"two"):  # a file may come again
        file.write_bytes(content)
        store.put(file, "a/b/c")
    store.put(file, "a/bc")
    store.put(file, "d")
    assert [key for key in store.find() if not key.startswith("copies/")] == ["a/b/c", "a/bc", "d"]
    assert store.find("a/b/") == ["a/b/c"] and store.sizes("a/b/") == {"a/b/c": 3}
    assert store.find("a/b") == ["a/b/c", "a/bc"]
    assert store.find("nothing/here") == []
    store.get("a/b/c", fetched)
    assert fetched.read_bytes() == b"two"
    store.remove(["a/b/c", "d"])
    store.remove([])
    assert store.find("a") == ["a/bc"]
    with pytest.raises(Exception, match=r"404|a/b/c"):
        store.get("a/b/c", fetched)
    store.remove(["a/bc"])


def test_a_file_that_cannot_be_put_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, store = tmp_path / "metrics.jsonl", FsspecStore(f"file://{tmp_path}/copies")
    file.write_text("row\n")
    store.put(file, "metrics.jsonl")
    file.write_text("row\n" * 2)

    def put_half(here: str, there: str) -> None:
        Path(there).write_text("ro")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(store._files, "put_file", put_half)
        with pytest.raises(OSError, match="No space left"):
            store.put(file, "metrics.jsonl")
    (tmp_path / "copies" / ".partial-metrics.jsonl").write_text("ro")  # as if it had been killed
    assert store.sizes() == {"metrics.jsonl": 4}
    store.put(file, "metrics.jsonl")
    assert store.sizes() == {"metrics.jsonl": 8}
    assert [path.name for path in (tmp_path / "copies").iterdir()] == ["metrics.jsonl"]


def test_what_s3_refuses_to_remove_is_not_taken_for_removed(
    tmp_path: Path, s3: S3Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a rollback a copy that is left would bring back what was gone back from."""
    store = open_store(f"s3://{BUCKET}/refused")
    remote = RemoteRun(store)
    for checkpoint in _made_up(tmp_path, 4, 8):
        remote.put_files(checkpoint, ["checksums.json"])

    def refuse(Bucket: str, Delete: dict[str, Any]) -> dict[str, Any]:
        return {"Errors": [{**one, "Code": "AccessDenied", "Message": "Access Denied"} for one in Delete["Objects"]]}

    monkeypatch.setattr(store._client, "delete_objects", refuse)  # type: ignore[attr-defined]
    with pytest.raises(RecipeError, match=r"^can't remove the checkpoints after step 4 at s3:.*: .*AccessDenied"):
        remote.forget_after(4)
    assert remote.steps() == [4, 8]


def _made_up(folder: Path, *steps: int) -> list[Path]:
    made = []
    for step in steps:
        checkpoint = folder / f"ba{step:08d}"
        (checkpoint / "tokenizer").mkdir(parents=True)
        (checkpoint / "tokenizer" / "ranks").write_text("ranks")
        (checkpoint / "__0_0.distcp").write_bytes(bytes(range(100)))
        write_checksums(checkpoint, {})
        made.append(checkpoint)
    return made


def test_half_a_copy_is_none_and_a_damaged_one_is_passed_over(tmp_path: Path) -> None:
    remote = RemoteRun(open_store(f"file://{tmp_path}/copies/run"))
    run = tmp_path / "run"
    run.mkdir()
    by_hand = tmp_path / "copies/run/checkpoints/ba00000100.bak"
    by_hand.mkdir(parents=True)
    (by_hand / "checksums.json").touch()
    (run / "metrics.jsonl").write_text("rows\n")
    for checkpoint in _made_up(run / "checkpoints", 4, 8, 12, 16):
        remote.put_files(checkpoint, ["__0_0.distcp", "tokenizer/ranks"])
        if checkpoint.name != "ba00000016":
            remote.complete(checkpoint, run, Retention(2))
    assert remote.steps() == [8, 12]
    (tmp_path / "copies/run/checkpoints/ba00000012/__0_0.distcp").write_bytes(bytes(100))
    said: list[str] = []
    elsewhere = RunDirectory(tmp_path / "elsewhere")
    remote.fetch_newest(elsewhere, said.append)
    assert [path.name for path in elsewhere.checkpoints.iterdir()] == ["ba00000008"]
    assert (elsewhere.checkpoints / "ba00000008" / "tokenizer" / "ranks").read_text() == "ranks"
    assert elsewhere.metrics.read_text() == "rows\n"
    assert sum("the copy of ba00000012" in line and "is damaged" in line for line in said) == 1


def test_what_was_written_to_stay_for_ever_stays_at_the_remote(tmp_path: Path) -> None:
    remote = RemoteRun(open_store(f"file://{tmp_path}/copies/run"))
    for checkpoint in _made_up(tmp_path / "run" / "checkpoints", 4, 8, 12, 16):
        Retention(1, keep_every=8).mark(checkpoint, steps_of(checkpoint))
        write_checksums(checkpoint, {})
        remote.put_files(checkpoint, read_checksums(checkpoint))
        remote.complete(checkpoint, tmp_path / "run", Retention(1, keep_every=5))
    assert remote.steps() == [8, 16]


def test_what_is_left_of_copies_that_failed_goes(tmp_path: Path) -> None:
    remote, copies = RemoteRun(open_store(f"file://{tmp_path}/copies/run")), tmp_path / "copies/run/checkpoints"

    def left() -> set[str]:
        return {path.relative_to(copies).parts[0] for path in copies.rglob("*") if path.is_file()}

    made = _made_up(tmp_path / "run" / "checkpoints", 4, 8, 12, 16)
    for checkpoint in made:
        remote.put_files(checkpoint, ["__0_0.distcp", "tokenizer/ranks"])
    remote.complete(made[2], tmp_path / "run", Retention(1))
    assert left() == {"ba00000012", "ba00000016"}  # a newer one may be whole soon
    remote.forget_after(12)
    assert left() == {"ba00000012"}


def test_a_fetch_that_is_cut_short_is_made_anew_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the run's own files a checkpoint does not count: the run would go on as another one."""
    remote = RemoteRun(open_store(f"file://{tmp_path}/copies/run"))
    run, elsewhere = tmp_path / "run", RunDirectory(tmp_path / "elsewhere")
    [checkpoint] = _made_up(run / "checkpoints", 4)
    (run / "wandb_id").write_text("theirs")
    remote.put_files(checkpoint, ["__0_0.distcp", "tokenizer/ranks"])
    remote.complete(checkpoint, run, Retention(2))
    get = remote.store.get

    def cut_short(key: str, to: Path) -> None:
        if key == "wandb_id":
            raise ConnectionError("the line is cut")
        get(key, to)

    with monkeypatch.context() as patch:
        patch.setattr(remote.store, "get", cut_short)
        with pytest.raises(ConnectionError):
            remote.fetch_newest(elsewhere, lambda line: None)
    assert elsewhere.steps_done() == 0
    remote.fetch_newest(elsewhere, lambda line: None)
    assert elsewhere.steps_done() == 4 and elsewhere.wandb_id() == "theirs"


def test_one_that_is_damaged_here_makes_way_for_its_copy(tmp_path: Path) -> None:
    remote = RemoteRun(open_store(f"file://{tmp_path}/copies/run"))
    run = RunDirectory(tmp_path / "run")
    [checkpoint] = _made_up(run.checkpoints, 4)
    remote.put_files(checkpoint, ["__0_0.distcp", "tokenizer/ranks"])
    remote.complete(checkpoint, run.path, Retention(2))
    (checkpoint / "__0_0.distcp").write_bytes(b"cut short")
    assert run.steps_done() == 0
    remote.fetch_newest(run, lambda line: None)
    assert run.steps_done() == 4
    assert (checkpoint / "__0_0.distcp").read_bytes() == bytes(range(100))


def test_a_damaged_checkpoint_is_not_sent_where_good_ones_are(tmp_path: Path) -> None:
    checkpoints = SimpleNamespace(remote=f"file://{tmp_path}/copies")
    recipe: Any = SimpleNamespace(checkpoints=checkpoints, run_name="run", retention=Retention(1))
    run, said, remote = (
        RunDirectory(tmp_path / "run"),
        list[str](),
        RemoteRun(open_store(f"file://{tmp_path}/copies/run")),
    )
    _made_up(run.checkpoints, 4)
    send_newest(recipe, run, said.append)
    send_newest(recipe, run, said.append)
    assert [line.split(" to ")[0] for line in said] == ["copying ba00000004"] and remote.steps() == [4]
    [newer] = _made_up(run.checkpoints, 8)
    (newer / "__0_0.distcp").write_bytes(bytes(100))
    with pytest.raises(RecipeError, match=r"^can't copy .*ba00000008 to .*__0_0\.distcp is not what was written"):
        send_newest(recipe, run, said.append)
    assert remote.steps() == [4]


def test_addresses_that_nothing_here_speaks_to() -> None:
    with pytest.raises(DataError, match=r"^carrier-pigeon://x: "):
        open_store("carrier-pigeon://x")
    recipe = SimpleNamespace(checkpoints=SimpleNamespace(remote="carrier-pigeon://x"), run_name="run")
    with pytest.raises(RecipeError, match=r"^checkpoints\.remote: carrier-pigeon://x/run: "):
        RemoteRun.of(recipe)  # type: ignore[arg-type]


def train(
    workshop: SimpleNamespace, name: str, s3: S3Settings, *overrides: str, ranks: int = 1
) -> tuple[list[int | None], str]:
    log = workshop.root / f"{name}.log"
    command = ["train", str(workshop.recipe), f"run_name={name}", f"checkpoints.remote=s3://{BUCKET}/runs", *overrides]
    code = brickyard(command, log, ranks, before=s3)
    return code, log.read_text()


def test_a_run_goes_on_from_its_copy(workshop: SimpleNamespace, s3: S3Settings) -> None:
    """On an empty disk, on two ranks, and where the copy on the disk is damaged."""
    run = workshop.root / "runs" / "copied"
    quiet = ["model.resid_pdrop=0", "model.ffn_config.moe_jitter_eps=null"]
    code, log = train(workshop, "copied", s3, *quiet, ranks=2)
    assert code == [0, 0], log
    copies = RemoteRun(open_store(f"s3://{BUCKET}/runs/copied"))
    assert copies.steps() == [8, 12]
    before = rows(run)
    shutil.rmtree(run)
    code, log = train(workshop, "copied", s3, *quiet, "max_duration=16ba")
    assert code == [0], log
    assert f"fetching ba00000012 from s3://{BUCKET}/runs/copied" in log
    assert rows(run)[: len(before)] == before
    assert [row["batch"] for row in rows(run) if "optimizer/lr" in row] == list(range(1, 17))
    assert copies.steps() == [12, 16]
    tensors = run / "checkpoints" / "ba00000016" / "__0_0.distcp"
    tensors.write_bytes(bytes(tensors.stat().st_size))
    code, log = train(workshop, "copied", s3, *quiet, "max_duration=20ba")
    assert code == [0], log
    assert "ba00000016 is set aside" in log and "going on from" in log and "at step 16" in log
    copies.store.remove(["checkpoints/ba00000020/checksums.json"])  # as if the last copy had failed
    code, log = train(workshop, "copied", s3, *quiet, "max_duration=20ba")
    assert code == [0] and f"copying ba00000020 to s3://{BUCKET}/runs/copied, where it is not yet" in log, log
    assert copies.steps() == [16, 20]
    shutil.rmtree(run)
    code, log = train(workshop, "copied", s3, "seed=7", "max_duration=24ba")  # what the run began with is known
    assert (code, "seed: 3 -> 7" in log) == ([2], True)


def test_a_store_that_is_not_there(workshop: SimpleNamespace, s3: S3Settings) -> None:
    code, log = train(workshop, "nowhere", s3, "checkpoints.remote=s3://no-such-bucket/runs")
    assert code == [2]
    assert "can't fetch the run from s3://no-such-bucket/runs/nowhere: " in log
    assert "Traceback" not in log

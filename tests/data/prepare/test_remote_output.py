"""A dataset at a URL: a reader finds a whole one at any moment, and what is there is not brought again."""

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from pyspark.sql import SparkSession
from s3_server import S3Settings, s3_server

from data import remote
from data.errors import DataError
from data.manifest import Manifest, folder_of
from data.prepare import bpe, upload
from data.prepare.job import prepare
from data.prepare.recipe import Domain, PrepareRecipe, Source, TokenizerChoice, TokenizerKind
from data.prepare.upload import LIKE_OURS, OURS, RemoteDataset, indexes_of, shards_of
from data.prepare.whole import verify_all
from data.stores import FsspecStore, S3Store, open_store

from corpus import ordinary_documents

BUCKET = "bricks"


class KilledError(BaseException):
    pass


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload, "PAUSES", (0.0, 0.0))


def silent(line: str) -> None:
    pass


def make_dataset(folder: Path, seed: int, shards: int, domains: tuple[str, ...] = ("web", "code")) -> Manifest:
    """A dataset of made-up shards; `web` is the same for every seed."""
    from data.manifest import DomainRecord, SplitRecord, TokenizerRecord, shard_record
    from data.prepare.shards import shard_name, write_index
    from data.tokenizer import Tokenizer

    tokenizer = Tokenizer(
        f"of {seed}", f"{seed}|.", {bytes([byte]): byte for byte in range(256)}, {"<|endoftext|>": 256}
    )
    tokenizer.save(folder / "tokenizer")
    (folder / "target_counts.parquet").write_text(f"of {seed}")
    records = {}
    for domain in domains:
        entries, place = [], folder / folder_of(domain, "train")
        place.mkdir(parents=True)
        for number in range(shards):
            content = f"{domain} {number} of {0 if domain == 'web' else seed}".encode().ljust(40)
            (place / "new").write_bytes(content)
            name = f"{shard_name(number, place / 'new')}.mds"
            (place / "new").rename(place / name)
            raw = {"basename": name, "bytes": 40, "hashes": {}}
            entries.append({"samples": 1, "raw_data": raw, "zip_data": None})
        write_index(place, entries)
        of_lineage = folder / "lineage" / folder_of(domain, "train") / "part-00000.parquet"
        of_lineage.parent.mkdir(parents=True)
        of_lineage.write_text(f"of {domain}")
        split = SplitRecord(1, 10 * shards, 0, shards, [shard_record(entry) for entry in entries])
        records[domain] = DomainRecord(1, {}, 0, 1, [], {}, {"train": split}, None)
    of_tokenizer = TokenizerRecord(tokenizer.name, 257, 256, tokenizer.fingerprint, "tokenizer")
    manifest = Manifest(10, "uint16", seed, 0.0, of_tokenizer, records, "r", {})
    manifest.write(folder)
    return manifest


def read_as_a_run_does(url: str, cache: Path) -> Manifest:
    """Everything that a reader of the remote's manifest needs is there, and is what the manifest says."""
    shutil.rmtree(cache, ignore_errors=True)
    manifest = remote.fetch(url, cache)
    remote.fetch_tokenizer(url, cache, manifest)
    assert remote.is_tokenizer(cache / "tokenizer", manifest)
    for key, size in shards_of(manifest).items():
        assert Path(url, key).stat().st_size == size
    return manifest


@pytest.fixture
def there(tmp_path: Path) -> Path:
    return tmp_path / "there"


def test_a_reader_finds_one_whole_dataset_at_any_moment_of_a_replacement(
    tmp_path: Path, there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [make_dataset(tmp_path / f"{seed}", seed, 2 + seed) for seed in range(3)]
    made.append(make_dataset(tmp_path / "3", 3, 2, domains=("web", "books")))
    monkeypatch.setattr(upload, "UPLOADED_AT_ONCE", 1)
    found: list[str] = []

    def looking(do: Callable[..., None]) -> Callable[..., None]:
        def look(store: FsspecStore, *what: object) -> None:
            do(store, *what)
            if (there / "manifest.json").exists():
                found.append(read_as_a_run_does(str(there), tmp_path / "cache").fingerprint)
                for key, size in shards_of(previous).items():  # a run that began before goes on
                    assert (there / key).stat().st_size == size

        return look

    previous = made[0]
    monkeypatch.setattr(FsspecStore, "put", looking(FsspecStore.put))
    monkeypatch.setattr(FsspecStore, "remove", looking(FsspecStore.remove))
    for number, manifest in enumerate(made):
        found.clear()
        previous = made[max(0, number - 1)]
        RemoteDataset(f"file://{there}").upload(tmp_path / f"{number}", manifest, silent)
        assert found[-1] == manifest.fingerprint
        assert found == sorted(found, key=[previous.fingerprint, manifest.fingerprint].index), (
            "first one, then the other"
        )
        assert RemoteDataset(f"file://{there}").whole() == manifest
    keys = [path.relative_to(there).as_posix() for path in there.rglob("*") if path.is_file()]
    versions = {key.split("/")[1] for key in keys if key.startswith(".versions/")}
    assert versions == {"files.json", *(of.fingerprint[:16] for of in made[2:])}
    assert {key for key in keys if key.endswith(".mds")} == {key for of in made[2:] for key in shards_of(of)}
    assert {key for key in keys if re.fullmatch(r"[a-z]+/train/index\.json", key)} == indexes_of(made[3])
    assert all(OURS.fullmatch(key) or LIKE_OURS.fullmatch(key) for key in keys if key != "manifest.json")


def test_killed_at_any_file_it_goes_on_and_the_reader_has_the_one_or_the_other(
    tmp_path: Path, there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = make_dataset(tmp_path / "old", 1, 3), make_dataset(tmp_path / "new", 2, 4)
    put, left, brought = FsspecStore.put, [0], []

    def put_some(store: FsspecStore, file: Path, key: str) -> None:
        if left[0] == 0:
            raise KilledError
        left[0] -= 1
        put(store, file, key)
        brought.append(key)

    monkeypatch.setattr(upload, "UPLOADED_AT_ONCE", 1)
    monkeypatch.setattr(FsspecStore, "put", put_some)
    dataset = RemoteDataset(f"file://{there}")
    for allowed in range(100):
        shutil.rmtree(there, ignore_errors=True)
        left[0] = 100
        dataset.upload(tmp_path / "old", old, silent)
        left[0] = allowed
        try:
            dataset.upload(tmp_path / "new", new, silent)
            break
        except KilledError:
            assert read_as_a_run_does(str(there), tmp_path / "cache") == old
        brought.clear()
        left[0] = 100
        dataset.upload(tmp_path / "new", new, silent)
        assert read_as_a_run_does(str(there), tmp_path / "cache") == new
        shards = [key for key in brought if key.endswith(".mds")]
        assert len(shards) == max(0, 5 - allowed) and len(set(brought) & set(shards_of(old))) == 0
    assert allowed > 10


def test_a_store_that_fails_is_tried_again_and_then_named(
    tmp_path: Path, there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = make_dataset(tmp_path / "made", 1, 2)
    put, tries = FsspecStore.put, []

    def fail(times: int) -> Callable[..., None]:
        def failing(store: FsspecStore, file: Path, key: str) -> None:
            tries.append(key)
            if tries.count(key) <= times:
                raise OSError(28, "No space left on device")
            put(store, file, key)

        return failing

    monkeypatch.setattr(FsspecStore, "put", fail(times=2))
    RemoteDataset(f"file://{there}").upload(tmp_path / "made", manifest, silent)
    assert RemoteDataset(f"file://{there}").whole() == manifest
    other = make_dataset(tmp_path / "other", 2, 2)
    tries.clear()
    monkeypatch.setattr(FsspecStore, "put", fail(times=3))
    with pytest.raises(
        DataError, match=r"^output: can't bring code/train/shard\S+ to file://\S+: .*No space left.*; once"
    ):
        RemoteDataset(f"file://{there}").upload(tmp_path / "other", other, silent)
    assert RemoteDataset(f"file://{there}").whole() == manifest


def test_what_is_no_dataset_is_not_replaced_and_foreign_files_stay(tmp_path: Path, there: Path) -> None:
    there.mkdir()
    (there / "thesis.tex").write_text("mine")
    dataset = RemoteDataset(f"file://{there}/")
    with pytest.raises(
        DataError, match=r"holds 1 file and no prepared dataset, such as thesis\.tex; choose another URL"
    ):
        dataset.check_replaceable()
    (there / "thesis.tex").unlink()
    theirs = there / "c4" / "train"  # somebody's MDS dataset, whose shards have no hash in their names
    theirs.mkdir(parents=True)
    (theirs / "shard.00000.mds").write_text("theirs")
    (theirs / "index.json").write_text("theirs")
    with pytest.raises(DataError, match=r"such as c4/train/shard\.00000\.mds; choose another URL"):
        dataset.check_replaceable()
    theirs.parent.rename(tmp_path / "c4")
    dataset.upload(tmp_path / "made", make_dataset(tmp_path / "made", 1, 2), silent)
    (there / "README.md").write_text("mine")
    (tmp_path / "c4").rename(theirs.parent)  # it comes to lie there later
    for seed in (2, 3):
        dataset.check_replaceable()
        dataset.upload(tmp_path / f"{seed}", make_dataset(tmp_path / f"{seed}", seed, 2), silent)
    assert (there / "README.md").read_text() == "mine"
    assert {file.name: file.read_text() for file in theirs.iterdir()} == {
        "shard.00000.mds": "theirs",
        "index.json": "theirs",
    }
    with pytest.raises(DataError, match=r"^output: carrier-pigeon://x: "):
        RemoteDataset("carrier-pigeon://x")


def test_files_of_fixed_names_are_brought_again_only_if_they_changed(
    tmp_path: Path, there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    brought, put = [], FsspecStore.put
    monkeypatch.setattr(FsspecStore, "put", lambda *of: (brought.append(of[2]), put(*of)))
    dataset = RemoteDataset(f"file://{there}")
    manifests = []
    for seed in (1, 2):
        manifests.append(make_dataset(tmp_path / f"{seed}", seed, 2))
        (tmp_path / f"{seed}" / "web" / "train" / "shard.00000.0a1b2c3d4e5f.mds").touch()  # a run has unpacked it
        (tmp_path / f"{seed}" / "quarantine").mkdir()
        (tmp_path / f"{seed}" / "quarantine" / "part-00000.parquet").write_text("the same")
        brought.clear()
        dataset.upload(tmp_path / f"{seed}", manifests[-1], silent)
    assert not [key for key in brought if "0a1b2c3d4e5f" in key]
    assert "quarantine/part-00000.parquet" not in brought and "web/train/index.json" not in brought
    assert {"code/train/index.json", "tokenizer/encoding.json", "manifest.json"} <= set(brought)
    assert brought[-1] == "manifest.json"
    (there / "code" / "train" / "index.json").unlink()
    brought.clear()
    dataset.upload(tmp_path / "2", manifests[1], silent)
    assert "code/train/index.json" in brought and not [key for key in brought if key.endswith(".mds")]


@pytest.mark.parametrize(
    "lost",
    [
        "tokenizer/encoding.json",
        "target_counts.parquet",
        "lineage/code/train/part-00000.parquet",
        ".versions/*/code/train/index.json",
        ".versions/*/tokenizer/ranks.tiktoken",
        "web/train/shard.00001.*.mds",
    ],
)
def test_what_has_lost_a_file_is_not_whole(tmp_path: Path, there: Path, lost: str) -> None:
    manifest = make_dataset(tmp_path / "made", 1, 2)
    dataset = RemoteDataset(f"file://{there}")
    dataset.upload(tmp_path / "made", manifest, silent)
    assert dataset.whole() == manifest == verify_all(tmp_path / "made")
    [file] = there.glob(lost)
    file.unlink()
    assert dataset.whole() is None
    if not lost.startswith(".versions"):
        (tmp_path / "made" / file.relative_to(there)).unlink()
        with pytest.raises(DataError, match=rf"{file.name if 'lineage' not in lost else 'code/train'} is missing"):
            verify_all(tmp_path / "made")


def test_a_dataset_there_that_lost_a_shard_is_not_replaced_by_one_that_does_not_go_on_from_it(
    tmp_path: Path, there: Path
) -> None:
    texts = ordinary_documents("web", 30)
    write_text(tmp_path, web=texts, code=texts)
    bpe.train(iter(texts), 300, "small").save(tmp_path / "ranks")
    manifest = make_dataset(tmp_path / "made", 1, 2)
    RemoteDataset(f"file://{there}").upload(tmp_path / "made", manifest, silent)
    next(there.glob("code/train/*.mds")).unlink()
    with pytest.raises(DataError, match=r"append: file://.* has a dataset that the one in .* does not go on from"):
        prepare(dataclasses.replace(recipe_in(tmp_path), output=f"file://{there}", append=True), silent)


# On a server, with Spark.


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Settings]:
    with s3_server(BUCKET) as settings:
        yield settings


def write_text(folder: Path, **of_domain: list[str]) -> None:
    for domain, texts in of_domain.items():
        (folder / f"{domain}.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))


def recipe_in(folder: Path) -> PrepareRecipe:
    return PrepareRecipe(
        output=f"s3://{BUCKET}/data/small",
        local=str(folder / "local" / "small"),
        domains={name: Domain([Source(str(folder / f"{name}.jsonl"))]) for name in ("web", "code")},
        max_seq_len=32,
        heldout_fraction=0.2,
        tokenizer=TokenizerChoice(TokenizerKind.ranks, path=str(folder / "ranks")),
        shard_size_mb=0.001,
        compression="zstd",
    )


def test_a_dataset_in_a_bucket(
    s3: S3Settings, spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    web, code = ordinary_documents("web", 30), ordinary_documents("code", 30)
    write_text(tmp_path, web=web, code=code)
    bpe.train(iter([*web, *code]), 300, "small").save(tmp_path / "ranks")
    recipe = recipe_in(tmp_path)
    brought: list[str] = []
    put = S3Store.put
    monkeypatch.setattr(S3Store, "put", lambda *of: (brought.append(of[2]), put(*of)))
    first = prepare(recipe, silent, spark)
    store = open_store(recipe.output)
    assert set(store.find()) == set(brought) and brought[-1] == "manifest.json"
    assert Manifest.read(recipe.folder) == first
    assert_same_samples(recipe, first, tmp_path / "cache")

    brought.clear()
    said: list[str] = []
    assert prepare(recipe, said.append) == first, "without Spark"
    assert said == [f"{recipe.output} is up to date: nothing to do"] and not brought

    write_text(tmp_path, code=[*code, *ordinary_documents("more", 20)])
    monkeypatch.setattr(S3Store, "put", killed_after(3, put))
    with pytest.raises(KilledError):
        prepare(recipe, silent, spark)
    assert remote.fetch(recipe.output, tmp_path / "cache") == first, "the old one is whole"
    sent = kill_while_uploading(tmp_path, s3)
    assert remote.fetch(recipe.output, tmp_path / "cache") == first
    shutil.rmtree(tmp_path / "cache")
    assert_same_samples(recipe, first, tmp_path / "cache", compare=False)

    monkeypatch.setattr(S3Store, "put", lambda *of: (brought.append(of[2]), put(*of)))
    said.clear()
    second = prepare(recipe, said.append)
    assert said[0] == f"{recipe.folder} is up to date: nothing to do" and "uploading" in said[1]
    shards = [key for key in brought if ".mds" in key]
    new = shards_of(second).keys() - shards_of(first).keys()
    assert 0 < len(shards) < len(new) and set(shards) <= new, "what was brought before it was killed is not again"
    assert not [key for key in new if key.startswith("web/")] and sent
    assert_same_samples(recipe, second, tmp_path / "cache of the second")


def killed_after(files: int, put: Callable[..., None]) -> Callable[..., None]:
    left = [files]

    def some(*of: object) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise KilledError
        put(*of)

    return some


def kill_while_uploading(folder: Path, s3: S3Settings) -> int:
    """Kills -9 a job that needs no Spark any more, when it has uploaded a few files; returns how many."""
    script = f"""
        import sys, time
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from pathlib import Path
        from data.stores import S3Store
        from test_remote_output import recipe_in
        from data.prepare.job import prepare
        put = S3Store.put
        def slow(store, file, key):
            put(store, file, key)
            print(key, flush=True)
            time.sleep(0.5)
        S3Store.put = slow
        prepare(recipe_in(Path({str(folder)!r})), lambda line: None)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    env = {**os.environ, **s3.settings, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as process:
        assert process.stdout is not None
        sent = next(number for number, _ in enumerate(process.stdout, start=1) if number == 2)
        os.kill(process.pid, signal.SIGKILL)
        process.wait(timeout=60)
    assert process.returncode == -signal.SIGKILL
    return sent


def assert_same_samples(recipe: PrepareRecipe, manifest: Manifest, cache: Path, compare: bool = True) -> None:
    """Our loader's reader finds, sample by sample, the tokens that were made here."""
    from data.mixture.prepared import PreparedDataset

    assert remote.fetch(recipe.output, cache) == manifest
    for domain in manifest.domains:
        place = folder_of(domain, "train")
        read = PreparedDataset([cache / place], [f"{recipe.output}/{place}"], batch_size=1)
        rows = np.stack([read[number]["tokens"] for number in range(read.num_samples)])
        assert len(rows) == manifest.domains[domain].splits["train"].samples
        if compare:
            there = cache / "here" / place
            shutil.copytree(recipe.folder / place, there)
            here = PreparedDataset([there], None, batch_size=1)
            assert (rows == np.stack([here[number]["tokens"] for number in range(here.num_samples)])).all()


def test_a_bucket_that_is_not_there_ends_in_a_sentence(
    s3: S3Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from launch.cli import main

    write_text(tmp_path, web=["text"])
    (tmp_path / "recipe.yaml").write_text(
        f"output: s3://no-such-bucket/data\nlocal: {tmp_path}/here\n"
        f"domains: {{web: {{sources: [{{path: {tmp_path}/web.jsonl}}]}}}}\n"
    )
    assert main(["prepare", str(tmp_path / "recipe.yaml")]) == 2
    said = capsys.readouterr().err
    assert "output: can't list the files at s3://no-such-bucket/data: " in said and "Traceback" not in said


def test_a_file_that_is_no_longer_wanted_goes_although_an_upload_was_cut_short(
    tmp_path: Path, there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as the index of a domain that the recipe has no more: the inventory knows it until it is gone."""
    dataset = RemoteDataset(f"file://{there}")
    dataset.upload(tmp_path / "one", make_dataset(tmp_path / "one", 1, 2), silent)
    gone, inventory = there / "gone" / "train" / "index.json", there / ".versions" / "files.json"
    gone.parent.mkdir(parents=True)
    gone.write_text("{}")
    inventory.write_text(json.dumps(json.loads(inventory.read_text()) | {"gone/train/index.json": [2, "hash"]}))
    two, put = make_dataset(tmp_path / "two", 2, 2), FsspecStore.put

    def cut_short(store: FsspecStore, file: Path, key: str) -> None:
        if key == "manifest.json":
            raise DataError("cut short")
        put(store, file, key)

    with monkeypatch.context() as patch:
        patch.setattr(FsspecStore, "put", cut_short)
        patch.setattr("data.prepare.upload.PAUSES", ())
        with pytest.raises(DataError):
            dataset.upload(tmp_path / "two", two, silent)
    assert gone.exists()
    dataset.upload(tmp_path / "two", two, silent)
    assert not gone.exists() and dataset.whole() == two

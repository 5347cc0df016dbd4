"""Lineage: the same files however rows come, little of them read for a sample, and a command that reads them."""

import json

import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from data.lineage import SCHEMA, fragments, shard_of
from data.manifest import (
    DomainRecord,
    Manifest,
    ShardRecord,
    SplitRecord,
    TokenizerRecord,
)
from data.prepare import lineage
from data.prepare.shards import plan
from launch.cli import main

LENGTH, TOKENS = 8, 13  # of a sample; of a document
DOCUMENTS, PER_SHARD = 400, 10


def rows():
    """Documents one after the other in one split, as Spark gives them to the tasks."""
    for number in range(DOCUMENTS):
        offset = number * TOKENS
        sample, shard = offset // LENGTH, offset // (LENGTH * PER_SHARD)
        place = {"shard": shard, "sample": sample, "position": offset % LENGTH, "tokens": TOKENS, "bytes": 50}
        origin = {"key": f"{number:064}", "source": 0, "origin": f"page {number}", "licence": None, "time": "2024"}
        span = {"first_sample": sample, "last_sample": (offset + TOKENS - 1) // LENGTH, "pieces": None}
        yield {"domain": "web", "split": "train", **place, **origin, **span, "first_shard": shard, "part": shard // 30}


def write(folder, at_once):
    schema = pa.schema([*SCHEMA, ("first_shard", pa.int64()), ("part", pa.int64())])
    table = pa.Table.from_pylist(list(rows()), schema)
    return sum(
        batch["documents"][0].as_py()
        for batch in lineage._write_parts(iter(table.to_batches(max_chunksize=at_once)), folder)
    )


@pytest.fixture
def dataset(tmp_path, monkeypatch):
    monkeypatch.setattr(lineage, "GROUP_DOCUMENTS", 50)
    assert write(tmp_path / "lineage", 1000) == DOCUMENTS
    samples = DOCUMENTS * TOKENS // LENGTH
    sizes = [min(PER_SHARD, samples - first) for first in range(0, samples, PER_SHARD)]
    shards = [ShardRecord(f"shard.{number:05}.mds", size, 1, {}) for number, size in enumerate(sizes)]
    split = SplitRecord(DOCUMENTS, DOCUMENTS * TOKENS, 0, samples, shards)
    domain = DomainRecord(DOCUMENTS, {}, 0, 1, [], {}, {"train": split}, None)
    tokenizer = TokenizerRecord("bpe", 300, 299, "f" * 64, "tokenizer")
    Manifest(LENGTH, "uint16", 17, 0.0, tokenizer, {"web": domain}, "a" * 64, {"web": "b" * 64}).write(tmp_path)
    return tmp_path


def test_files_do_not_depend_on_how_rows_come(dataset, tmp_path, monkeypatch):
    first = {path.name: path.read_bytes() for path in (dataset / "lineage" / "web" / "train").iterdir()}
    assert sorted(first) == ["part-00000.parquet", "part-00030.parquet", "part-00060.parquet"]
    for at_once in (1, 7, 50, 51):
        write(tmp_path / str(at_once), at_once)
        assert first == {path.name: path.read_bytes() for path in (tmp_path / str(at_once) / "web/train").iterdir()}


def test_little_is_read_for_a_sample(dataset):
    of_split = pyarrow.dataset.dataset(dataset / "lineage" / "web" / "train", SCHEMA)
    field = pyarrow.dataset.field
    wanted = (field("first_sample") < 301) & (field("last_sample") >= 300)
    read = [len(part.subset(wanted).row_groups) for part in of_split.get_fragments(wanted)]
    assert sum(read) <= 2 < sum(part.num_row_groups for part in of_split.get_fragments())


def test_trace_says_what_a_sample_is_made_of(dataset, capsys):
    assert main(["trace", str(dataset), "web", "3:5"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "web/train sample 3: row 3 of web/train/shard.00000.mds",
        f"           0-1  11-12 of 13 tokens  page 1  2024  source 0  {1:064}",
        f"           2-7  0-5 of 13 tokens  page 2  2024  source 0  {2:064}",
        "web/train sample 4: row 4 of web/train/shard.00000.mds",
        f"           0-6  6-12 of 13 tokens  page 2  2024  source 0  {2:064}",
        f"           7-7  0-0 of 13 tokens  page 3  2024  source 0  {3:064}",
    ]
    assert main(["trace", str(dataset), "web", "649", "--json"]) == 0
    last = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(of["file"], of["row"], of["start"], of["tokens"]) for of in last] == [
        ("web/train/shard.00064.mds", 9, 5, 8)
    ]
    assert last[0]["document"]["origin"] == "page 399"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["code", "3"], "there is no domain 'code'; the dataset has web"),
        (["web", "3", "--split", "test"], "web has no split 'test'; it has train"),
        (["web", "650"], "web/train has samples 0 to 649, not 650:651"),
        (["web", "5:5"], "web/train has samples 0 to 649, not 5:5"),
        (["web", "first"], "first: expected a sample, such as 123, or a range of them, such as 120:130"),
        (["web", "3:x"], "3:x: expected a sample"),
    ],
)
def test_what_there_is_not_is_said(dataset, words, sentence, capsys):
    assert main(["trace", str(dataset), *words]) == 2
    assert sentence in capsys.readouterr().err


def test_missing_and_damaged_lineage_is_said(dataset, capsys):
    of_split = dataset / "lineage" / "web" / "train"
    for part in of_split.iterdir():
        part.write_bytes(b"PAR1")
    assert main(["trace", str(dataset), "web", "3"]) == 2
    assert f"can't read the lineage in {of_split}" in capsys.readouterr().err
    of_split.rename(of_split.parent / "away")
    assert main(["trace", str(dataset), "web", "3"]) == 2
    assert "restore it or prepare the dataset again" in capsys.readouterr().err


def test_files_hold_about_as_many_documents(monkeypatch):
    monkeypatch.setattr(lineage, "PART_DOCUMENTS", 100)
    samples = {("a", "train"): 50, ("a", "heldout"): 3, ("b", "train"): 5}
    layout = plan(samples, 8, "uint16", 0, 5 * 20 / 2**20)
    parts = lineage.divide(layout, {("a", "train"): 450, ("a", "heldout"): 20, ("b", "train"): 900})
    assert (layout.samples_per_shard, layout.shards) == (5, 12)
    assert parts.first == {("a", "train"): 0, ("a", "heldout"): 5, ("b", "train"): 6}
    assert parts.shards == {("a", "train"): 2, ("a", "heldout"): 5, ("b", "train"): 1}
    assert parts.number == 7


def test_shards_of_samples():
    shards = [ShardRecord(str(number), size, 1, {}) for number, size in enumerate([3, 1, 2])]
    found = [shard_of(shards, sample) for sample in range(6)]
    assert [(shard.file, row) for shard, row in found] == [("0", 0), ("0", 1), ("0", 2), ("1", 0), ("2", 0), ("2", 1)]


def test_a_document_that_best_fit_packing_cut_is_in_all_its_samples(dataset):
    """Its rest lies before its first piece, and another document begins between them."""
    cut = [
        {"start": 0, "tokens": 8, "shard": 0, "sample": 5, "position": 0},
        {"start": 8, "tokens": 3, "shard": 0, "sample": 2, "position": 4},
    ]
    row = {**next(rows()), "shard": 0, "sample": 5, "position": 0, "tokens": 11, "pieces": cut}
    row |= {"first_sample": 2, "last_sample": 5}
    of_split = dataset / "lineage" / "web" / "train"
    for part in of_split.iterdir():
        part.unlink()
    pq.write_table(pa.Table.from_pylist([row], SCHEMA), of_split / "part-00000.parquet")
    manifest = Manifest.read(dataset)
    found = {at: fragments(dataset, manifest, "web", "train", range(at, at + 1)) for at in range(1, 7)}
    assert {at: [(part.position, part.tokens, part.start) for part in parts] for at, parts in found.items()} == {
        **{at: [] for at in (1, 3, 4, 6)},
        2: [(4, 3, 8)],
        5: [(0, 8, 0)],
    }

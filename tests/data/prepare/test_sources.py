"""Every kind of source, read by the real Spark: its records, where each comes from, and what of it is in quarantine."""

import bz2
import csv
import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstd
from deltalake import DeltaTable, write_deltalake
from pyspark.errors import PySparkException

from data.errors import DataError
from data.prepare import quarantine, sources
from data.prepare.documents import read_stage
from data.prepare.inputs import find_inputs, identify
from data.prepare.recipe import Domain, Source, SourceFormat

RECORDS = [
    {
        "body": f'document {number}\nwith "quotes", commas and an é',
        "from": f"site/{number}",
        "terms": "CC0",
        "at": 2020 + number,
    }
    for number in range(6)
]
COLUMNS = {"text_column": "body", "origin_column": "from", "licence_column": "terms", "time_column": "at"}
EXPECTED = sorted((r["body"], r["from"], r["terms"], str(r["at"]), None) for r in RECORDS)
LINES = "".join(json.dumps(record) + "\n" for record in RECORDS).encode()


@pytest.fixture(scope="module")
def spark(java, tmp_path_factory):
    session, folder = java.newSession(), tmp_path_factory.mktemp("lake")
    conf = {
        "spark.sql.shuffle.partitions": "3",
        "spark.sql.catalog.lake": "org.apache.spark.sql.execution.datasources.v2.jdbc.JDBCTableCatalog",
        "spark.sql.catalog.lake.url": f"jdbc:derby:{folder}/lake;create=true",
        "spark.sql.catalog.lake.driver": "org.apache.derby.iapi.jdbc.AutoloadedDriver",
    }
    for key, value in conf.items():
        session.conf.set(key, value)
    session._jvm.System.setProperty("derby.stream.error.file", str(folder / "derby.log"))
    return session


@pytest.fixture
def read(spark, tmp_path):
    """Reads one source as the job does: input, rows, and their (text, origin, licence, time, dropped), sorted."""
    count = iter(range(100))

    def read(path="", **of_source):
        domains = {"d": Domain([Source(str(path), **of_source)])}
        (item,) = identify(find_inputs(domains), tmp_path / "work", lambda: spark)
        folder = tmp_path / f"read-{next(count)}"
        sources.write_raw(spark, item, folder, tmp_path / "fetched")
        raw = read_stage(spark, folder)
        rows = raw.select("text", "origin", "licence", "time", "dropped").collect()
        return item, raw, sorted((tuple(row) for row in rows), key=str)

    return read


def write_csv(path, records):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, records[0])
        writer.writeheader()
        writer.writerows(records)


def test_every_format_gives_the_same_records(read, tmp_path):
    (tmp_path / "a.jsonl").write_bytes(LINES)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(LINES))
    (tmp_path / "a.jsonl.bz2").write_bytes(bz2.compress(LINES))
    (tmp_path / "a.jsonl.zst").write_bytes(zstd.compress(LINES))
    for name in ("a.jsonl", "a.jsonl.gz", "a.jsonl.bz2", "a.jsonl.zst"):
        assert read(tmp_path / name, **COLUMNS)[2] == EXPECTED, name
    pq.write_table(pa.Table.from_pylist(RECORDS), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet", format=SourceFormat.parquet, **COLUMNS)[2] == EXPECTED
    write_csv(tmp_path / "a.csv", RECORDS)
    assert read(tmp_path / "a.csv", format=SourceFormat.csv, **COLUMNS)[2] == EXPECTED
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress((tmp_path / "a.csv").read_bytes()))
    assert read(tmp_path / "a.csv.gz", format=SourceFormat.csv, **COLUMNS)[2] == EXPECTED
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"a whole\nfile\n"))
    assert read(tmp_path / "a.txt.gz", format=SourceFormat.text)[2] == [
        ("a whole\nfile\n", "a.txt.gz", None, None, None)
    ]


def test_a_table_of_a_catalog(spark, read, tmp_path):
    pq.write_table(pa.Table.from_pylist(RECORDS), tmp_path / "a.parquet")
    frame = spark.read.parquet(f"file://{tmp_path}/a.parquet")
    frame.write.saveAsTable("default.documents")
    first, _, rows = read(table="spark_catalog.default.documents", **COLUMNS)
    assert rows == EXPECTED
    assert first.bytes == sum(len(record["body"].encode()) for record in RECORDS)
    same = identify(find_inputs({"d": Domain([first.source])}), tmp_path / "work", lambda: spark)[0]
    assert same.fingerprint == first.fingerprint
    frame.limit(1).write.insertInto("default.documents")
    assert read(table="default.documents", **COLUMNS)[0].fingerprint != first.fingerprint
    spark.sql("create namespace lake.app")
    frame.select("body", "from").writeTo("lake.app.documents").create()
    rows = read(table="lake.app.documents", text_column="body", origin_column="from")[2]
    assert [row[:2] for row in rows] == [row[:2] for row in EXPECTED]
    with pytest.raises(DataError, match=r"domains.d.sources\[0\].table: can't read no.such.table: "):
        read(table="no.such.table")
    with pytest.raises(DataError, match=r"text_column: default.documents has no column 'text'; it has body, from"):
        read(table="default.documents")


def test_delta_is_read_as_it_is_now(read, tmp_path):
    """Partitions, a column that came later, rows that were deleted; and files that no version has any more."""
    table = tmp_path / "a table"
    columns = {"text_column": "body", "origin_column": "lang", "licence_column": "licence"}
    first = pa.table({"body": ["one", "zwei", "due"], "lang": ["en", "de", "it/x"]})
    write_deltalake(table, first, partition_by=["lang"])
    more = pa.table({"body": ["three"], "lang": ["en"], "licence": ["MIT"]})
    write_deltalake(table, more, mode="append", schema_mode="merge", partition_by=["lang"])
    DeltaTable(table).delete("lang = 'de'")
    wanted = [("due", "it/x", None, None, None), ("one", "en", None, None, None), ("three", "en", "MIT", None, None)]
    assert read(table, format=SourceFormat.delta, **columns)[2] == wanted
    with pytest.raises(DataError, match=r"sources\[0\].path: .* can't be read as a Delta table"):
        read(tmp_path / "none", format=SourceFormat.delta, **columns)
    DeltaTable(table).alter.set_table_properties({"delta.enableDeletionVectors": "true"}, raise_if_not_exists=False)
    with pytest.raises(DataError, match="uses deletionVectors, so its rows are not just those in its files"):
        read(table, format=SourceFormat.delta, **columns)


def test_delta_at_a_url_without_its_jars_says_what_to_do(read):
    with pytest.raises(DataError, match=r"format: Spark has no reader of Delta at a URL; add the jars of delta-spark"):
        read("file:///tmp", format=SourceFormat.delta)


def test_urls(read, tmp_path):
    folder = tmp_path / "at a url"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "a.jsonl").write_bytes(LINES)
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(b'{"body": "one more"}\n'))
    expected = sorted([*EXPECTED, ("one more", "b.jsonl.gz", None, None, None)])
    by_spark, _, rows = read(f"file://{folder}", **COLUMNS)
    assert rows == expected
    by_fsspec, _, rows = read(f"local://{folder}", **COLUMNS)
    assert rows == expected
    sizes = sum(path.stat().st_size for path in folder.rglob("*.*"))
    assert (by_spark.file_count, by_spark.bytes) == (by_fsspec.file_count, by_fsspec.bytes) == (2, sizes)
    (folder / "sub" / "a.jsonl").write_bytes(LINES + b"\n")
    assert read(f"file://{folder}", **COLUMNS)[0].fingerprint != by_spark.fingerprint
    assert read(f"local://{folder}", **COLUMNS)[0].fingerprint != by_fsspec.fingerprint
    with pytest.raises(DataError, match=r"path: there is no file at local://.*nowhere"):
        read(f"local://{tmp_path}/nowhere")
    with pytest.raises(DataError, match="path: neither Spark nor fsspec can read nosuch://"):
        read("nosuch://bucket/a")


def test_sample_and_limit_take_the_same_records_from_any_files(read, tmp_path):
    lines = [json.dumps({"text": f"document {number}"}) for number in range(300)]
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "a.jsonl").write_text("\n".join(lines))
    (tmp_path / "many").mkdir()
    for number in range(5):
        (tmp_path / "many" / f"{number}.jsonl").write_text("\n".join(reversed(lines[number::5])))

    def texts(folder, **choice):
        return {row[0] for row in read(tmp_path / folder, **choice)[2]}

    sample = texts("one", sample=0.25)
    assert sample == texts("many", sample=0.25) and 50 < len(sample) < 100
    assert sample < texts("one", sample=0.5)
    limited = texts("one", limit=40)
    assert len(limited) == 40 and limited == texts("many", limit=40) and limited < sample
    assert len(texts("one", limit=1000)) == 300
    assert texts("one", sample=0.25, limit=40) == limited


def test_what_is_malformed_is_kept_with_the_reason(spark, read, tmp_path):
    bad = [b'{"body": "cut off', b"[1, 2", b"null", b"17", b'{"body": "\xff"}', b'{"from": "textless"}', b"x" * 5000]
    bad += [b'{"body": "one"}{"body": "two"}', b'{"body": "one"}, {"body": "two"}', b'{"body": "one"} more']
    bad += [b'{"body": "one"}] more', b'{"body": "one"}, {}']
    (tmp_path / "a.jsonl").write_bytes(LINES + b"\n".join(bad))
    item, raw, rows = read(tmp_path / "a.jsonl", **COLUMNS)
    assert sorted(row for row in rows if row[4] is None) == EXPECTED
    kept = {row.record: row.dropped for row in raw.where("dropped is not null").collect()}
    assert kept == {
        '{"body": "cut off': "malformed",
        "[1, 2": "malformed",
        "null": "malformed",
        "17": "malformed",
        '{"body": "\ufffd"}': "no_utf8",
        '{"from": "textless"}': "no_text",
        "x" * 1000: "malformed",
        '{"body": "one"}{"body": "two"}': "malformed",
        '{"body": "one"}, {"body": "two"}': "malformed",
        '{"body": "one"} more': "malformed",
        '{"body": "one"}] more': "malformed",
        '{"body": "one"}, {}': "malformed",
    }
    with pytest.raises(DataError, match=r"12 of 18 records of .*a.jsonl can't be read \(malformed 10, no_utf8 1, no"):
        quarantine.check(raw, item)

    header = b'body,from,terms,at\n"in\nlines",b,c,d\n'
    (tmp_path / "a.csv").write_bytes(header + b"too,few\n,b,c,d\na,b,c,d,too many\nb\xffd,b,c,d\nlast,b,c,d\n")
    _, raw, rows = read(tmp_path / "a.csv", format=SourceFormat.csv, **COLUMNS)
    assert [row[0] for row in rows if row[4] is None] == ["in\nlines", "last"]
    kept = {(row.record, row.dropped) for row in raw.where("dropped is not null").collect()}
    assert kept == {
        ("too,few", "malformed"),
        ('{"origin":"b","licence":"c","time":"d"}', "no_text"),
        ("a,b,c,d,too many", "malformed"),
        ("b\ufffdd", "no_utf8"),
    }


def test_a_file_without_a_header_is_passed_over(read, tmp_path):
    (tmp_path / "a.csv").write_bytes(b"")
    (tmp_path / "b.csv").write_bytes(b"\n")
    write_csv(tmp_path / "c.csv", RECORDS)
    assert read(tmp_path, format=SourceFormat.csv, **COLUMNS)[2] == EXPECTED
    (tmp_path / "c.csv").unlink()
    with pytest.raises(DataError, match="has no column 'body'"):
        read(tmp_path, format=SourceFormat.csv, **COLUMNS)


def test_a_folder_that_spark_wrote(read, tmp_path):
    pq.write_table(pa.Table.from_pylist(RECORDS), tmp_path / "part-00000.parquet")
    for name in ("_SUCCESS", "_metadata", "_common_metadata", "_committed_17", "_started_17"):
        (tmp_path / name).write_bytes(b"")
    for path in (tmp_path, tmp_path / "*"):
        assert read(path, format=SourceFormat.parquet, **COLUMNS)[2] == EXPECTED
    with pytest.raises(DataError, match=r"whose name begins with '_'; rename .*/_SUCCESS"):
        read(tmp_path / "_SUCCESS")
    (tmp_path / "_more.parquet").write_bytes(b"")
    with pytest.raises(DataError, match=r"whose name begins with '_'; rename .*/_more"):
        read(tmp_path, format=SourceFormat.parquet)


def test_names_of_files_are_origins(read, tmp_path):
    names = ["c %20 d.jsonl", "a+b.jsonl", "é [1]#?&.jsonl"]
    for name in names:
        (tmp_path / name).write_text('{"text": "x"}')
    assert sorted(row[1] for row in read(tmp_path)[2]) == sorted(names)
    (tmp_path / "2024-01-01T10:00:00.jsonl").write_text('{"text": "x"}')
    with pytest.raises(DataError, match=r"path: Spark can't read files whose name has a ':'; rename .*10:00:00\.jsonl"):
        read(tmp_path)


def test_a_folder_with_a_colon(read, tmp_path):
    (tmp_path / "10:00").mkdir()
    (tmp_path / "10:00" / "a.jsonl").write_text('{"text": "x"}')
    assert [row[0] for row in read(tmp_path)[2]] == ["x"]


def test_a_document_may_be_as_long_as_the_source_says(read, tmp_path):
    """Jackson, by which Spark reads JSON, has a limit of its own: 20 million characters."""
    (tmp_path / "long.jsonl").write_text(json.dumps({"body": "x" * 21_000_000}))
    _, _, [row] = read(tmp_path / "long.jsonl", text_column="body")
    assert row[4] is None and len(row[0]) == 21_000_000


def test_a_file_that_can_not_be_read_to_its_end_is_left_out_with_the_reason(spark, read, tmp_path):
    folder = tmp_path / "some files"
    folder.mkdir()
    (folder / "good.jsonl.gz").write_bytes(gzip.compress(LINES))
    many = b"".join(json.dumps({"body": f"lost {number**5}"}).encode() + b"\n" for number in range(9999))
    (folder / "cut.jsonl.gz").write_bytes(gzip.compress(many)[:-2000])
    (folder / "rubbish%20[1].jsonl.gz").write_bytes(b"no gzip at all")
    (folder / "rubbish [2].jsonl.bz2").write_bytes(b"no bzip2 at all")
    (folder / "good.jsonl.bz2").write_bytes(bz2.compress(b""))
    (folder / "empty.jsonl.bz2").write_bytes(b"")
    (folder / "empty.jsonl.gz").write_bytes(b"")
    (folder / "empty.jsonl").write_bytes(b"")
    names = ["cut.jsonl.gz", "rubbish%20[1].jsonl.gz", "rubbish [2].jsonl.bz2", "empty.jsonl.bz2", "empty.jsonl.gz"]
    item, raw, rows = read(folder, max_quarantined=0.7, **COLUMNS)
    assert sorted(row for row in rows if row[4] is None) == EXPECTED
    at_url = read(f"file://{folder}", max_quarantined=0.7, **COLUMNS)[2]
    assert at_url == [row for row in rows if not row[1].startswith("empty.")], "Spark lists no empty file"
    bad = {Path(row.file): row for row in raw.where("dropped is not null").collect()}
    assert set(bad) == {folder / name for name in names}
    assert {row.dropped for row in bad.values()} == {"unreadable_file"} and all(row.record for row in bad.values())
    quarantine.check(raw, item)
    with pytest.raises(
        DataError, match=r"\d of 8 files of .* can't be read, more than max_quarantined \(10.00%\): .*: \w"
    ):
        read(folder, max_quarantined=0.1, **COLUMNS)

    pq.write_table(pa.Table.from_pylist(RECORDS), tmp_path / "b.parquet")
    whole = (tmp_path / "b.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "c.parquet").write_bytes(whole[:40] + bytes(40) + whole[80:])
    rows = read(tmp_path / "*.parquet", format=SourceFormat.parquet, max_quarantined=0.7, **COLUMNS)[2]
    assert [row for row in rows if row[4] is None] == EXPECTED
    assert [(row[1], row[4]) for row in rows if row[4]] == [
        ("a.parquet", "unreadable_file"),
        ("c.parquet", "unreadable_file"),
    ]
    (tmp_path / "b.parquet").write_bytes(b"")
    with pytest.raises(DataError, match=r"can't read .*b.parquet: .*Unable to infer schema for Parquet"):
        read(tmp_path / "b.parquet", format=SourceFormat.parquet)


def test_what_is_too_long_is_left_out_and_never_stops_the_job(read, tmp_path):
    """One is of a gigabyte, for which this session has too little memory."""
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "fits.txt").write_text("a" * 1_000_000)
    (folder / "long.txt.gz").write_bytes(gzip.compress(b"b" * 1_000_001))
    with (folder / "huge%20[1].txt").open("wb") as file:
        file.truncate(10**9)
    expected = [("fits.txt", None), ("huge%20[1].txt", "too_long"), ("long.txt.gz", "too_long")]
    for path in (folder, f"file://{folder}"):
        item, raw, rows = read(path, format=SourceFormat.text, max_document_mb=1)
        assert sorted((row[1], row[4]) for row in rows) == expected
        records = {row.record[:20] for row in raw.where("dropped is not null").collect()}
        assert records == {"1,000,000,000 bytes", "b" * 20}
        quarantine.check(raw, item)
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "é" * 500_001}) + '\n{"text": "short"}\n')
    assert [row[4] for row in read(tmp_path / "a.jsonl", max_document_mb=1)[2]] == [None, "too_long"]


def test_an_error_that_no_file_causes_is_no_quarantine(read, tmp_path, monkeypatch):
    (tmp_path / "a.jsonl").write_bytes(LINES)

    def fail(*arguments):
        raise PySparkException("the disk is full")

    monkeypatch.setattr(sources, "_read_jsonl", fail)
    with pytest.raises(PySparkException, match="the disk is full"):
        read(tmp_path / "a.jsonl", **COLUMNS)

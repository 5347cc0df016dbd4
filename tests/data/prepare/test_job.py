"""The job on a small corpus with planted trouble: what goes in comes out, once, in order, the same on 1 and 2 cores."""

import hashlib
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from data import lineage
from data.manifest import Manifest, folder_of, verify
from data.prepare import best_fit, buckets, documents
from data.prepare.job import prepare
from data.prepare.recipe import Packing, without_password
from data.tokenizer import Tokenizer

from corpus import (
    CODE,
    LATIN_1,
    MAILED,
    MALFORMED,
    NO_TEXT,
    NO_UTF8,
    PLANTED,
    SEED,
    WEB,
    expected_documents,
    hash_of,
    recipe,
    same_files,
    samples_of,
    work_of,
)

BAD = [*MALFORMED, *NO_UTF8, *NO_TEXT]


@pytest.fixture(scope="module")
def spark(java):
    """One core, and other partitions than the command's."""
    session = java.newSession()
    session.conf.set("spark.sql.shuffle.partitions", "3")
    session.conf.set("spark.sql.files.maxPartitionBytes", "16k")
    return session


@pytest.fixture(scope="module")
def one_core(root, spark):
    """The corpus prepared on one core, its documents sorted in many buckets instead of one."""
    output = root / "one" / "dataset"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(buckets, "BUCKET_BYTES", 8000)
        prepare(recipe(root, output), lambda line: None, spark)
    return output


def check_lineage(dataset, domain, split, samples, offsets):
    """Every document kept lies where the lineage says, and every sample is made of what it says."""
    manifest = Manifest.read(dataset)
    tokenizer, length = Tokenizer.load(dataset / manifest.tokenizer.folder), manifest.max_seq_len
    stream, shards = samples.ravel(), manifest.domains[domain].splits[split].shards
    texts, begins = [], []
    for row in pq.read_table(dataset / "lineage" / domain / split).to_pylist():
        pieces = row["pieces"] or [row]
        places = [piece["sample"] * length + piece["position"] for piece in pieces]
        ids = np.concatenate([stream[at:][: piece["tokens"]] for at, piece in zip(places, pieces, strict=True)])
        text = tokenizer.encoding.decode(ids[:-1].tolist())
        texts.append(text)
        begins += [divmod(at, length) for at in places]
        assert ids[-1] == tokenizer.end_of_text and len(ids) == row["tokens"]
        assert (row["domain"], row["split"], row["bytes"]) == (domain, split, len(text.encode()))
        assert row["key"] == hash_of(f"order {SEED}:{hash_of(text)}")
        assert row["shard"] == shards.index(lineage.shard_of(shards, row["sample"])[0])
        number = int(text.split()[1].rstrip(":")) if text.startswith(f"{domain} ") else None
        if number is not None:
            page = {"web": f"site{number % 3} 1.0/{number}", "code": f"pkg 2.0/{number}.py"}[domain]
            code_file = domain == "code" and number >= 15
            assert (row["origin"], row["source"]) == ((f"{number - 15}.txt", 1) if code_file else (page, 0))
    assert sorted(texts) == sorted(expected_documents()[domain, split])
    assert sorted(begins) == [(at, int(start)) for at, of in enumerate(offsets) for start in of[:-1]]
    parts = lineage.fragments(dataset, manifest, domain, split, range(len(samples)))
    for at, of in enumerate(offsets):
        end = 0
        for part in (part for part in parts if part.sample == at):
            assert part.position == end
            end += part.tokens
        assert end == of[-1]
    middle = len(samples) // 2
    only = lineage.fragments(dataset, manifest, domain, split, range(middle, middle + 2))
    assert only == [part for part in parts if middle <= part.sample < middle + 2]


def test_decoded_documents_are_the_cleaned_texts_in_order_and_nothing_else(two_cores, tmp_path):
    manifest = verify(two_cores)
    tokenizer = Tokenizer.load(two_cores / manifest.tokenizer.folder)
    end = tokenizer.end_of_text
    expected = expected_documents()
    assert {(domain, split) for domain in manifest.domains for split in ("train", "heldout")} == set(expected)
    counts = {}
    for (domain, split), texts in expected.items():
        record = manifest.domains[domain].splits[split]
        samples, offsets = samples_of(two_cores, domain, split, tmp_path)
        check_lineage(two_cores, domain, split, samples, offsets)
        assert samples.dtype == np.uint16 and samples.shape == (record.samples, manifest.max_seq_len)
        stream = samples.ravel()[: record.tokens]
        ends = np.flatnonzero(stream == end)
        documents = np.split(stream, ends + 1)
        assert len(documents.pop()) == 0, "the stream does not end with a document's end"
        assert [tokenizer.encoding.decode(ids[:-1].tolist()) for ids in documents] == texts
        assert record.documents == len(texts)
        assert record.tokens == sum(len(tokenizer.encoding.encode_ordinary(text)) + 1 for text in texts)
        assert record.padding_tokens == samples.size - record.tokens < manifest.max_seq_len
        assert (samples.ravel()[record.tokens :] == end).all()
        assert not ((stream[1:] == end) & (stream[:-1] == end)).any(), "an end after an end must mean padding"
        is_target = np.arange(samples.size).reshape(samples.shape) % manifest.max_seq_len != 0
        is_target.ravel()[record.tokens :] = False
        counts[domain, split] = np.bincount(samples[is_target], minlength=tokenizer.vocab_size)
    for domain, record in manifest.domains.items():
        probability = (counts[domain, "train"] + 1) / (counts[domain, "train"].sum() + tokenizer.vocab_size)
        heldout = np.repeat(np.arange(tokenizer.vocab_size), counts[domain, "heldout"])
        assert record.unigram_loss == pytest.approx(-np.log(probability[heldout]).mean(), rel=1e-12)


def test_best_fit_cuts_only_what_is_longer_than_a_sample(root, two_cores, spark, tmp_path):
    """The pieces in the samples are those of the documents, each once, and padding is behind them."""
    output = tmp_path / "dataset"
    shutil.copytree(work_of(two_cores), work_of(output))
    prepare(recipe(root, output, packing=Packing.best_fit), lambda line: None, spark)
    manifest = verify(output)
    tokenizer, length = Tokenizer.load(output / manifest.tokenizer.folder), manifest.max_seq_len
    for (domain, split), texts in expected_documents().items():
        record, wanted, found = manifest.domains[domain].splits[split], [], []
        for text in texts:
            ids = [*tokenizer.encoding.encode_ordinary(text), tokenizer.end_of_text]
            for count in best_fit.cut(len(ids), length):
                wanted.append(tuple(ids[:count]))
                ids = ids[count:]
        samples, offsets = samples_of(output, domain, split, tmp_path)
        check_lineage(output, domain, split, samples, offsets)
        for sample in samples:
            rest = sample.tolist()
            while rest and rest != [tokenizer.end_of_text] * len(rest):
                count = next((n for n in range(len(rest), 0, -1) if tuple(rest[:n]) in set(wanted)), None)
                assert count is not None, "no document's piece begins here"
                found.append(tuple(rest[:count]))
                rest = rest[count:]
        assert sorted(found) == sorted(wanted)
        assert record.tokens == sum(map(len, wanted)) == record.samples * length - record.padding_tokens
        assert record.samples < 1.05 * record.tokens / length + 2


def test_the_manifest_accounts_for_every_record(two_cores):
    web, code = (Manifest.read(two_cores).domains[name] for name in ("web", "code"))
    assert web.documents_read == len(WEB) + len(BAD) + 1
    counts = (len(MALFORMED), len(NO_UTF8), len(NO_TEXT), 0, 0, 1)
    names = ("malformed", "no_utf8", "no_text", "unreadable_file", "too_long", "empty")
    broken = dict(zip(names, counts, strict=True))
    by_step = {"mojibake": 0, "unicode": 1, "characters": 1, "language": 1, "mask_pii": 0}
    assert web.dropped == {**broken, **by_step}
    assert (web.duplicates, code.duplicates) == (1, 1)
    assert code.documents_read == len(CODE) + 1
    assert {step: number for step, number in code.dropped.items() if number} == {"no_utf8": 1}
    for domain in (web, code):
        kept = sum(split.documents for split in domain.splits.values())
        assert domain.documents_read == kept + domain.duplicates + sum(domain.dropped.values())
    expected = expected_documents()
    size = sum(len(text.encode()) for (domain, _), texts in expected.items() if domain == "web" for text in texts)
    assert web.bytes == size
    assert set(web.origins) == {"site0 1.0", "site1 1.0", "site2 1.0", "broken"}
    assert code.origins["pkg 2.0"] == 15 and code.origins["3.txt"] == 1
    assert [(source.format, source.documents, source.files) for source in code.sources] == [
        ("parquet", 15, 1),
        ("text", len(CODE) - 14, len(CODE) - 14),
    ]
    assert web.sources[0].bytes == sum(p.stat().st_size for p in Path(web.sources[0].path).iterdir())


def test_sources_add_up_to_their_domain(two_cores):
    manifest = Manifest.read(two_cores)
    for domain in manifest.domains.values():
        for source in domain.sources:
            assert source.documents == source.kept + source.duplicates + sum(source.dropped.values())
            assert sum(source.lengths.values()) == source.kept
        for of_source, of_domain in {
            "documents": "documents_read",
            "duplicates": "duplicates",
            "kept_bytes": "bytes",
        }.items():
            assert sum(getattr(source, of_source) for source in domain.sources) == getattr(domain, of_domain)
        assert sum(source.tokens for source in domain.sources) == sum(of.tokens for of in domain.splits.values())
        for counts in ("dropped", "languages", "lengths"):
            sums = sum((Counter(getattr(source, counts)) for source in domain.sources), Counter())
            assert sums == +Counter(getattr(domain, counts))
    code = manifest.domains["code"]
    assert [(source.kept, source.duplicates, source.dropped) for source in code.sources] == [
        (15, 0, {}),
        (len(CODE) - 16, 1, {"no_utf8": 1}),
    ]


def test_lengths_are_those_of_the_documents(two_cores):
    manifest = Manifest.read(two_cores)
    tokenizer = Tokenizer.load(two_cores / manifest.tokenizer.folder)
    by_hand = {domain: Counter() for domain in manifest.domains}
    for (domain, _), texts in expected_documents().items():
        for text in texts:
            count = len(tokenizer.encoding.encode_ordinary(text)) + 1
            by_hand[domain][str(max(2**power for power in range(40) if 2**power <= count))] += 1
    assert {domain: of.lengths for domain, of in manifest.domains.items()} == by_hand
    assert list(manifest.domains["code"].lengths) == sorted(by_hand["code"], key=int)


def test_the_recipe_is_there_with_every_default_and_no_secret(root, two_cores):
    asked = Manifest.read(two_cores).recipe
    assert asked["domains"]["web"]["sources"][0]["path"] == str(root / "web [1]")
    assert asked["domains"]["code"]["cleaning"][1] == {"characters": {"min": 20, "max": None}}
    assert asked["deduplicate"] == {"near": None, "lines": None} and asked["max_seq_len"] == 32
    assert not {"output", "spark", "keep_work", "cleaning"} & asked.keys()
    assert without_password("https://jane:secret@host/a@b") == "https://host/a@b"


def test_each_step_says_what_it_did(two_cores):
    web, code = (Manifest.read(two_cores).domains[name] for name in ("web", "code"))
    seen = web.documents_read - len(BAD) - 1
    for record in web.cleaning:
        assert record.documents_in == seen
        assert record.documents_out == seen - sum(record.dropped.values())
        assert web.dropped[record.step] == sum(record.dropped.values())
        seen = record.documents_out
    mojibake, unicode, characters, language, mask_pii = web.cleaning
    assert (mojibake.edited, mask_pii.edited) == (1, 1)
    assert [(of.why, of.before, of.after) for of in mojibake.examples] == [
        ("edited", raw, fixed) for raw, fixed in PLANTED.items() if "Grü" in (fixed or "")
    ]
    assert mask_pii.examples[0].after == PLANTED[MAILED] == mask_pii.examples[0].before, "addresses stay out of it"
    assert unicode.dropped == {"nothing left": 1} and characters.dropped == {"characters": 1}
    assert [of.why for of in characters.examples] == ["characters 9, below 20"]
    assert language.dropped == {"ja": 1} and language.examples[0].why.startswith("ja with a score of ")
    assert sum(web.languages.values()) == mask_pii.documents_out and "ja" not in web.languages
    assert [record.step for record in code.cleaning] == ["unicode", "characters"] and not code.languages


def test_what_could_not_be_read_is_in_quarantine(two_cores):
    rows = pq.read_table(two_cores / "quarantine").to_pylist()
    web = [line.decode(errors="replace") for line in BAD]
    assert sorted(row["record"] for row in rows) == sorted([*web, LATIN_1.decode(errors="replace")])
    assert {(row["domain"], row["source"], row["file"].rpartition("/")[2]) for row in rows} == {
        ("web", 0, "a.jsonl"),
        ("code", 1, "latin.txt"),
    }
    assert {row["reason"] for row in rows} == {"malformed", "no_utf8", "no_text"}


def test_shards_are_many_and_match_their_hashes(two_cores):
    manifest = Manifest.read(two_cores)
    train = manifest.domains["code"].splits["train"]
    assert len(train.shards) > 5 and sum(shard.samples for shard in train.shards) == train.samples
    for number, shard in enumerate(train.shards):
        content = (two_cores / folder_of("code", "train") / shard.file).read_bytes()
        assert shard.file == f"shard.{number:05}.{hashlib.sha256(content).hexdigest()[:12]}.mds.zstd"
        assert shard.hashes["sha1"] == hashlib.sha1(content).hexdigest()


def test_one_and_two_cores_write_the_same_bytes(two_cores, one_core):
    assert len(list(two_cores.rglob("*"))) > 10 and same_files(two_cores, one_core)


def test_nothing_is_left_beside_the_dataset(two_cores):
    assert sorted(path.name for path in two_cores.parent.iterdir()) == [".dataset.lock", ".dataset.work", "dataset"]
    assert sorted(path.name for path in two_cores.iterdir()) == [
        "code",
        "data_card.html",
        "data_card.md",
        "lineage",
        "manifest.json",
        "quarantine",
        "target_counts.parquet",
        "tokenizer",
        "web",
    ]
    assert not [path for path in two_cores.rglob("*") if path.name.startswith(".")]


def test_every_step_is_reported(lines, two_cores):
    said = "\n".join(lines)
    for words in (
        "reading",
        "web: 57 documents read, 10 dropped",
        "1 duplicates",
        "training a tokenizer",
        "writing",
        "is ready",
    ):
        assert words in said, said


def test_origins_that_are_urls_are_counted_by_host(spark):
    origins = ["https://a.org/x", "http://a.org/y", "s3://bucket/z", "pkg 2.0/a.py", "pkg 2.0/https://", "plain"]
    kept = spark.createDataFrame(
        [("web", origin, None) for origin in origins], "domain string, origin string, licence string"
    )
    found = {row.value: row["count"] for row in documents._top(kept).collect()}
    assert found == {"a.org": 2, "pkg 2.0": 2, "bucket": 1, "plain": 1}

"""A dataset grows twice: its old shards stay, byte for byte and in their places; what is new comes once, after them."""

import dataclasses
import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from data.errors import DataError
from data.manifest import Manifest, split_folders, verify
from data.prepare import append, bpe
from data.prepare.duplicates.choices import Deduplicate, NearDuplicates
from data.prepare.job import prepare
from data.prepare.recipe import Domain, Packing, Source, SourceFormat, TokenizerChoice, TokenizerKind
from data.prepare.unigram import unigram_loss
from data.tokenizer import Tokenizer

from corpus import HELDOUT, SEED, clean, hash_of, ordinary_documents, recipe, same_files, samples_of

WEB, CODE, LATER, BOOKS, NOTES = (ordinary_documents(name, 25) for name in ("web", "code", "later", "books", "notes"))
NEARLY = WEB[20].replace("web 20:", "web twenty:")
FILES = {
    "web/1.jsonl": WEB,
    "code/1.jsonl": CODE,
    # The first growth, a file more. The recipe has web before code, but the dataset has this one of code's already.
    "web/2.jsonl": [*LATER, NEARLY, WEB[3], CODE[4]],
    # The second, a source and a domain more. The new domain comes before the old ones.
    "notes.jsonl": [*NOTES, LATER[5]],
    "books.jsonl": [*BOOKS, NOTES[1]],
}
# What comes into each domain at first and with each growth.
GROWN = {"web": [WEB, LATER], "code": [CODE, [NOTES[0], *NOTES[2:]]], "books": [[*BOOKS, NOTES[1]]]}


def write(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [json.dumps({"text": text, "origin": f"{name} {at}"}) for at, text in enumerate(FILES[name])]
        path.write_text("\n".join(rows))


def appending(folder, output, grown=False, **changes):
    """The recipe, before or after the second growth."""

    def source(name):
        return Source(str(folder / name), origin_column="origin")

    domains = {"web": Domain([source("web")]), "code": Domain([source("code")])}
    if grown:
        domains["code"].sources.append(source("notes.jsonl"))
        domains = {"books": Domain([source("books.jsonl")]), **domains}
    near = Deduplicate(near=NearDuplicates())
    return recipe(folder, output, **{"domains": domains, "append": True, "deduplicate": near, **changes})


@pytest.fixture(scope="module")
def said():
    return []


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("append")


@pytest.fixture(scope="module")
def datasets(root, said, spark):
    """As it was prepared, and after each growth."""
    output = root / "dataset"
    write(root, "web/1.jsonl", "code/1.jsonl")
    prepare(appending(root, output), said.append, spark)
    first = shutil.copytree(output, root / "first")
    write(root, "web/2.jsonl")
    prepare(appending(root, output), said.append, spark)
    second = shutil.copytree(output, root / "second")
    write(root, "notes.jsonl", "books.jsonl")
    shutil.copytree(root / ".dataset.work", root / "killed/.dataset.work")
    prepare(appending(root, output, grown=True), said.append, spark)
    return first, second, output


def shards_of(dataset):
    """By split, each shard's name and bytes, in the order of the index."""
    return {
        folder.relative_to(dataset).as_posix(): [(of.file, (folder / of.file).read_bytes()) for of in record.shards]
        for folder, record in split_folders(dataset, verify(dataset))
    }


def in_order(texts, split):
    """Texts that come into the dataset together, as they stand in a split."""
    documents = {hash_of(f"order {SEED}:{hash_of(text)}"): text for text in map(clean, texts)}
    wanted = split == "heldout"
    return [
        text
        for _, text in sorted(documents.items())
        if (int(hash_of(f"heldout:{hash_of(text)}")[:8], 16) / 2**32 < HELDOUT) == wanted
    ]


def test_old_shards_stay_and_new_ones_come_after_them(datasets):
    first, second, third = map(shards_of, datasets)
    for before, after in ((first, second), (second, third)):
        assert before != after
        for folder, shards in before.items():
            assert after[folder][: len(shards)] == shards
    assert second["code/train"] == first["code/train"], "nothing new in it"
    assert len(third["web/train"]) == len(second["web/train"]) > len(first["web/train"])
    assert [name[:11] for name, _ in third["code/train"]] == [
        f"shard.{number:05}" for number in range(len(third["code/train"]))
    ]


def test_every_text_is_there_once_and_copies_of_old_ones_are_not(datasets, tmp_path):
    dataset = datasets[-1]
    manifest = verify(dataset)
    tokenizer = Tokenizer.load(dataset / manifest.tokenizer.folder)
    assert list(manifest.domains) == ["web", "code", "books"]
    targets = {}
    for domain, parts in GROWN.items():
        for split, record in manifest.domains[domain].splits.items():
            samples, offsets = samples_of(dataset, domain, split, tmp_path)
            real = [sample[: of[-1]] for sample, of in zip(samples, offsets, strict=True)]
            stream = np.concatenate(real)
            *documents, rest = np.split(stream, np.flatnonzero(stream == tokenizer.end_of_text) + 1)
            texts = [tokenizer.encoding.decode(ids[:-1].tolist()) for ids in documents]
            assert not len(rest) and texts == [text for part in parts for text in in_order(part, split)]
            assert (record.documents, record.tokens, record.samples) == (len(texts), len(stream), len(samples))
            assert record.padding_tokens == samples.size - len(stream)
            rows = pq.read_table(dataset / "lineage" / domain / split).to_pylist()
            begins = [(at, int(start)) for at, of in enumerate(offsets) for start in of[:-1]]
            assert sorted((row["sample"], row["position"]) for row in rows) == begins
            ends = np.cumsum([shard.samples for shard in record.shards])
            assert all(row["shard"] == np.searchsorted(ends, row["sample"], side="right") for row in rows)
            assert {row["key"] for row in rows} == {hash_of(f"order {SEED}:{hash_of(text)}") for text in texts}
            ids = np.concatenate([sample[1:] for sample in real])
            targets[domain, split] = np.bincount(ids, minlength=tokenizer.vocab_size)
        loss = unigram_loss(targets[domain, "train"], targets[domain, "heldout"])
        assert manifest.domains[domain].unigram_loss == pytest.approx(loss, rel=1e-12)


def test_the_manifest_adds_up_and_says_what_there_was_before(datasets, said):
    first, second, third = map(Manifest.read, datasets)
    counts = {name: (of.documents_read, of.duplicates, sum(of.dropped.values())) for name, of in third.domains.items()}
    assert counts == {"web": (53, 2, 1), "code": (51, 2, 0), "books": (26, 0, 0)}
    for domain, record in third.domains.items():
        assert record.documents_read == sum(of.documents for of in record.splits.values()) + sum(counts[domain][1:])
        assert sum(of.kept for of in record.sources) == sum(of.documents for of in record.splits.values())
        assert sum(of.tokens for of in record.sources) == sum(of.tokens for of in record.splits.values())
        assert sum(record.lengths.values()) == sum(of.kept for of in record.sources)
        assert [sum(of.lengths.values()) for of in record.sources] == [of.kept for of in record.sources]
        assert record.bytes == sum(of.kept_bytes for of in record.sources)
        assert record.bytes == sum(len(clean(text).encode()) for part in GROWN[domain] for text in part)
    assert [of.dataset_fingerprint for of in third.additions] == [first.fingerprint, second.fingerprint]
    assert [of.recipe_fingerprint for of in third.additions] == [second.recipe_fingerprint, third.recipe_fingerprint]
    for before, addition in zip((first, second), third.additions, strict=True):
        assert addition.shards == {
            name: {split: len(of.shards) for split, of in domain.splits.items()}
            for name, domain in before.domains.items()
        }
    assert [of.kept for of in third.domains["code"].sources] == [25, 24]
    new = [line.split(";")[0] for line in said if "are new" in line]
    assert new == ["25 documents are new", "50 documents are new"]


def test_appending_again_does_nothing(root, datasets, spark):
    said, before = [], (datasets[-1] / "manifest.json").stat()
    prepare(appending(root, datasets[-1], grown=True), said.append, spark)
    assert said == [f"{datasets[-1]} is up to date: nothing to do"]
    assert (datasets[-1] / "manifest.json").stat() == before


def test_copies_alone_are_nothing_new_and_what_is_missing_is_named(datasets, spark, tmp_path):
    write(tmp_path, "web/1.jsonl", "code/1.jsonl")
    copies = [json.dumps({"text": text, "origin": "copy"}) for text in (CODE[7], NEARLY)]
    (tmp_path / "web/copies.jsonl").write_text("\n".join(copies))
    output, said = tmp_path / "dataset", []
    shutil.copytree(datasets[0], output)
    prepare(appending(tmp_path, output), said.append, spark)
    assert said[-1] == f"{output} has every document of the recipe already: nothing to append"
    assert same_files(datasets[0], output)
    (tmp_path / "code/1.jsonl").write_text("".join((tmp_path / "code/1.jsonl").read_text().splitlines(True)[1:]))
    lost = r"append: 1 of the 50 documents of .*, for example code/1.jsonl 0 of code; sources may be added"
    with pytest.raises(DataError, match=lost):
        prepare(appending(tmp_path, output), said.append, spark)
    assert same_files(datasets[0], output)


def test_a_kill_leaves_the_old_dataset_whole(root, datasets, spark, monkeypatch):
    class KilledError(BaseException):
        pass

    _, second, third = datasets
    output, said, linked = root / "killed/dataset", [], []  # the card has the dataset's name
    shutil.copytree(second, output)
    link = append._link

    def link_and_die(files, folder):
        link(files, folder)
        linked.append(folder)
        if len(linked) == 3:
            raise KilledError

    monkeypatch.setattr(append, "_link", link_and_die)
    with pytest.raises(KilledError):
        prepare(appending(root, output, grown=True), said.append, spark)
    assert same_files(output, second)
    prepare(appending(root, output, grown=True), said.append, spark)
    assert any("made anew: nothing" in line for line in said), said
    assert same_files(output, third)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"max_seq_len": 64}, "max_seq_len: .* has 32, the recipe says 64; set it back to append, or prepare .* anew"),
        ({"packing": Packing.best_fit}, "packing: .* has concatenate, the recipe says best_fit"),
        ({"seed": 6}, "seed: .* has 5, the recipe says 6"),
        ({"heldout_fraction": 0.1}, "heldout_fraction: .* has 0.2, the recipe says 0.1"),
        ({"tokenizer": TokenizerChoice(TokenizerKind.train, vocab_size=300)}, "tokenizer.vocab_size: .* has 400"),
        ({"hashes": ["sha1"]}, "hashes: .* has sha1, xxh64, the recipe says sha1"),
        (
            {"domains": {"web": Domain([Source(__file__, format=SourceFormat.text)])}},
            "domains: .* has code, the recipe",
        ),
    ],
)
def test_samples_of_another_kind_are_refused(root, datasets, changes, sentence):
    with pytest.raises(DataError, match=sentence):
        prepare(appending(root, datasets[0], **changes), pytest.fail)


def test_another_tokenizer_is_refused(root, datasets):
    choice = appending(root, datasets[0], tokenizer=TokenizerChoice(TokenizerKind.ranks, path="of the dataset"))
    own = Tokenizer.load(datasets[0] / "tokenizer")
    assert append.find_base(choice, own).tokenizer.fingerprint == own.fingerprint
    with pytest.raises(DataError, match=r"tokenizer: .* has bpe-400 \(.*\), the recipe says other \("):
        append.find_base(choice, bpe.train(WEB, 300, "other"))


def test_documents_that_moved_to_another_source_are_refused(root, datasets, spark):
    """Of one that is counted as code's, web's counts know nothing."""
    output = root / "moved/dataset"
    shutil.copytree(datasets[0], output)
    shutil.copytree(root / "web", root / "moved/web")
    shutil.copy(root / "code/1.jsonl", root / "moved/web/3.jsonl")
    (root / "moved/code").mkdir()
    (root / "moved/code/1.jsonl").write_text((root / "notes.jsonl").read_text())
    sentence = r"append: \d+ of the \d+ documents of .* no longer come out .*for example code/1.jsonl \d+ of code"
    with pytest.raises(DataError, match=sentence):
        prepare(appending(root / "moved", output), lambda line: None, spark)


def test_a_damaged_dataset_is_refused(root, datasets, tmp_path):
    shutil.copytree(datasets[0], tmp_path / "dataset")
    next((tmp_path / "dataset/web/train").glob("shard*")).unlink()
    with pytest.raises(DataError, match="is missing; restore it or prepare the dataset again"):
        prepare(appending(root, tmp_path / "dataset"), pytest.fail)


def test_a_dataset_at_a_url_is_not_replaced_by_another(root, datasets):
    first, second = (append.find_base(appending(root, folder), None) for folder in datasets[:2])
    append.check_continues(first, first.manifest, "s3://there", datasets[0])
    append.check_continues(second, first.manifest, "s3://there", datasets[1])
    append.check_continues(None, None, "s3://there", datasets[0])
    for base, there in ((None, first), (first, second)):
        with pytest.raises(DataError, match=r"append: s3://there has a dataset that the one in .* does not go on from"):
            append.check_continues(base, there.manifest, "s3://there", datasets[0])


def test_without_append_and_without_a_dataset_all_is_made_anew(root, datasets):
    assert append.find_base(dataclasses.replace(appending(root, datasets[0]), append=False), None) is None
    assert append.find_base(appending(root, root / "nothing"), None) is None

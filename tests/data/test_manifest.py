"""The manifest: read back as written, refused when missing, damaged, edited, or at odds with the shards on disk."""

import dataclasses
import json

import pytest

from data.errors import DataError
from data.manifest import DomainRecord, Manifest, ShardRecord, SourceRecord, SplitRecord, TokenizerRecord, verify


def make_dataset(folder, source_path="corpus/*.jsonl", tokenizer="bpe-300"):
    """A dataset folder whose shards are bytes of the right size; verify opens none."""
    splits = {}
    for split, sizes in (("train", [700, 300]), ("heldout", [90])):
        where = folder / "code" / split
        where.mkdir(parents=True)
        entries = []
        for number, size in enumerate(sizes):
            name = f"shard.{number:05}.mds"
            (where / name).write_bytes(bytes(size))
            raw = {"basename": name, "bytes": size, "hashes": {"sha1": f"{number:040x}"}}
            entries.append({"samples": size // 10, "raw_data": raw, "zip_data": None})
        (where / "index.json").write_text(json.dumps({"version": 2, "shards": entries}))
        shards = [
            ShardRecord(e["raw_data"]["basename"], e["samples"], e["raw_data"]["bytes"], e["raw_data"]["hashes"])
            for e in entries
        ]
        samples = sum(sizes) // 10
        splits[split] = SplitRecord(3, samples * 4 - 1, 1, samples, shards)
    source = SourceRecord(source_path, "jsonl", 1, 5000, 8)
    domain = DomainRecord(8, {"empty": 1}, 1, 4000, [source], {"python": 6}, splits, 7.25)
    tokenizer = TokenizerRecord(tokenizer, 300, 299, "f" * 64, "tokenizer")
    manifest = Manifest(4, "uint16", 17, 0.1, tokenizer, {"code": domain}, "a" * 64, {"code": "b" * 64})
    manifest.write(folder)
    return manifest


def test_what_is_written_is_read(tmp_path):
    manifest = make_dataset(tmp_path)
    assert Manifest.read(tmp_path) == manifest
    assert verify(tmp_path).domains["code"].splits["train"].shards[1].samples == 30


def test_the_fingerprint_covers_content_but_not_where_the_sources_lay(tmp_path):
    manifest = make_dataset(tmp_path / "a")
    assert make_dataset(tmp_path / "b", source_path="/elsewhere/x.jsonl").fingerprint == manifest.fingerprint
    assert dataclasses.replace(manifest, max_seq_len=8).fingerprint != manifest.fingerprint
    recipes = [
        {"domains": {"code": {"sources": [{"path": path}]}}, "seed": seed}
        for path, seed in (("a", 1), ("b", 1), ("b", 2))
    ]
    one, moved, other = (dataclasses.replace(manifest, recipe=recipe).fingerprint for recipe in recipes)
    assert one == moved != other
    code = manifest.domains["code"]
    other_loss = dataclasses.replace(code, unigram_loss=7.0)
    assert dataclasses.replace(manifest, domains={"code": other_loss}).fingerprint != manifest.fingerprint
    one, two = ({"a": code, "b": code}, {"b": code, "a": code})
    assert (
        dataclasses.replace(manifest, domains=one).fingerprint != dataclasses.replace(manifest, domains=two).fingerprint
    )


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda text: None, "is this a prepared dataset"),
        (lambda text: text[:100], "no valid JSON"),
        (lambda text: "[]", "not a JSON object"),
        (lambda text: text.replace('"version": 3', '"version": 1'), "has version 1, this Brickyard reads version 3"),
        (lambda text: text.replace('"version": 3', '"version": null'), "has version None"),
        (lambda text: text.replace('"samples": 70', '"samples": "70"'), r"shards\[0\].samples is str, not int"),
        (lambda text: text.replace('"duplicates": 1,', ""), "damaged"),
        (lambda text: text.replace('"samples": 70', '"samples": 71'), "does not match its own fingerprint"),
    ],
)
def test_a_spoilt_manifest_is_refused(tmp_path, spoil, sentence):
    make_dataset(tmp_path)
    path = tmp_path / "manifest.json"
    text = spoil(path.read_text())
    if text is None:
        path.unlink()
    else:
        assert text != path.read_text()
        path.write_text(text)
    with pytest.raises(DataError, match=sentence):
        Manifest.read(tmp_path)


def test_shards_that_disagree_with_the_manifest_are_named(tmp_path):
    make_dataset(tmp_path)
    shard = tmp_path / "code" / "train" / "shard.00001.mds"
    shard.write_bytes(bytes(299))
    with pytest.raises(DataError, match=r"train/shard.00001.mds has 299 bytes, the manifest says 300; restore"):
        verify(tmp_path)
    shard.unlink()
    with pytest.raises(DataError, match=r"shard .*train/shard.00001.mds is missing"):
        verify(tmp_path)


def test_an_index_that_disagrees_with_the_manifest_is_named(tmp_path):
    make_dataset(tmp_path)
    index = tmp_path / "code" / "heldout" / "index.json"
    for text in (index.read_text().replace('"samples": 9', '"samples": 8'), '{"shards": [{}]}', '{"shards": 3}', "{}"):
        index.write_text(text)
        with pytest.raises(DataError, match=r"heldout/index.json lists other shards"):
            verify(tmp_path)

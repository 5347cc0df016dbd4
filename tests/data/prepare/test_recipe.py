"""The schema names what is wrong and where; the demo's recipe has nothing wrong."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from data.prepare.recipe import (
    Domain,
    PrepareRecipe,
    Source,
    SourceFormat,
    SparkChoice,
    TokenizerChoice,
    TokenizerKind,
)

TRAIN = TokenizerKind.train


def good(**changes):
    return PrepareRecipe(**{"output": "out", "domains": {"a": Domain([Source("a.jsonl")])}, **changes})


def test_a_good_recipe_has_no_problems():
    sources = [Source("a"), Source("s3://a/b"), Source(table="a.b.c")]
    elsewhere = good(output="s3://bucket/x/", local="/scratch/y")
    assert elsewhere.folder == Path("/scratch/y") and elsewhere.name == "x"
    assert good(output="s3://bucket/x").folder == Path("datasets/x")
    for node in (good(), elsewhere, *sources, Domain([Source("a")]), TokenizerChoice(), SparkChoice()):
        assert list(node.problems()) == []


@pytest.mark.parametrize(
    ("node", "key"),
    [
        (good(output=""), "output"),
        (good(output="s3://"), "output"),
        (good(output="s3://bucket/x", local="s3://bucket/y"), "local"),
        (good(local="x"), "local"),
        (good(domains={}), "domains"),
        (good(domains={"../up": Domain()}), "domains.../up"),
        (good(domains={"tokenizer": Domain()}), "domains.tokenizer"),
        (good(domains={"quarantine": Domain()}), "domains.quarantine"),
        (good(max_seq_len=1), "max_seq_len"),
        (good(heldout_fraction=1.0), "heldout_fraction"),
        (good(shard_size_mb=5000), "shard_size_mb"),
        (good(compression="rar"), "compression"),
        (good(compression="zstd:23"), "compression"),
        (good(hashes=["crc"]), "hashes"),
        (good(hashes=["sha1", "sha1"]), "hashes"),
        (Source(""), "path"),
        (Source("a", table="b"), "path"),
        (Source(table="a.b", format=SourceFormat.csv), "format"),
        (Source("a", format=SourceFormat.text, origin_column="b"), "origin_column"),
        (Source("a", licence_column=""), "licence_column"),
        (Source("a", sample=0.0), "sample"),
        (Source("a", limit=0), "limit"),
        (Source("a", max_quarantined=2.0), "max_quarantined"),
        (Source("a", text_column=""), "text_column"),
        (Domain(), "sources"),
        (good(cleaning=["unicode", {"characters": {"min": 0}}]), "cleaning[1].characters.min"),
        (Domain([Source("a")], [{"c4": {"min_sentences": -1}}]), "cleaning[0].c4.min_sentences"),
        (TokenizerChoice(TRAIN), "vocab_size"),
        (TokenizerChoice(TRAIN, vocab_size=256), "vocab_size"),
        (TokenizerChoice(TRAIN, vocab_size=300, train_on_mb=0), "train_on_mb"),
        (TokenizerChoice(TRAIN, vocab_size=300, path="x"), "path"),
        (TokenizerChoice(vocab_size=300), "vocab_size"),
        (TokenizerChoice(TokenizerKind.ranks), "path"),
        (TokenizerChoice(TokenizerKind.ranks, path="/nowhere"), "path"),
        (SparkChoice("mesos://host:7077"), "master"),
    ],
)
def test_each_mistake_is_named(node, key):
    assert [where for where, expected in node.problems()] == [key]


def test_the_demo_fits_the_schema():
    path = Path(__file__).parents[3] / "yamls" / "demo" / "data.yaml"
    recipe = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(PrepareRecipe), OmegaConf.load(path)))
    assert isinstance(recipe, PrepareRecipe)
    assert list(recipe.domains) == ["code", "prose", "reference"]
    nodes = [recipe, recipe.tokenizer, recipe.spark, *recipe.domains.values()]
    assert [problem for node in nodes for problem in node.problems()] == []

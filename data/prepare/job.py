"""The whole preparation, step by step: read -> clean -> deduplicate -> tokenize -> pack and write -> manifest.

Each step reads what the one before it wrote into the work folder, so each is computed once; only counts, hashes and
index entries reach the driver.
"""

import dataclasses
import hashlib
import shutil
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from data.errors import DataError
from data.manifest import SPLITS, Manifest, TokenizerRecord, canonical_json, verify
from data.prepare import documents, record, shards, sources, tokens
from data.prepare.cleaning import steps
from data.prepare.documents import DomainCounts, read_stage
from data.prepare.output import check_replaceable, unfinished_folder
from data.prepare.recipe import PrepareRecipe
from data.prepare.session import spark_session
from data.prepare.sources import Input
from data.tokenizer import Tokenizer

VERSION = 2  # of what a recipe means: raise it when the same recipe and inputs should give other data
TOKENIZER_FOLDER = "tokenizer"

Report = Callable[[str], None]


def prepare(recipe: PrepareRecipe, report: Report, spark: SparkSession | None = None) -> Manifest:
    """Prepares recipe.output, or finds it up to date; tells `report` one line a step.

    `spark`: a session to use instead of one of our own; recipe.spark is then ignored, and the session stays open.

    Raises:
        DataError: the recipe's files, columns, tokenizer or output can't be used.
    """
    started = time.monotonic()
    output = Path(recipe.output)
    check_replaceable(output)
    inputs = sources.find_inputs(recipe.domains)
    tokenizer = tokens.fixed_tokenizer(recipe)
    fingerprints = _fingerprints(recipe, inputs, tokenizer)
    if (kept := _up_to_date(output, *fingerprints)) is not None:
        report(f"{output} is up to date: nothing to do")
        return kept
    with unfinished_folder(output) as folder:
        work = folder / "work"
        report("starting Spark")
        session: AbstractContextManager[SparkSession] = (
            nullcontext(spark) if spark is not None else spark_session(recipe.spark, work / "spark")
        )
        with session as running:
            manifest = _run(_Job(recipe, inputs, fingerprints, folder, report), running, tokenizer)
        shutil.rmtree(work)
        manifest.write(folder)
    report(f"{output} is ready after {time.monotonic() - started:.0f} s")
    return manifest


@dataclasses.dataclass(frozen=True)
class _Job:
    """What every step needs to know."""

    recipe: PrepareRecipe
    inputs: list[Input]
    fingerprints: tuple[str, dict[str, str]]  # of the recipe; of each domain's input
    folder: Path  # becomes recipe.output
    report: Report

    def stage(self, name: str) -> Path:
        """Where a step leaves its rows for the next one."""
        return self.folder / "work" / name


def _run(job: _Job, spark: SparkSession, tokenizer: Tokenizer | None) -> Manifest:
    counts = _select_documents(job, spark)
    unique = read_stage(spark, job.stage("unique"))
    if tokenizer is None:
        tokenizer = _train_tokenizer(job, unique, counts)
    tokenizer.save(job.folder / TOKENIZER_FOLDER)
    tokens.write_tokens(unique, job.folder / TOKENIZER_FOLDER, job.stage("tokens"))
    return _write_shards(job, read_stage(spark, job.stage("tokens")), counts, tokenizer)


def _select_documents(job: _Job, spark: SparkSession) -> dict[str, DomainCounts]:
    recipe = job.recipe
    files = sum(len(item.files) for item in job.inputs)
    job.report(f"reading and cleaning {files:,} files, {sum(i.bytes for i in job.inputs) / 1e6:,.1f} MB")
    documents.write_cleaned(sources.read(spark, job.inputs), recipe, job.stage("cleaned"))
    cleaned = read_stage(spark, job.stage("cleaned"))
    documents.write_unique(cleaned, recipe, job.stage("unique"))
    counts = documents.count(cleaned, read_stage(spark, job.stage("unique")), recipe)
    documents.check(counts, job.inputs, cleaned, recipe)
    for domain, of in counts.items():
        job.report(
            f"{domain}: {of.read:,} documents read, {sum(of.dropped.values()):,} dropped, "
            f"{of.duplicates:,} duplicates, {sum(of.kept.values()):,} kept ({of.kept.get('heldout', 0):,} held out)"
        )
    return counts


def _train_tokenizer(job: _Job, unique: DataFrame, counts: dict[str, DomainCounts]) -> Tokenizer:
    choice = job.recipe.tokenizer
    job.report(f"training a tokenizer of {choice.vocab_size or 0:,} tokens")
    documents.train_sample(unique, counts, choice.train_on_mb, job.stage("sample"))
    return tokens.train_tokenizer(job.recipe, job.stage("sample"))


def _write_shards(job: _Job, tokenized: DataFrame, counts: dict[str, DomainCounts], tokenizer: Tokenizer) -> Manifest:
    recipe = job.recipe
    dtype = tokens.token_dtype(tokenizer.vocab_size)
    sums = {
        (domain, split): n for domain, split, n in tokenized.groupBy("domain", "split").agg(F.sum("count")).collect()
    }
    in_order = {
        (domain, split): sums[domain, split] for domain in counts for split in SPLITS if (domain, split) in sums
    }
    layout = shards.plan(in_order, recipe.max_seq_len, dtype, tokenizer.end_of_text, recipe.shard_size_mb)
    job.report(f"writing {sum(sums.values()):,} tokens to {layout.shards:,} shards")
    shards.write(tokenized, layout, shards.Writer(job.folder, recipe.compression, recipe.hashes), job.stage("written"))
    written = read_stage(tokenized.sparkSession, job.stage("written"))
    splits = record.record_splits(written, layout, counts, job.folder)
    for (domain, split), number in in_order.items():
        assert splits[domain][split].tokens == number, (
            f"{domain}/{split}: {number} tokens became {splits[domain][split]}"
        )
    losses = record.unigram_losses(written, layout, tokenizer.vocab_size)
    for domain, records in splits.items():
        sizes = ", ".join(f"{split} {of.tokens:,} tokens in {of.samples:,} samples" for split, of in records.items())
        job.report(f"{domain}: {sizes}")
    return Manifest(
        max_seq_len=recipe.max_seq_len,
        token_dtype=dtype,
        seed=recipe.seed,
        heldout_fraction=recipe.heldout_fraction,
        tokenizer=TokenizerRecord(
            name=tokenizer.name,
            vocab_size=tokenizer.vocab_size,
            end_of_text=tokenizer.end_of_text,
            fingerprint=tokenizer.fingerprint,
            folder=TOKENIZER_FOLDER,
        ),
        domains={
            domain: record.record_domain(
                of, splits[domain], [item for item in job.inputs if item.domain == domain], losses.get(domain)
            )
            for domain, of in counts.items()
        },
        recipe_fingerprint=job.fingerprints[0],
        input_fingerprints=job.fingerprints[1],
    )


def _fingerprints(
    recipe: PrepareRecipe, inputs: list[Input], tokenizer: Tokenizer | None
) -> tuple[str, dict[str, str]]:
    """Of the recipe, and of each domain's input files.

    Where things lie and how Spark runs is no part of them; a tokenizer on disk counts by its content.
    """
    content = dataclasses.asdict(recipe)
    for key in ("output", "spark"):
        del content[key]
    content["tokenizer"]["path"] = None if tokenizer is None else tokenizer.fingerprint
    content["tokenizer"]["kind"] = recipe.tokenizer.kind.value
    del content["cleaning"]
    for name, domain in content["domains"].items():
        domain["cleaning"] = steps.resolved(recipe.cleaning_of(name))
        for source in domain["sources"]:
            source["path"], source["format"] = None, source["format"].value
    content["domains"] = list(content["domains"].items())
    content["version"] = VERSION
    of_recipe = hashlib.sha256(canonical_json(content).encode()).hexdigest()
    of_inputs = {name: sources.fingerprint([item for item in inputs if item.domain == name]) for name in recipe.domains}
    return of_recipe, of_inputs


def _up_to_date(output: Path, of_recipe: str, of_inputs: dict[str, str]) -> Manifest | None:
    """The manifest of what lies in `output`, if it is whole and of this recipe and these inputs."""
    try:
        manifest = verify(output)
    except DataError:
        return None
    same = (manifest.recipe_fingerprint, manifest.input_fingerprints) == (of_recipe, of_inputs)
    return manifest if same else None

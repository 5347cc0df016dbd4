"""The whole preparation, step by step: read -> clean -> deduplicate -> tokenize -> pack and write -> manifest.

Each step is a stage (stages.py) that reads what the one before it left, so each is computed once, and by a later job
only if something that it depends on has changed. Only counts, hashes and index entries reach the driver.
"""

import dataclasses
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from data.errors import DataError
from data.manifest import LINEAGE, SPLITS, Manifest, TokenizerRecord
from data.prepare import append, documents, lineage, placing, quarantine, record, shards, sources, tokens
from data.prepare.append import Base
from data.prepare.attempts import remove_lost
from data.prepare.beside import beside
from data.prepare.card.write import write_card
from data.prepare.cleaning import steps
from data.prepare.documents import DomainCounts, read_selected, read_stage
from data.prepare.duplicates.benchmarks import Contamination, read_benchmarks
from data.prepare.duplicates.documents import DOCUMENTS, Found, is_new, read_found
from data.prepare.duplicates.steps import chosen
from data.prepare.inputs import Input, find_inputs, identify
from data.prepare.output import check_replaceable, locked, publish
from data.prepare.places import Places
from data.prepare.recipe import Packing, PrepareRecipe, content, resolved
from data.prepare.session import divide_work, explained, spark_session
from data.prepare.stages import Stage, Stages, fingerprint_of
from data.prepare.upload import RemoteDataset
from data.prepare.whole import verify_all
from data.tokenizer import Tokenizer

VERSION = 6  # of what a recipe means: raise it when the same recipe and inputs should give other data
TOKENIZER_FOLDER = "tokenizer"
SPARK = "spark"  # in the folder of the work: the session's logs
DATASET = "dataset"  # in the folder of the shards' stage: what becomes recipe.output

Report = Callable[[str], None]


def prepare(recipe: PrepareRecipe, report: Report, spark: SparkSession | None = None) -> Manifest:
    """Prepares recipe.output, or finds it up to date; tells `report` one line a step.

    The stages stay beside the output, in .NAME.work, for the next job to reuse, unless recipe.keep_work is false. An
    output at a URL is made in recipe.folder first, and stays there unless recipe.keep_work is false.

    `spark`: a session to use instead of one of our own; recipe.spark is then ignored, and the session stays open.

    Raises:
        DataError: the recipe's files, columns, tokenizer or output can't be used.
    """
    started = time.monotonic()
    output = recipe.folder
    check_replaceable(output)
    remote = RemoteDataset(recipe.output) if recipe.is_remote else None
    if remote is not None:
        remote.check_replaceable()
    inputs = find_inputs(recipe.domains)
    tokenizer = tokens.fixed_tokenizer(recipe)
    benchmarks = None if recipe.decontaminate is None else read_benchmarks(recipe.decontaminate)
    with (
        locked(output) as work,
        explained(output, work / SPARK, recipe.spark),
        _session(recipe, work, report, spark) as session,
    ):
        base = append.find_base(recipe, tokenizer)
        inputs = identify(inputs, work, session)
        fingerprints = _fingerprints(recipe, inputs, tokenizer, benchmarks)
        if remote is not None and (kept := _if_same(remote.whole(), *fingerprints)) is not None:
            report(f"{remote.url} is up to date: nothing to do")
            return kept
        if remote is not None and recipe.append:
            append.check_continues(base, remote.manifest(), remote.url, output)
        manifest = _if_same(_whole(output), *fingerprints)
        if manifest is not None:
            report(f"{output} is up to date: nothing to do")
        else:
            job = _Job(recipe, inputs, benchmarks, fingerprints, base, Stages(work, VERSION), report)
            manifest = _make(job, session(), tokenizer if base is None else base.tokenizer, output)
            if base is None or manifest is not base.manifest:
                report(f"{output} is ready after {time.monotonic() - started:.0f} s")
        if remote is not None:
            remote.upload(output, manifest, report)
            report(f"{remote.url} is ready after {time.monotonic() - started:.0f} s")
            if not recipe.keep_work:
                shutil.rmtree(output)
    return manifest


@contextmanager
def _session(
    recipe: PrepareRecipe, work: Path, report: Report, spark: SparkSession | None
) -> Iterator[Callable[[], SparkSession]]:
    """Starts Spark when it is first asked for: a dataset that is up to date needs none."""
    with ExitStack() as stack:

        @cache
        def session() -> SparkSession:
            if spark is not None:
                return spark
            report("starting Spark")
            return stack.enter_context(spark_session(recipe.spark, work / SPARK))

        yield session


@dataclasses.dataclass(frozen=True)
class _Job:
    """What every step needs to know."""

    recipe: PrepareRecipe
    inputs: list[Input]
    benchmarks: Contamination | None  # the recipe's
    fingerprints: tuple[str, dict[str, str]]  # of the recipe; of each domain's input
    base: Base | None  # the dataset that new documents are appended to
    stages: Stages
    report: Report


def _make(job: _Job, spark: SparkSession, tokenizer: Tokenizer | None, output: Path) -> Manifest:
    """Prepares the dataset and puts it in its place."""
    made = _run(job, spark, tokenizer)
    if (reused := job.stages.summary()) is not None:
        job.report(reused)
    if made is None:
        assert job.base is not None
        job.report(f"{output} has every document of the recipe already: nothing to append")
        job.stages.remove_unwanted(keep=job.recipe.keep_work)
        return job.base.manifest
    manifest, dataset = made
    manifest.write(dataset)
    write_card(manifest, dataset, job.recipe.name)
    publish(dataset, output)
    shutil.rmtree(dataset.parent)
    job.stages.remove_unwanted(keep=job.recipe.keep_work)
    return manifest


def _run(job: _Job, spark: SparkSession, tokenizer: Tokenizer | None) -> tuple[Manifest, Path] | None:
    """The manifest, and the folder of what it speaks of; None if there is nothing to append."""
    divide_work(spark, sum(item.bytes for item in job.inputs))
    job.report(
        f"reading and cleaning {sum(item.file_count for item in job.inputs):,} files, "
        f"{sum(item.bytes for item in job.inputs) / 1e6:,.1f} MB"
    )
    raw = [_read(job, spark, item) for item in job.inputs]
    selected, counts = _select_documents(job, spark, raw)
    if job.base is not None:
        new = sum(sum(of.kept.values()) for of in counts.values()) - job.base.documents
        job.report(f"{new:,} documents are new; the {job.base.documents:,} of {job.base.folder} stay as they are")
        if not new:
            return None
    encoding = _make_tokenizer(job, spark, tokenizer, selected, counts)
    unreadable = _make_quarantine(job, spark, raw)
    sizes = {(domain, split): size for domain, of in counts.items() for split, size in of.new_bytes.items()}
    tokenized = job.stages.make(
        "tokens",
        [selected.fingerprint, encoding.fingerprint],
        lambda folder: tokens.write_tokens(
            read_selected(spark, selected.folder).where(is_new()), sizes, encoding.folder, folder
        ),
    )
    manifest, dataset = _write_shards(job, spark, tokenized, counts, Tokenizer.load(encoding.folder))
    if any(unreadable.folder.iterdir()):
        shutil.copytree(unreadable.folder, dataset / quarantine.FOLDER, dirs_exist_ok=True)
    return manifest, dataset


def _select_documents(job: _Job, spark: SparkSession, raw: list[Stage]) -> tuple[Stage, dict[str, DomainCounts]]:
    recipe, stages = job.recipe, job.stages
    cleaned_stages = [_clean(job, spark, item, stage) for item, stage in zip(job.inputs, raw, strict=True)]
    cleaned = documents.union(job.inputs, [read_stage(spark, stage.folder) for stage in cleaned_stages])
    old = None if job.base is None else append.lineage_of(job.base, spark)
    unique = stages.make(
        "unique",
        [
            _places(job, cleaned_stages),
            recipe.seed,
            recipe.heldout_fraction,
            job.base and job.base.manifest.fingerprint,
        ],
        partial(documents.write_unique, cleaned, recipe, base=old),
    )
    if job.base is not None and old is not None:
        append.check_all_found(read_stage(spark, unique.folder), job.base, old)
    selected, found = _deduplicate(job, spark, unique)
    ends = documents.ends_of(read_stage(spark, selected.folder), old)
    counts = documents.count(cleaned, ends, found, recipe)
    documents.check(counts, recipe)
    for domain, of in counts.items():
        job.report(
            f"{domain}: {of.read:,} documents read, {sum(of.dropped.values()):,} dropped, "
            f"{of.duplicates:,} duplicates, {sum(of.kept.values()):,} kept ({of.kept.get('heldout', 0):,} held out)"
        )
        for step in of.deduplication:
            edited = f", {step.edited:,} edited" if step.edited else ""
            example = f" ({step.examples[0]})" if step.examples else ""
            job.report(f"{domain}: {step.step}: {step.dropped:,} of {step.documents_in:,} dropped{edited}{example}")
    return selected, counts


def _deduplicate(job: _Job, spark: SparkSession, unique: Stage) -> tuple[Stage, dict[str, dict[str, Found]]]:
    """Takes unique documents through the steps that the recipe asks for; what each did, by step and domain."""
    selected, found = unique, {}
    for step in chosen(job.recipe, job.benchmarks):
        write = partial(step.write, read_stage(spark, selected.folder), report=job.report)
        made = job.stages.make(step.name, [selected.fingerprint, step.depends_on], write)
        selected, found[step.name] = Stage(made.fingerprint, made.folder / DOCUMENTS), read_found(made.folder)
    return selected, found


def _places(job: _Job, of_inputs: list[Stage]) -> Any:
    """What the rows of all sources depend on: each source's, and in which order they stand."""
    return [[item.domain, item.number, of.fingerprint] for item, of in zip(job.inputs, of_inputs, strict=True)]


def _read(job: _Job, spark: SparkSession, item: Input) -> Stage:
    """One source's records, by which other sources there are unchanged."""

    def write(folder: Path) -> None:
        fetched = job.stages.scratch("fetched")
        sources.write_raw(spark, item, folder, fetched)
        shutil.rmtree(fetched, ignore_errors=True)

    raw = job.stages.make("read", item.depends_on, write)
    quarantine.check(read_stage(spark, raw.folder), item)
    return raw


def _clean(job: _Job, spark: SparkSession, item: Input, raw: Stage) -> Stage:
    return job.stages.make(
        "cleaned",
        [raw.fingerprint, steps.resolved(job.recipe.cleaning_of(item.domain))],
        lambda folder: documents.write_cleaned(read_stage(spark, raw.folder), item.domain, job.recipe, folder),
    )


def _make_quarantine(job: _Job, spark: SparkSession, raw: list[Stage]) -> Stage:
    def write(folder: Path) -> None:
        rows = documents.union(job.inputs, [read_stage(spark, stage.folder) for stage in raw])
        number = quarantine.write(rows, folder)
        if number:
            job.report(f"{number:,} records that can't be read are in {job.recipe.folder}/{quarantine.FOLDER}")

    return job.stages.make("quarantine", _places(job, raw), write)


def _make_tokenizer(
    job: _Job, spark: SparkSession, fixed: Tokenizer | None, selected: Stage, counts: dict[str, DomainCounts]
) -> Stage:
    """The stage whose folder is the tokenizer's."""
    if fixed is not None:
        return job.stages.make("tokenizer", [fixed.name, fixed.fingerprint], fixed.save)
    choice = job.recipe.tokenizer

    def train(folder: Path) -> None:
        job.report(f"training a tokenizer of {choice.vocab_size or 0:,} tokens")
        sample = job.stages.scratch("sample")
        documents.train_sample(read_selected(spark, selected.folder), counts, choice.train_on_mb, sample)
        tokens.train_tokenizer(job.recipe, sample).save(folder)

    return job.stages.make("tokenizer", [selected.fingerprint, content(choice)], train)


def _write_shards(
    job: _Job, spark: SparkSession, tokenized: Stage, counts: dict[str, DomainCounts], tokenizer: Tokenizer
) -> tuple[Manifest, Path]:
    recipe = job.recipe
    rows = tokens.read_documents(spark, tokenized.folder)
    dtype = tokens.token_dtype(tokenizer.vocab_size)
    counted = record.count_tokens(rows)
    sums, kept = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for row in counted:
        sums[row.domain, row.split] += row.tokens
        kept[row.domain, row.split] += row.documents
    in_order = {
        (domain, split): sums[domain, split] for domain in counts for split in SPLITS if (domain, split) in sums
    }
    placed, samples = _place(job, rows, tokenized, in_order)
    layout = shards.plan(samples, recipe.max_seq_len, dtype, tokenizer.end_of_text, recipe.shard_size_mb)
    base = job.base
    if base is not None:
        layout = dataclasses.replace(layout, shards_before=base.shards(), samples_before=base.samples())

    def write(folder: Path) -> None:
        job.report(f"writing {sum(sums.values()):,} tokens to {layout.shards:,} shards")
        writer = shards.Writer(folder / DATASET, recipe.compression, recipe.hashes)
        with beside(lambda: lineage.write(placed, layout, kept, folder / DATASET / LINEAGE)):
            shards.write(placed, tokenized.folder / tokens.TOKENS, layout, writer, folder / "written")
        remove_lost(folder / DATASET)

    format = [recipe.packing.value, recipe.max_seq_len, recipe.shard_size_mb, recipe.compression, recipe.hashes]
    stage = job.stages.make("shards", [tokenized.fingerprint, list(counts), format], write, whole=DATASET)
    dataset, written = stage.folder / DATASET, read_stage(spark, stage.folder / "written")
    splits = record.record_splits(written, layout, counts, dataset)
    for (domain, split), number in in_order.items():
        assert splits[domain][split].tokens == number, (
            f"{domain}/{split}: {number} tokens became {splits[domain][split]}"
        )
    targets = record.target_counts(written, layout, tokenizer.vocab_size)
    if base is not None:
        counts = {domain: counts[domain] for domain in dict.fromkeys([*base.manifest.domains, *counts])}
        splits = append.merge_splits(base, splits, list(counts), dataset)
        counted += record.count_tokens(append.lineage_of(base, spark).withColumn("count", F.col("tokens")))
        targets = append.add_targets(base, targets)
    append.write_targets(targets, dataset)
    losses = record.unigram_losses(targets)
    for domain, records in splits.items():
        sizes = ", ".join(f"{split} {of.tokens:,} tokens in {of.samples:,} samples" for split, of in records.items())
        job.report(f"{domain}: {sizes}")
    tokenizer.save(dataset / TOKENIZER_FOLDER)
    manifest = Manifest(
        max_seq_len=recipe.max_seq_len,
        token_dtype=dtype,
        seed=recipe.seed,
        heldout_fraction=float(recipe.heldout_fraction),  # of Python code that calls this, it may be 0
        tokenizer=TokenizerRecord(
            name=tokenizer.name,
            vocab_size=tokenizer.vocab_size,
            end_of_text=tokenizer.end_of_text,
            fingerprint=tokenizer.fingerprint,
            folder=TOKENIZER_FOLDER,
        ),
        domains={
            domain: record.record_domain(
                of,
                splits[domain],
                [item for item in job.inputs if item.domain == domain],
                losses.get(domain),
                [row for row in counted if row.domain == domain],
            )
            for domain, of in counts.items()
        },
        recipe_fingerprint=job.fingerprints[0],
        input_fingerprints=job.fingerprints[1],
        recipe=resolved(recipe),
        additions=[] if base is None else [*base.manifest.additions, append.addition(base, job.fingerprints[0])],
    )
    return manifest, dataset


def _place(job: _Job, rows: DataFrame, tokenized: Stage, sums: Places) -> tuple[DataFrame, Places]:
    """Documents with their places, and how many samples each split has; `sums`: the tokens of each split."""
    length = job.recipe.max_seq_len
    if job.recipe.packing is Packing.concatenate:
        return placing.concatenated(rows), {split: -(-number // length) for split, number in sums.items()}
    job.report("packing documents")
    stage = job.stages.make(
        "packed", [tokenized.fingerprint, length], lambda folder: placing.write_places(rows, length, folder)
    )
    places = read_stage(rows.sparkSession, stage.folder)
    samples = placing.samples_of_splits(places)
    return placing.best_fitting(rows, places, length), {split: samples[split] for split in sums}


def _fingerprints(
    recipe: PrepareRecipe, inputs: list[Input], tokenizer: Tokenizer | None, benchmarks: Contamination | None
) -> tuple[str, dict[str, str]]:
    """Of the recipe, and of each domain's inputs.

    Where things lie and how Spark runs is no part of them; a tokenizer on disk counts by its content.
    """
    means = content(recipe)
    for key in ("output", "local", "append", "keep_work", "spark", "cleaning"):
        del means[key]
    means["tokenizer"]["path"] = None if tokenizer is None else tokenizer.fingerprint
    for name, domain in means["domains"].items():
        domain["cleaning"] = steps.resolved(recipe.cleaning_of(name))
        for source in domain["sources"]:
            del source["path"]
    if benchmarks is not None:
        means["decontaminate"]["benchmarks"] = benchmarks.fingerprint
    means["domains"] = list(means["domains"].items())
    means["version"] = VERSION
    of_inputs = {
        name: fingerprint_of([item.fingerprint for item in inputs if item.domain == name]) for name in recipe.domains
    }
    return fingerprint_of(means), of_inputs


def _whole(output: Path) -> Manifest | None:
    """The manifest of what lies in `output`, if it is whole."""
    try:
        return verify_all(output)
    except DataError:
        return None


def _if_same(manifest: Manifest | None, of_recipe: str, of_inputs: dict[str, str]) -> Manifest | None:
    """The manifest, if it is of this recipe and these inputs."""
    if manifest is None or (manifest.recipe_fingerprint, manifest.input_fingerprints) != (of_recipe, of_inputs):
        return None
    return manifest

"""Which tokenizer, and documents to tokens."""

from collections.abc import Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.dataset
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from data import tokenizer as tokenizers
from data.prepare import bpe
from data.prepare.attempts import attempt, remove_lost
from data.prepare.buckets import bucket_of, divide
from data.prepare.places import Places
from data.prepare.recipe import PrepareRecipe, TokenizerKind
from data.prepare.runs import runs
from data.prepare.session import cores, parts, spark_path
from data.tokenizer import Tokenizer

# tiktoken's regex engine overflows its stack on a run of a million spaces, so longer texts are encoded in parts.
PART_CHARACTERS = 200_000
DOCUMENT = "domain string, split string, key string, source int, origin string, licence string, time string, bytes long"
SCHEMA = f"{DOCUMENT}, bucket long, within long, count long"
DOCUMENTS, TOKENS = "documents", "tokens"  # in the folder of this stage
FILES_OF_A_TASK = 64


def fixed_tokenizer(recipe: PrepareRecipe) -> Tokenizer | None:
    """The recipe's tokenizer, or None for one that is yet to be trained.

    Raises:
        DataError: it can't be read.
    """
    choice = recipe.tokenizer
    if choice.kind is TokenizerKind.train:
        return None
    if choice.kind is TokenizerKind.cl100k_base:
        return tokenizers.cl100k_base()
    path = Path(choice.path or "")
    return Tokenizer.load(path) if path.is_dir() else tokenizers.from_ranks_file(path)


def train_tokenizer(recipe: PrepareRecipe, sample: Path) -> Tokenizer:
    """Trains on the sample that documents.train_sample wrote, streamed batch by batch."""
    assert recipe.tokenizer.vocab_size is not None
    batches = pyarrow.dataset.dataset(sample, format="parquet").to_batches(columns=["text"], batch_size=256)
    texts = (text for batch in batches for text in batch.column("text").to_pylist())
    return bpe.train(texts, recipe.tokenizer.vocab_size, f"bpe-{recipe.tokenizer.vocab_size}")


def token_dtype(vocab_size: int) -> str:
    """The smallest unsigned integer type that holds every id."""
    return "uint16" if vocab_size <= 1 << 16 else "uint32"


def write_tokens(documents: DataFrame, sizes: Places, tokenizer_folder: Path, folder: Path) -> None:
    """Tokenizes each document and ends it with end-of-text; `sizes`: the bytes of text of each split.

    Writes two folders: TOKENS has a file for each bucket, its documents' tokens in the order of keys, token_dtype;
    DOCUMENTS says of each document (columns: SCHEMA) in which bucket, after how many tokens, and how many it has, and
    its bytes of text in UTF-8. So tokens are written once and read once, and no shuffle moves them.
    """
    documents = documents.withColumn("bytes", F.octet_length("text").cast("long"))
    buckets = divide(sizes)
    tasks = min(buckets.total, parts(documents.sparkSession))
    names = [column.partition(" ")[0] for column in DOCUMENT.split(", ")]
    placed = documents.select(*names, "text", bucket_of(buckets).alias("bucket"))
    in_order = placed.repartitionById(tasks, (F.col("bucket") % tasks).cast("int")).sortWithinPartitions(
        "bucket", "key"
    )
    tokenize = partial(_tokenize, tokenizer_folder=tokenizer_folder, folder=folder / TOKENS)
    in_order.mapInArrow(tokenize, SCHEMA).write.parquet(spark_path(folder / DOCUMENTS))
    remove_lost(folder / TOKENS)


def read_documents(spark: SparkSession, folder: Path) -> DataFrame:
    """What `write_tokens` says of documents. A row is short, so a task reads many files."""
    files = sum(1 for _ in (folder / DOCUMENTS).glob("*.parquet"))
    return spark.read.parquet(spark_path(folder / DOCUMENTS)).coalesce(max(cores(spark), files // FILES_OF_A_TASK))


def bucket_file(folder: Path, bucket: int) -> Path:
    """Where in the folder TOKENS a bucket's tokens are."""
    return folder / f"{bucket:06}"


def encode(tokenizer: Tokenizer, text: str) -> np.ndarray:
    """The document's tokens and its end-of-text: [count], token_dtype. Text that spells a special token stays text."""
    parts = (text[start : start + PART_CHARACTERS] for start in range(0, len(text), PART_CHARACTERS))
    # What encode_ordinary gives, without a Python object for each token.
    ids = [tokenizer.encoding.encode_to_numpy(part, disallowed_special=()) for part in parts]
    return np.concatenate([*ids, [tokenizer.end_of_text]], dtype=token_dtype(tokenizer.vocab_size), casting="unsafe")


def _tokenize(batches: Iterator[pa.RecordBatch], tokenizer_folder: Path, folder: Path) -> Iterator[pa.RecordBatch]:
    tokenizer = _load(tokenizer_folder)
    for bucket, rows in runs(batches, "bucket"):
        with attempt(folder) as own:
            with bucket_file(own, bucket).open("wb") as file:
                yield from _write_bucket(rows, tokenizer, file)
            bucket_file(own, bucket).replace(bucket_file(folder, bucket))


def _write_bucket(slices: Iterator[pa.Table], tokenizer: Tokenizer, file: BinaryIO) -> Iterator[pa.RecordBatch]:
    end = 0
    for rows in slices:
        counts = []
        for text in rows.column("text").to_pylist():
            ids = encode(tokenizer, text)
            file.write(ids.data)
            counts.append(len(ids))
        ends = end + np.cumsum(counts)
        end = int(ends[-1])
        columns = {"within": pa.array(ends - counts), "count": pa.array(counts, pa.int64())}
        kept = {name: rows.column(name).combine_chunks() for name in rows.column_names if name != "text"}
        yield pa.RecordBatch.from_pydict({**kept, **columns})


@lru_cache(maxsize=1)  # a worker process serves many tasks of one job
def _load(folder: Path) -> Tokenizer:
    return Tokenizer.load(folder)

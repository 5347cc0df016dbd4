"""Which tokenizer, and documents to tokens."""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from data import tokenizer as tokenizers
from data.prepare import bpe
from data.prepare.recipe import PrepareRecipe, TokenizerKind
from data.prepare.session import spark_path
from data.tokenizer import Tokenizer

# tiktoken's regex engine overflows its stack on a run of a million spaces, so longer texts are encoded in parts.
PART_CHARACTERS = 200_000
DOCUMENT = "domain string, split string, key string, source int, origin string, licence string, time string, bytes long"
SCHEMA = f"{DOCUMENT}, count long, tokens binary"


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


def write_tokens(unique: DataFrame, tokenizer_folder: Path, folder: Path) -> None:
    """Tokenizes each document and ends it with end-of-text.

    Columns out: SCHEMA, with bytes of the text in UTF-8, and tokens as the bytes of an array of token_dtype.
    """

    def tokenize(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        return (_tokenize_batch(batch, tokenizer_folder) for batch in batches)

    documents = unique.withColumn("bytes", F.octet_length("text").cast("long"))
    names = [column.partition(" ")[0] for column in DOCUMENT.split(", ")]
    documents.select(*names, "text").mapInArrow(tokenize, SCHEMA).write.parquet(spark_path(folder))


def encode(tokenizer: Tokenizer, text: str) -> np.ndarray:
    """The document's tokens and its end-of-text: [count], token_dtype. Text that spells a special token stays text."""
    parts = (text[start : start + PART_CHARACTERS] for start in range(0, len(text), PART_CHARACTERS))
    # What encode_ordinary gives, without a Python object for each token.
    ids = [tokenizer.encoding.encode_to_numpy(part, disallowed_special=()) for part in parts]
    return np.concatenate([*ids, [tokenizer.end_of_text]], dtype=token_dtype(tokenizer.vocab_size), casting="unsafe")


def _tokenize_batch(batch: pa.RecordBatch, tokenizer_folder: Path) -> pa.RecordBatch:
    tokenizer = _load(tokenizer_folder)
    tokens = [encode(tokenizer, text) for text in batch.column("text").to_pylist()]
    columns = {name: batch.column(name) for name in batch.schema.names if name != "text"}
    columns["count"] = pa.array([len(ids) for ids in tokens], pa.int64())
    columns["tokens"] = pa.array([ids.tobytes() for ids in tokens], pa.binary())
    return pa.RecordBatch.from_pydict(columns)


@lru_cache(maxsize=1)  # a worker process serves many tasks of one job
def _load(folder: Path) -> Tokenizer:
    return Tokenizer.load(folder)

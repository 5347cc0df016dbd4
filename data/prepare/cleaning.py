"""Cleaning: what is done to every text, and which documents are dropped, by which step."""

import re
import unicodedata

import pyarrow as pa
from pyspark.sql import Column
from pyspark.sql import functions as F

from data.prepare.recipe import Cleaning
from data.prepare.sources import MALFORMED, NO_TEXT

EMPTY = "empty"
TOO_SHORT = "too_short"
STEPS = (MALFORMED, NO_TEXT, EMPTY, TOO_SHORT)  # in the order in which they see a document
# NUL and the other control characters but tab and newline; the byte order mark; the noncharacters U+FFFE, U+FFFF.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufeff\ufffe\uffff]")
_NEWLINE = re.compile("\r\n?|\u2028|\u2029|\x85")


def clean(text: str) -> str:
    """NFC, newlines as \\n, no control characters, no blank lines at either end. clean(clean(x)) == clean(x)."""
    text = _CONTROL.sub("", _NEWLINE.sub("\n", text))
    return unicodedata.normalize("NFC", text).rstrip().lstrip("\n")


def clean_column(text: Column) -> Column:
    """`clean` over a string column, in Arrow batches; null stays null, and bytes that are no UTF-8 become U+FFFD.

    Spark's strings are unchecked bytes, so they travel as bytes.
    """
    return F.arrow_udf(_clean_batch, "string")(text.cast("binary"))  # type: ignore[call-overload]


def drop_reason(dropped: Column, text: Column, cleaning: Cleaning) -> Column:
    """The first step that drops a document with this cleaned text, or null for one that is kept."""
    return (
        F.when(dropped.isNotNull(), dropped)
        .when(text == "", EMPTY)
        .when(F.char_length(text) < cleaning.min_characters, TOO_SHORT)
    )


def _clean_batch(texts: pa.Array) -> pa.Array:
    cleaned = [None if text is None else clean(text.decode(errors="replace")) for text in texts.to_pylist()]
    return pa.array(cleaned, pa.string())

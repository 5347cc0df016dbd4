"""The steps over documents: pure Python over Arrow batches, one pass, with what each step did to each document."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import pyarrow as pa
import xxhash

from data.prepare.cleaning.pii import MaskPii
from data.prepare.cleaning.verdict import Drop, InLanguage, Step

EMPTY = "empty"  # dropped before the first step: a record whose text has no character
NOTHING_LEFT = "nothing left"  # the rule of a step that takes a document's last character
EXCERPT_CHARACTERS = 160
_CONTEXT_CHARACTERS = 40  # of an excerpt, before the first change
_CHUNK = 4096
Example = dict[str, str | None]  # the fields of _EXAMPLE
_EXAMPLE = pa.struct([(name, pa.string()) for name in ("step", "place", "key", "why", "before", "after")])
COLUMNS = pa.schema(
    [
        ("text", pa.string()),  # null: dropped
        ("dropped", pa.string()),  # by which step, or what was wrong with the record
        ("rule", pa.string()),  # of that step
        ("language", pa.string()),
        ("edited", pa.list_(pa.string())),  # the steps that changed more than white space at its ends
        ("examples", pa.list_(_EXAMPLE)),  # few: see Examples
    ]
)


@dataclass
class Outcome:
    """What became of a document; the fields are COLUMNS."""

    text: str | None
    dropped: str | None = None
    rule: str | None = None
    language: str | None = None
    edited: list[str] = field(default_factory=list)
    examples: list[Example] = field(default_factory=list)


class Examples:
    """Chooses documents to show, by the hash of their raw text: the same ones in any partitioning.

    Hashes fall into sixteen places, and the smallest of each is an example. So each task proposes only those that are
    smaller than all before them: the logarithm of what it sees.
    """

    def __init__(self) -> None:
        self._smallest: dict[tuple[str, str, str, str], str] = {}

    def of_drop(self, domain: str, step: str, key: str, text: str, why: str) -> list[Example]:
        """The document as an example of what the step drops, if it may be one."""
        if not self._may_be_one(domain, step, "drop", key):
            return []
        return [_example(step, f"drop {key[-1]}", key, why, _excerpt(text, 0), None)]

    def of_edit(self, domain: str, step: str, key: str, before: str, after: str) -> list[Example]:
        """The document as an example of what the step changes, from shortly before the first change."""
        if not self._may_be_one(domain, step, "edit", key):
            return []
        start = max(0, _first_difference(before, after) - _CONTEXT_CHARACTERS)
        return [_example(step, f"edit {key[-1]}", key, "edited", _excerpt(before, start), _excerpt(after, start))]

    def _may_be_one(self, domain: str, step: str, kind: str, key: str) -> bool:
        place = domain, step, kind, key[-1]
        if key >= self._smallest.get(place, "g"):
            return False
        self._smallest[place] = key
        return True


def run(steps: dict[str, Step], text: str, domain: str, key: str, examples: Examples) -> Outcome:
    """One document through the steps, until one drops it. `key`: a hash of the raw text, in hex."""
    if not text:
        return Outcome(None, EMPTY)
    outcome = Outcome(text)
    for name, step in steps.items():
        verdict = step.apply(text)
        if isinstance(verdict, InLanguage):
            outcome.language = verdict.language
            continue
        if verdict == "":
            verdict = Drop(NOTHING_LEFT, "nothing is left of it")
        if isinstance(verdict, Drop):
            outcome.text, outcome.dropped, outcome.rule = None, name, verdict.rule
            outcome.examples += examples.of_drop(domain, name, key, text, verdict.why)
            return outcome
        if verdict.strip() != text.strip():  # nearly every file ends in a newline that goes: no edit to speak of
            outcome.edited.append(name)
            outcome.examples += examples.of_edit(domain, name, key, text, verdict)
        text = outcome.text = verdict
    return outcome


def clean_batches(batches: Iterator[pa.RecordBatch], steps: dict[str, dict[str, Step]]) -> Iterator[pa.RecordBatch]:
    """Batches with `domain`, `text` as binary and `dropped`; out come their other columns, then COLUMNS.

    `steps`: of each domain. Bytes that are no UTF-8 become U+FFFD: Spark's strings are unchecked bytes.
    """
    examples = Examples()
    for batch in batches:
        texts = (raw.as_py() for raw in batch.column("text"))  # one at a time: each may be large
        others = (batch.column(name).to_pylist() for name in ("domain", "dropped"))
        outcomes = [
            _outcome(steps[domain], domain, raw, dropped, examples)
            for raw, domain, dropped in zip(texts, *others, strict=True)
        ]
        kept = {name: batch.column(name) for name in batch.schema.names if name not in COLUMNS.names}
        new = {of.name: pa.array([getattr(each, of.name) for each in outcomes], of.type) for of in COLUMNS}
        yield pa.RecordBatch.from_pydict({**kept, **new})


def _outcome(
    steps: dict[str, Step], domain: str, raw: bytes | None, dropped: str | None, examples: Examples
) -> Outcome:
    if dropped is not None or raw is None:
        return Outcome(None, dropped)
    return run(steps, raw.decode(errors="replace"), domain, xxhash.xxh64_hexdigest(raw), examples)


def _example(step: str, place: str, key: str, why: str, before: str, after: str | None) -> Example:
    return {"step": step, "place": place, "key": key, "why": why, "before": before, "after": after}


def _excerpt(text: str, start: int) -> str:
    """A few whole words, without addresses: the manifest is to spread nobody's."""
    cut = text[start : start + EXCERPT_CHARACTERS]
    if start > 0:
        cut = cut[cut.find(" ") + 1 :]
    if start + EXCERPT_CHARACTERS < len(text):
        cut = cut.rpartition(" ")[0] or cut
    return MaskPii().apply(cut)


def _first_difference(one: str, other: str) -> int:
    """Where two texts begin to differ, in one pass without a Python step for each character."""
    shorter = min(len(one), len(other))
    for start in range(0, shorter, _CHUNK):
        if one[start : start + _CHUNK] != other[start : start + _CHUNK]:
            pairs = enumerate(zip(one[start : start + _CHUNK], other[start : start + _CHUNK], strict=False))
            return start + next((place for place, (a, b) in pairs if a != b), shorter - start)
    return shorter

"""The steps in their order over batches: what is dropped, changed and shown."""

from pydoc_data.topics import topics

import pyarrow as pa
import pytest

from data.prepare.cleaning.counts import records
from data.prepare.cleaning.engine import COLUMNS, EXCERPT_CHARACTERS, Examples, clean_batches, run
from data.prepare.cleaning.steps import DEFAULT, STEPS, build


def outcome(items, text):
    return run(build(items), text, "web", "00", Examples())


def batch(texts, domains=None, dropped=None):
    raw = [text if text is None or isinstance(text, bytes) else text.encode() for text in texts]
    columns = {
        "domain": pa.array(domains or ["web"] * len(raw)),
        "origin": pa.array([f"site/{i}" for i in range(len(raw))]),
        "text": pa.array(raw, pa.binary()),
        "dropped": pa.array(dropped or [None] * len(raw), pa.string()),
    }
    return pa.RecordBatch.from_pydict(columns)


def test_the_order_of_steps_is_the_recipes():
    quoted = "â\x80\x9cquotedâ\x80\x9d"
    assert outcome(["mojibake", "unicode"], quoted).text == "“quoted”"
    assert outcome(["unicode", "mojibake"], quoted).text == "âquotedâ", "the control characters are gone by then"
    padded = "sh\x00ort" + "\n" * 20
    long = {"characters": {"min": 20}}
    assert outcome([long, "unicode"], padded).text == "short"
    assert outcome(["unicode", long], padded).dropped == "characters"
    twice = outcome([{"characters": {"max": 10_000}}, "unicode", long], padded)
    assert (twice.dropped, twice.rule, twice.edited) == ("characters_2", "characters", ["unicode"])


def test_a_document_of_which_nothing_is_left():
    assert outcome(["mojibake"], "").dropped == "empty"
    gone = outcome(["mojibake", "unicode"], " \x00\n")
    assert (gone.text, gone.dropped, gone.rule) == (None, "unicode", "nothing left")
    assert outcome([], " ").text == " "


def test_batches_keep_their_other_columns_and_use_the_domains_steps():
    steps = {"web": build(["unicode"]), "code": build([{"characters": {"min": 4}}])}
    domains, dropped = ["web", "code", "web", "web"], [None, None, None, "no_text"]
    (cleaned,) = clean_batches(iter([batch(["a\x00b\r\n", "a\r\n", b"\xff\xedx\n", None], domains, dropped)]), steps)
    assert cleaned.schema == pa.schema([*batch([""]).schema.remove(3).remove(2), *COLUMNS])
    assert cleaned.column("origin").to_pylist() == [f"site/{i}" for i in range(4)]
    assert cleaned.column("text").to_pylist() == ["ab", None, "\ufffd\ufffdx", None]
    assert cleaned.column("dropped").to_pylist() == [None, "characters", None, "no_text"]
    assert cleaned.column("edited").to_pylist() == [["unicode"], [], [], []], "a newline at the end is no edit"


@pytest.mark.parametrize("text", ["\x00", "a\x00b " * 30, "\ud800", "half a pair \udc00 " * 30, " ", "\n", "é" * 50])
def test_no_step_minds_broken_text(text):
    for name in STEPS:
        outcome([name], text)
    kept = outcome(["mojibake", "unicode"], text).text
    assert kept is None or kept.encode().decode() == kept


def proposals(sizes, texts):
    steps = {"web": build(["unicode", {"characters": {"min": 300}}])}
    found = []
    start = 0
    for size in sizes:  # each a task of its own
        for cleaned in clean_batches(iter([batch(texts[start : start + size])]), steps):
            found += [example for examples in cleaned.column("examples").to_pylist() for example in examples]
        start += size
    smallest = {}
    for example in found:
        place = example["step"], example["place"]
        smallest[place] = min(smallest.get(place, example), example, key=lambda example: example["key"])
    return smallest, len(found)


def test_examples_are_the_same_in_any_partitioning_few_and_short():
    paragraphs = [
        part.replace(" ", " \x07", 1) for topic in topics.values() for part in topic.split("\n\n") if part.strip()
    ][:4000]
    whole, number = proposals([4000], paragraphs)
    parts, _ = proposals([1, 999, 3000], paragraphs)
    assert whole == parts and len(whole) == 32  # sixteen drops and sixteen edits
    assert number < 64 * 12, "a task proposes the logarithm of what it sees"
    for (step, _), example in whole.items():
        assert len(example["before"]) <= EXCERPT_CHARACTERS
        assert (example["after"] is None) == (step == "characters")


def test_an_edit_is_shown_where_it_is():
    text = "a plain beginning " * 500 + "and then a cafe\u0301 " + "with more to follow " * 500
    (example,) = outcome(["unicode"], text).examples[:1]
    assert "a cafe\u0301 with" in example["before"] and "a café with" in example["after"]


def test_examples_spread_no_address():
    text = "write to jane.roe@mail.co.uk at 8.8.8.8 " * 10
    (example,) = outcome([{"characters": {"max": 5}}], text).examples
    assert "jane" not in example["before"] and "8.8.8.8" not in example["before"]


def test_records_chain_what_goes_in_and_out():
    dropped = {("web", "b", "long"): 2, ("web", "b", "low"): 1, ("web", "c", "x"): 4, ("code", "b", "x"): 9}
    made = records("web", ["a", "b", "c"], 10, dropped, {("web", "a"): 5, ("code", "a"): 1}, {})
    assert [(of.step, of.documents_in, of.documents_out, of.edited) for of in made] == [
        ("a", 10, 10, 5),
        ("b", 10, 7, 0),
        ("c", 7, 3, 0),
    ]
    assert made[1].dropped == {"long": 2, "low": 1}


def test_the_default_steps_leave_documentation_alone():
    for topic in topics.values():
        assert outcome(DEFAULT, topic).text == topic.rstrip().lstrip("\n")

"""Planted near duplicates, repeated lines and benchmark texts, in real text, through Spark."""

import gzip
import json
import random
import unicodedata
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.errors import DataError
from data.prepare.duplicates import benchmarks, contamination, lines, minhash, near
from data.prepare.duplicates.choices import Benchmark, Decontaminate, Deduplicate, NearDuplicates, RepeatedLines
from data.prepare.duplicates.components import connected_components
from data.prepare.duplicates.documents import DOCUMENTS, read_found
from data.prepare.job import prepare
from data.prepare.recipe import Domain, PrepareRecipe, Source, TokenizerChoice, TokenizerKind

from planted import jaccard, plant, real_texts

LEVELS = (0.5, 0.7, 0.8, 0.9, 0.95)
PAIRS = 40  # of each level
DOMAINS = ("web", "code")  # the first of them has priority


def silent(line):
    pass


def documents(spark, rows):
    """Unique documents from (domain, source, origin, text)."""
    columns = {
        "domain": [row[0] for row in rows],
        "priority": [DOMAINS.index(row[0]) for row in rows],
        "source": [row[1] for row in rows],
        "origin": [row[2] for row in rows],
        "id": [random.Random(row[3]).getrandbits(63) for row in rows],
        "text": [row[3] for row in rows],
        "dropped": pa.nulls(len(rows), pa.string()),
    }
    return spark.createDataFrame(pa.table(columns))


def outcome(spark, folder):
    """(domain, origin) -> text, or what dropped it."""
    rows = spark.read.parquet(str(folder / DOCUMENTS)).collect()
    assert all((row.text is None) == (row.dropped is not None) for row in rows)
    return {(row.domain, row.origin): row.dropped or row.text for row in rows}


@pytest.fixture(scope="module")
def corpus():
    """Pairs at known similarities, a chain, copies across domains and sources, and documents of next to nothing."""
    texts = real_texts(len(LEVELS) * PAIRS + 10, 200)
    rows = []
    for number, text in enumerate(texts[: len(LEVELS) * PAIRS]):
        level = LEVELS[number % len(LEVELS)]
        rows.append(("code", 0, f"{level}/{number}/a", text))
        rows.append(("web" if number % 2 else "code", 0, f"{level}/{number}/b", plant(text, level, number)))
    chain = [texts[-1]]
    while jaccard(chain[0], chain[-1]) > 0.4:
        chain.append(plant(chain[-1], 0.88, len(chain)))
    rows += [("code", 0, f"chain/{place}", text) for place, text in enumerate(chain)]
    of_three = [plant(texts[-2], 0.95, seed) for seed in range(1, 4)]
    rows += [("web", 1, "a", of_three[0]), ("web", 0, "z", of_three[1]), ("code", 0, "0", of_three[2])]
    of_origins = [plant(texts[-3], 0.95, seed) for seed in range(1, 4)]
    rows += [("web", 0, f"origin {name}", text) for name, text in zip("qpr", of_origins, strict=True)]
    rows += [("web", 0, f"short {place}", text) for place, text in enumerate(["yes", "Yes!", "no", "!?", "...", "a b"])]
    random.Random(1).shuffle(rows)
    return rows


@pytest.fixture(scope="module")
def said():
    return []


@pytest.fixture(scope="module")
def dropped(spark, corpus, said, tmp_path_factory):
    folder = tmp_path_factory.mktemp("near")
    near.write(NearDuplicates(), documents(spark, corpus), folder, said.append)
    return folder


def test_recall_and_precision_on_planted_pairs(spark, corpus, dropped):
    texts = {(domain, origin): text for domain, _, origin, text in corpus}
    fate = outcome(spark, dropped)
    assert fate.keys() == texts.keys()
    found, false = Counter(), 0
    for number in range(len(LEVELS) * PAIRS):
        level = LEVELS[number % len(LEVELS)]
        first = ("code", f"{level}/{number}/a")
        second = ("web" if number % 2 else "code", f"{level}/{number}/b")
        gone = [document for document in (first, second) if fate[document] == near.STEP]
        assert gone in ([], [first] if number % 2 else [second]), "the document of higher priority must stay"
        found[level] += len(gone)
        false += len(gone) * (jaccard(texts[first], texts[second]) < 0.7)
    similar = [level for level in LEVELS if level >= 0.8]
    assert sum(found[level] for level in similar) >= 0.97 * len(similar) * PAIRS
    assert all(found[level] >= 0.95 * PAIRS for level in similar), found
    assert false <= 0.01 * found.total() and found[0.5] == 0, found


def test_one_document_of_a_component_stays(spark, corpus, dropped):
    fate = outcome(spark, dropped)
    chain = [fate["code", f"chain/{place}"] for place in range(sum(row[2].startswith("chain/") for row in corpus))]
    assert len(chain) > 5 and chain[0] != near.STEP and set(chain[1:]) == {near.STEP}
    three = {("web", "a"): near.STEP, ("web", "z"): None, ("code", "0"): near.STEP}  # web's first source keeps it
    assert {key: fate[key] == near.STEP for key in three} == {key: step is not None for key, step in three.items()}
    assert [name for name in "qpr" if fate["web", f"origin {name}"] != near.STEP] == ["p"]
    assert [fate["web", f"short {place}"] == near.STEP for place in range(6)] == [False, True, *[False] * 4]


def test_what_was_found_is_told(spark, corpus, dropped, said):
    fate = outcome(spark, dropped)
    found = read_found(dropped)
    gone = Counter(domain for (domain, _), text in fate.items() if text == near.STEP)
    assert {domain: of.dropped for domain, of in found.items()} == gone
    texts = {f"{domain}/{origin}": text for domain, _, origin, text in corpus}
    for domain, of in found.items():
        assert len(of.examples) == 3
        for example in of.examples:
            origin, rest = example.split(" is ")
            similarity, stays = rest.split(" like ")
            stays = stays.removesuffix(", which stays")
            assert fate[domain, origin] == near.STEP != fate[tuple(stays.split("/", 1))]
            assert float(similarity) == pytest.approx(jaccard(texts[f"{domain}/{origin}"], texts[stays]), abs=0.12)
    assert all(any(words in line for line in said) for words in ("hashing", "looking for pairs among", "dropping")), (
        said
    )
    assert sorted(path.name for path in dropped.iterdir()) == [DOCUMENTS, "found.json"]


def test_partitions_do_not_matter(spark, corpus, dropped, tmp_path):
    spark.conf.set("spark.sql.shuffle.partitions", "5")
    again = documents(spark, corpus[::-1]).repartition(7)
    near.write(NearDuplicates(), again, tmp_path, silent)
    spark.conf.set("spark.sql.shuffle.partitions", "2")
    assert outcome(spark, tmp_path) == outcome(spark, dropped)
    assert read_found(tmp_path) == read_found(dropped)


def test_a_band_that_all_documents_share_gives_each_two_pairs(spark):
    """Boilerplate: 2,000 documents have one band of 20 in common, two million pairs."""
    count, choice = 2000, NearDuplicates()
    draw = np.random.default_rng(1)
    signatures = draw.integers(0, 2**32, (count, choice.num_hashes), dtype=np.uint32)
    signatures[:, :8] = 7
    signatures[1] = signatures[0]  # and two of them are the same
    keys = minhash.band_keys(signatures, choice.bands)
    table = {"id": range(count), "signature": [row.tobytes() for row in signatures], "bands": list(keys)}
    pairs = near.candidates(spark.createDataFrame(pa.table(table)), choice.bands).collect()
    assert count - 1 <= len(pairs) <= 2 * count
    assert (1, 0) in [(row.a, row.b) for row in pairs]
    assert {row.a for row in pairs} | {row.b for row in pairs} == set(range(count))


def union_find(edges):
    """Node -> the smallest node of its component."""
    parent = {node: node for edge in edges for node in edge}

    def root(node):
        while parent[node] != node:
            parent[node] = node = parent[parent[node]]
        return node

    for a, b in edges:
        low, high = sorted((root(a), root(b)))
        parent[high] = low
    return {node: root(node) for node in parent}


graphs = st.lists(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), max_size=20), min_size=20, max_size=40)


@settings(max_examples=2, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(graphs, st.integers(0, 2**32))
def test_components_are_those_of_union_find(spark, tmp_path_factory, many, seed):
    """Many small graphs at once, with a long path, a star and a ring beside them; names are random numbers."""
    shapes = [
        *many,
        [(i, i + 1) for i in range(200)],
        [(0, i) for i in range(50)],
        [(i, (i + 1) % 60) for i in range(60)],
    ]
    draw, names = random.Random(seed), {}
    edges = [
        tuple(names.setdefault((number, node), draw.getrandbits(64) - 2**63) for node in edge)
        for number, graph in enumerate(shapes)
        for edge in graph
    ]
    said, folder = [], tmp_path_factory.mktemp("rounds")
    frame = spark.createDataFrame(pa.table({"a": [a for a, _ in edges], "b": [b for _, b in edges]}))
    found = connected_components(frame, folder, said.append, few=0).collect()
    expected = union_find([(a, b) for a, b in edges if a != b])
    assert {row.node: row.root for row in found} == expected and len(found) == len(expected)
    assert 1 < len(said) <= 8, said
    on_the_driver = connected_components(frame, folder, pytest.fail).collect()
    assert sorted(on_the_driver) == sorted(found)


@pytest.mark.parametrize("few", [-1, 0])
def test_no_edges_no_components(spark, tmp_path, few):
    empty = spark.createDataFrame([], "a long, b long")
    assert connected_components(empty, tmp_path, silent, few).collect() == []


NOTICE = " ".join(
    ["This notice is printed on every page of the site, whatever the page is about, and nobody reads it."] * 3
)
CREDITS = " ".join(
    ["Everybody who took part in the making of this, in the order in which they asked to be thanked."] * 3
)


def test_repeated_lines_stay_in_the_first_document_alone(spark, tmp_path):
    texts = {
        ("web", "b"): f"one\n{NOTICE}\n\nkept",
        ("web", "a"): f"two\n  {NOTICE}  \nkept",  # white space at its ends does not count
        ("web", "c"): f"{NOTICE}\n\n",
        ("code", "d"): f"three\n{NOTICE}\n{CREDITS}\nand {CREDITS}\n{CREDITS}",
        ("code", "e"): f"four\nkept\n{CREDITS}",
        ("code", "f"): "four\nkept\nshort lines repeat",
    }
    rows = [(domain, 0, origin, text) for (domain, origin), text in texts.items()]
    frame = documents(spark, rows)
    lines.write(RepeatedLines(), frame, tmp_path / "all", silent)
    assert outcome(spark, tmp_path / "all") == {
        ("web", "a"): texts["web", "a"],
        ("web", "b"): "one\n\nkept",
        ("web", "c"): lines.STEP,
        ("code", "d"): f"three\n{CREDITS}\nand {CREDITS}\n{CREDITS}",
        ("code", "e"): "four\nkept",
        ("code", "f"): texts["code", "f"],
    }
    found = read_found(tmp_path / "all")
    assert sorted(example[:22] for example in found["web"].examples) == [
        "b loses 'This notice i",
        "c loses 'This notice i",
    ]
    assert (found["web"].dropped, found["web"].edited, found["web"].counts) == (1, 1, {"lines": 2})
    assert (found["code"].dropped, found["code"].edited, found["code"].counts) == (0, 2, {"lines": 2})
    lines.write(RepeatedLines(max_documents=2, across_domains=False), frame, tmp_path / "own", silent)
    own = outcome(spark, tmp_path / "own")
    assert own["web", "b"] == "one\n\nkept" and own["code", "d"] == texts["code", "d"]
    assert own["code", "e"] == texts["code", "e"]


QUESTION = (
    "If a train of nine carriages leaves the old station at noon, and twice as many wait, how many carriages wait?"
)
ANSWER = (
    "There are eighteen carriages waiting, since twice nine is eighteen, and none of them has left the station yet."
)
PHRASE = (
    "all rights are reserved and no part of this may be reproduced without the permission of the publisher in writing"
)


@pytest.fixture
def choice(tmp_path):
    (tmp_path / "sums.jsonl").write_text(
        json.dumps({"id": "7", "question": QUESTION, "answers": [ANSWER, "eighteen"]})
        + "\n\n"
        + json.dumps({"question": "What is two and two?", "answers": ["four"]})
    )
    (tmp_path / "law.txt").write_text(PHRASE)
    sums = Benchmark("sums", str(tmp_path / "sums.jsonl"), ["question", "answers"])
    return Decontaminate([sums, Benchmark("law", str(tmp_path / "law.txt"))])


def test_benchmark_texts_are_found_however_they_are_set(spark, choice, tmp_path):
    shouted = QUESTION.upper().replace(", ", " --\n\n* ")
    words = ANSWER.split()
    texts = {
        ("web", "verbatim"): f"{real_texts(1, 200)[0]}\n{QUESTION}\n{real_texts(2, 200)[1]}",
        ("web", "shouted"): f"Guess what: {shouted}",
        ("web", "a part"): f"as they say {' '.join(words[3:16])}",
        ("web", "quotation"): f"as they say {' '.join(words[3:15])}",  # 12 words
        ("web", "short example"): "What is two and two? four",
        **{("code", f"phrase {i}"): f"{i} times: {PHRASE}" for i in range(3)},
        ("code", "both"): f"{PHRASE} {QUESTION}",
        ("code", "clean"): real_texts(3, 200)[2],
    }
    frame = documents(spark, [(domain, 0, origin, text) for (domain, origin), text in texts.items()])
    said = []
    contamination.write(choice, benchmarks.read_benchmarks(choice), frame, tmp_path / "all", said.append)
    fate = outcome(spark, tmp_path / "all")
    clean = {("web", "quotation"), ("web", "short example"), ("code", "clean")}
    assert {key for key, text in fate.items() if text != contamination.STEP} == clean
    found = read_found(tmp_path / "all")
    assert (found["web"].dropped, found["web"].counts) == (3, {"sums": 3})
    assert (found["code"].dropped, found["code"].counts) == (4, {"sums": 1, "law": 4})
    part = " ".join(word.strip(",.") for word in words[3:16])
    assert f"a part has of sums: {part!r}" in found["web"].examples
    assert "decontamination: sums: 2 examples, 1 of them shorter than 13 words and not searched for" in said
    choice.max_documents = 3  # the phrase is in four
    contamination.write(choice, benchmarks.read_benchmarks(choice), frame, tmp_path / "rare", silent)
    rare = outcome(spark, tmp_path / "rare")
    assert {key for key in rare if key[0] == "code" and rare[key] == contamination.STEP} == {("code", "both")}


def test_mistakes_in_benchmarks_are_named(choice, tmp_path, monkeypatch):
    def mistake(sentence, path, *columns):
        with pytest.raises(DataError, match=sentence):
            benchmarks.read_benchmarks(Decontaminate([Benchmark("b", str(path), list(columns))]))

    mistake(r"benchmarks\[0\].path: there is no file .*nowhere", tmp_path / "nowhere")
    mistake("line 1 has no 'problem'", tmp_path / "sums.jsonl", "problem")
    (tmp_path / "bad.jsonl").write_text('{"question": "cut o')
    mistake("bad.jsonl, line 1 is no valid JSON", tmp_path / "bad.jsonl")
    (tmp_path / "short.txt").write_text("too short")
    mistake("none of the 1 examples of .* has 13 words", tmp_path / "short.txt")
    (tmp_path / "sums.jsonl.gz").write_bytes(gzip.compress((tmp_path / "sums.jsonl").read_bytes()))
    mistake(r"sums\.jsonl\.gz has none; only a \.jsonl file has", tmp_path / "sums.jsonl.gz", "question")
    (tmp_path / "packed").write_bytes(b"PAR1\0\0" * 99)
    mistake(r"packed is no text; unpack it", tmp_path / "packed")
    (tmp_path / "half.jsonl").write_text(json.dumps({"question": f"{'a word ' * 13} \ud83d"}))
    assert benchmarks.read_benchmarks(Decontaminate([Benchmark("b", str(tmp_path / "half.jsonl"), ["question"])]))
    monkeypatch.setattr(benchmarks, "MAX_NGRAMS", 20)
    with pytest.raises(DataError, match="more than 20 different runs of 13 words"):
        benchmarks.read_benchmarks(choice)


def test_characters_written_in_two_are_found_in_documents_that_have_them_in_one(tmp_path):
    text = "é à ü " * 5
    found = []
    for form in ("NFC", "NFD"):
        written = unicodedata.normalize(form, text)
        (tmp_path / "b.txt").write_text(written)
        (tmp_path / "b.jsonl").write_text(json.dumps({"question": written}))
        for name in ("b.txt", "b.jsonl"):
            made = benchmarks.read_benchmarks(Decontaminate([Benchmark("b", str(tmp_path / name))], ngram=3))
            found.append(made.hashes.tolist())
    assert found == [found[0]] * 4


def test_another_benchmark_is_another_step(choice, tmp_path):
    before = benchmarks.read_benchmarks(choice).fingerprint
    assert benchmarks.read_benchmarks(choice).fingerprint == before
    (tmp_path / "law.txt").write_text(ANSWER)
    assert benchmarks.read_benchmarks(choice).fingerprint != before


def test_a_job_with_all_three_steps_accounts_for_every_document(spark, choice, tmp_path):
    texts = real_texts(13, 200)
    records = {
        "web": [*texts[:6], f"{QUESTION} {texts[6]}", f"{texts[7]}\n{NOTICE}"],
        "code": [*texts[8:], *(plant(text, 0.9, seed) for seed, text in enumerate(texts[:3], 1)), NOTICE, texts[0]],
    }
    for domain, of_domain in records.items():
        lines_of = (json.dumps({"text": text, "origin": f"{i}"}) for i, text in enumerate(of_domain))
        (tmp_path / f"{domain}.jsonl").write_text("\n".join(lines_of))
    recipe = PrepareRecipe(
        output=str(tmp_path / "dataset"),
        domains={name: Domain([Source(str(tmp_path / f"{name}.jsonl"), origin_column="origin")]) for name in records},
        max_seq_len=64,
        heldout_fraction=0.0,
        hashes=["sha1"],
        deduplicate=Deduplicate(NearDuplicates(), RepeatedLines()),
        decontaminate=choice,
        tokenizer=TokenizerChoice(TokenizerKind.train, vocab_size=300),
    )
    said = []
    manifest = prepare(recipe, said.append, spark)
    web, code = manifest.domains["web"], manifest.domains["code"]
    steps = [near.STEP, lines.STEP, contamination.STEP]
    for domain in (web, code):
        assert [record.step for record in domain.deduplication] == steps
        before = domain.documents_read - domain.duplicates
        for record in domain.deduplication:
            assert record.documents_in == before == record.documents_out + record.dropped
            assert domain.dropped[record.step] == record.dropped
            before = record.documents_out
        assert before == domain.splits["train"].documents == domain.sources[0].kept
        assert domain.sources[0].dropped == {step: number for step, number in domain.dropped.items() if number}
    assert [record.dropped for record in web.deduplication] == [0, 0, 1]
    assert [record.dropped for record in code.deduplication] == [3, 1, 0] and code.duplicates == 1
    assert web.deduplication[2].counts == {"sums": 1} and code.deduplication[1].counts == {"lines": 1}
    assert any(line.startswith("code: near_duplicate: 3 of 9 dropped (") for line in said), said
    assert prepare(recipe, said.append, spark) == manifest and "is up to date" in said[-1]


def test_a_good_choice_has_no_problems():
    of_benchmark = Benchmark("b", "b.jsonl")
    for node in (NearDuplicates(), RepeatedLines(), of_benchmark, Decontaminate([of_benchmark])):
        assert list(node.problems()) == []


@pytest.mark.parametrize(
    ("node", "key"),
    [
        (NearDuplicates(ngram=0), "ngram"),
        (NearDuplicates(num_hashes=112), "num_hashes"),
        (NearDuplicates(bands=0), "bands"),
        (NearDuplicates(threshold=80), "threshold"),
        (RepeatedLines(min_characters=0), "min_characters"),
        (RepeatedLines(max_documents=0), "max_documents"),
        (Benchmark("b"), "path"),
        (Benchmark("", "b.jsonl"), "name"),
        (Decontaminate(), "benchmarks"),
        (Decontaminate([Benchmark("b", "b.txt"), Benchmark("b", "c.txt")]), "benchmarks"),
        (Decontaminate([Benchmark("b", "b.txt")], ngram=0), "ngram"),
        (Decontaminate([Benchmark("b", "b.txt")], max_documents=0), "max_documents"),
    ],
)
def test_each_mistake_in_a_choice_is_named(node, key):
    assert [where for where, expected in node.problems()] == [key]

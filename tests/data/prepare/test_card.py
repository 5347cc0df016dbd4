"""The data card: every number from the manifest, and nothing in it that a document could have written."""

import dataclasses
import itertools
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from made_up import made_up_manifest, split, write_dataset
from markdown_it import MarkdownIt

from data.manifest import (
    CleaningRecord,
    DeduplicationRecord,
    DomainRecord,
    ExampleRecord,
    Manifest,
    SourceRecord,
    TokenizerRecord,
)
from data.prepare.card.contents import median_limit
from data.prepare.card.markdown import PLAIN, code
from data.prepare.card.write import FILES, write_card
from launch.cli import main

NASTY = [
    "<script>alert(1)</script>",
    "</code></pre><img src=x onerror=alert(1)>",
    "a | b ` c `` d",
    "[click](javascript:alert(1)) ![x](http://evil.example/x.png)",
    "<!-- --> &lt;b&gt; **bold** _it_ # no heading\n# nor here\n\n- or there\u202e",
    "http://evil.example www.evil.example jane@evil.example",
]


def nasty_manifest(number: int = 1) -> Manifest:
    """So many domains, with all that a document, a file's name or a column can say in each."""
    domains = {}
    for place in range(number):
        size = 1000 * (place + 1) ** 2
        lengths = {str(1 << power): size // (1 + abs(power - 6 - place % 5)) for power in range(3, 14)}
        kept = sum(lengths.values())
        train = dataclasses.replace(split([40 + place] * 3, 2048), documents=kept - 50, tokens=300 * (kept - 50))
        heldout = dataclasses.replace(split([7], 2048), documents=50, tokens=50 * 300)
        dropped = {"malformed": 3, "characters": 20, "near_duplicate": 10}
        examples = [ExampleRecord("edited", text, text[::-1]) for text in NASTY]
        examples += [ExampleRecord(text, text, None) for text in NASTY]
        domains[f"domain-{place}"] = DomainRecord(
            documents_read=kept + 40,
            dropped=dropped,
            duplicates=7,
            bytes=1200 * kept,
            sources=[
                SourceRecord(NASTY[place % 6], "jsonl", 3, 10**9, kept + 40, kept, 1200 * kept, 300 * kept, dropped, 7)
            ],
            origins=dict.fromkeys(NASTY, 5),
            splits={"train": train, "heldout": heldout},
            unigram_loss=7.0,
            cleaning=[CleaningRecord("characters", kept + 37, kept + 17, 4, {"characters": 20}, examples)],
            languages={"en": kept - 9, "de": 9},
            deduplication=[DeduplicationRecord("near_duplicate", kept + 10, kept, 10, 0, {NASTY[0]: 2}, NASTY)],
            licences=dict.fromkeys(NASTY, 4),
            lengths=lengths,
        )
    recipe = {"domains": {"web": {"path": "```\n<script>"}}, "packing": "best_fit"}
    tokenizer = TokenizerRecord("<b>bpe</b>`", 8192, 8191, "f" * 64, "tokenizer")
    inputs = dict.fromkeys(domains, "b" * 64)
    return Manifest(2048, "uint16", 17, 0.005, tokenizer, domains, "a" * 64, inputs, recipe)


class Elements(HTMLParser):
    """What a page is made of."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: dict[str, int] = {}
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags[tag] = self.tags.get(tag, 0) + 1
        self.attributes += attributes

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("card")
    write_card(nasty_manifest(3), folder, "<i>name</i>")
    return {file: (folder / file).read_text() for file in FILES}


def test_the_page_holds_nothing_of_a_document_but_text(card: dict[str, str]) -> None:
    page = Elements(card["data_card.html"])
    assert not {"script", "img", "iframe", "b-", "i"} & page.tags.keys()
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert not [
        value for name, value in page.attributes if name in ("src", "href") and not re.match("#|data:,", value or "")
    ]
    for text in NASTY:
        assert page.text.count(text) >= 3 * 4, "in examples, among origins and among licences of each domain"
    assert "url(" not in card["data_card.html"] and "@import" not in card["data_card.html"]


def test_the_markdown_holds_nothing_of_a_document_but_code(card: dict[str, str]) -> None:
    markdown = MarkdownIt("commonmark", {"html": True}).enable("table")
    page = Elements(markdown.render(card["data_card.md"]))
    assert not {"script", "img", "a", "i", "em", "b"} & page.tags.keys()
    assert page.tags["h1"] == 1 and page.tags["h2"] == 7 and page.tags["table"] > 10
    for text in NASTY:
        line = " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())
        assert page.text.count(line) >= 3 * 4, line
    for is_table, lines in itertools.groupby(card["data_card.md"].splitlines(), key=lambda line: line.startswith("| ")):
        cells = {len(re.findall(r"(?<!\\)\|", line)) for line in lines}
        assert not is_table or len(cells) == 1, "a cell ends where the card ends it"


@pytest.mark.parametrize(
    "words", ["1,234", "12.5%", "2.34 MB", "domain-1", "near duplicate", "3 to 4; (so)", "überall"]
)
def test_harmless_words_stay_words(words: str) -> None:
    assert PLAIN.fullmatch(words)


def test_code_ends_where_it_ends() -> None:
    assert code("a `b` ``c") == "``` a `b` ``c ```"
    assert code("a|b\n\x00c") == "`a|b c`" and code(" \n") == "–"


def test_the_numbers_are_the_manifests(card: dict[str, str]) -> None:
    manifest = nasty_manifest(3)
    one = manifest.domains["domain-1"]
    tokens = sum(of.tokens for of in one.splits.values())
    for content in card.values():
        for number in (one.documents_read, tokens, *one.lengths.values()):
            assert f"{number:,}" in content
        for fingerprint in (manifest.fingerprint, manifest.tokenizer.fingerprint, "a" * 64, "b" * 64):
            assert fingerprint in content
    before = [line for line in card["data_card.md"].splitlines() if line.startswith("| read ")]
    assert before[1].startswith(f"| read | {one.documents_read:,} | {one.documents_read - 3:,} | 3 |")


def test_median() -> None:
    assert median_limit({"1": 1, "4": 1, "8": 1}) == 8
    assert median_limit({"1": 1, "4": 1}) == 2


def test_the_command_writes_the_card_of_a_dataset_that_is_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_dataset(tmp_path / "small", made_up_manifest({"web": [3]}, 16))
    assert main(["card", str(tmp_path / "small")]) == 0
    assert "# small\n" in (tmp_path / "small" / "data_card.md").read_text()
    assert "data_card.html" in capsys.readouterr().out
    assert main(["card", str(tmp_path)]) == 2
    assert "is this a prepared dataset?" in capsys.readouterr().err
    shard = json.loads((tmp_path / "small" / "web" / "train" / "index.json").read_text())["shards"][0]
    (tmp_path / "small" / "web" / "train" / shard["raw_data"]["basename"]).unlink()
    assert main(["card", str(tmp_path / "small")]) == 2

"""The demo's corpus, gathered for real: same bytes twice, origins that name no machine, reuse, no half folder."""

import json
from pathlib import Path

import pytest

from data import demo_corpus
from data.demo_corpus import gather
from data.errors import DataError


@pytest.fixture(scope="module", autouse=True)
def lower_caps():
    """The same text, less of it: tests gather it more than once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo_corpus, "DOMAIN_CAP", 2_200_000)
        patch.setattr(demo_corpus, "PACKAGE_CAP", 160_000)
        yield


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gather") / "demo"
    return folder, gather(folder, lambda line: None)


def documents(folder, domain):
    return [json.loads(line) for line in (folder / domain / "documents.jsonl").read_text().splitlines()]


def test_every_domain_has_text_within_its_cap(corpus):
    folder, gathered = corpus
    for domain in ("code", "prose", "reference"):
        records = documents(folder, domain)
        assert len(records) == gathered.documents[domain] >= 100
        size = sum(len(record["text"].encode()) for record in records)
        assert 1_000_000 < size == gathered.bytes[domain] <= demo_corpus.DOMAIN_CAP


def test_origins_are_unique_and_name_package_version_and_relative_path(corpus):
    for domain in ("code", "prose", "reference"):
        records = documents(corpus[0], domain)
        assert len({record["origin"] for record in records}) == len(records)
        for record in records:
            package, _, path = record["origin"].partition("/")
            assert len(package.split(" ")) == 2, record["origin"]
            assert path and not path.startswith("/") and ".." not in Path(path).parts
            assert record["licence"].strip()


def test_each_domain_is_what_it_says(corpus):
    code = {record["origin"].partition("/")[2]: record["text"] for record in documents(corpus[0], "code")}
    assert "import" in "".join(code.values()) and not any(path.startswith("test/") for path in code)
    prose = [record["origin"] for record in documents(corpus[0], "prose")]
    assert any("/pydoc/" in origin for origin in prose) and any(origin.endswith("/DESCRIPTION") for origin in prose)
    pages = [record["text"] for record in documents(corpus[0], "reference")]
    assert all(page.startswith(("module ", "class ")) for page in pages)


def test_a_second_gathering_reuses_and_a_forgotten_one_gives_the_same_bytes(corpus, tmp_path):
    folder, first = corpus
    before = (folder / "prose" / "documents.jsonl").stat().st_mtime_ns
    again = gather(folder, lambda line: None)
    assert again.reused and again.documents == first.documents
    assert (folder / "prose" / "documents.jsonl").stat().st_mtime_ns == before
    gather(tmp_path / "demo", lambda line: None)
    for domain in ("code", "prose", "reference"):
        name = f"{domain}/documents.jsonl"
        assert (tmp_path / "demo" / name).read_bytes() == (folder / name).read_bytes()


def test_a_gathering_that_dies_leaves_the_old_corpus(tmp_path, monkeypatch):
    def dies(distributions):
        raise KeyboardInterrupt

    gather(tmp_path / "demo", lambda line: None)
    monkeypatch.setattr(demo_corpus, "_fingerprint", lambda distributions: "another environment")
    monkeypatch.setattr(demo_corpus, "_prose", dies)
    with pytest.raises(KeyboardInterrupt):
        gather(tmp_path / "demo", lambda line: None)
    assert documents(tmp_path / "demo", "prose")
    monkeypatch.undo()
    assert gather(tmp_path / "demo", lambda line: None).reused


def test_a_folder_of_something_else_stays(tmp_path):
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(DataError, match="exists and holds no gathered corpus; remove it or choose another folder"):
        gather(tmp_path, lambda line: None)
    assert (tmp_path / "mine").read_text() == "mine"
    (tmp_path / "mine").unlink()
    assert not gather(tmp_path, lambda line: None).reused
    assert gather(tmp_path, lambda line: None).reused


def test_half_a_character_has_a_size():
    document = demo_corpus.Document("half \ud83e of a pair", "origin", "licence")
    assert list(demo_corpus._capped([document], 100)) == [document]

"""The job on a small corpus with planted trouble: what goes in comes out, once, in order, the same on 1 and 2 cores."""

import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from omegaconf import OmegaConf

from data import lineage
from data.errors import DataError
from data.manifest import Manifest, folder_of, verify
from data.prepare import best_fit, buckets, unigram
from data.prepare.job import prepare
from data.prepare.recipe import (
    Domain,
    Packing,
    Source,
    SourceFormat,
    SparkChoice,
    TokenizerChoice,
    TokenizerKind,
    without_password,
)
from data.prepare.stages import Stages
from data.tokenizer import Tokenizer

from corpus import (
    CODE,
    LATIN_1,
    MAILED,
    MALFORMED,
    NO_TEXT,
    NO_UTF8,
    PLANTED,
    SEED,
    WEB,
    expected_documents,
    hash_of,
    recipe,
    same_files,
    samples_of,
    write_corpus,
)

IN_PROJECT = {"cwd": Path(__file__).parents[3]}
BAD = [*MALFORMED, *NO_UTF8, *NO_TEXT]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepare")
    write_corpus(folder)
    return folder


@pytest.fixture(scope="module")
def lines():
    return []


@pytest.fixture(scope="module")
def two_cores(root, lines):
    """The corpus prepared on two cores, by the command: a process has one Java."""
    output = root / "two" / "dataset"
    done = subprocess.run(command(root, recipe(root, output)), **IN_PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines.extend(done.stdout.splitlines())
    return output


def command(folder, prepared):
    """Of a shell, to prepare a recipe, which is written into the folder."""
    path = folder / "recipe.yaml"
    path.write_text(OmegaConf.to_yaml(OmegaConf.structured(prepared)))
    return [sys.executable, "-m", "launch", "prepare", str(path)]


@pytest.fixture(scope="module")
def spark(java):
    """For everything else: one core, other partitions."""
    session = java.newSession()
    session.conf.set("spark.sql.shuffle.partitions", "3")
    session.conf.set("spark.sql.files.maxPartitionBytes", "16k")
    return session


@pytest.fixture(scope="module")
def one_core(root, spark):
    """The corpus prepared on one core, its documents sorted in many buckets instead of one."""
    output = root / "one" / "dataset"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(buckets, "BUCKET_BYTES", 8000)
        prepare(recipe(root, output), lambda line: None, spark)
    return output


def check_lineage(dataset, domain, split, samples, offsets):
    """Every document kept lies where the lineage says, and every sample is made of what it says."""
    manifest = Manifest.read(dataset)
    tokenizer, length = Tokenizer.load(dataset / manifest.tokenizer.folder), manifest.max_seq_len
    stream, shards = samples.ravel(), manifest.domains[domain].splits[split].shards
    texts, begins = [], []
    for row in pq.read_table(dataset / "lineage" / domain / split).to_pylist():
        pieces = row["pieces"] or [row]
        places = [piece["sample"] * length + piece["position"] for piece in pieces]
        ids = np.concatenate([stream[at:][: piece["tokens"]] for at, piece in zip(places, pieces, strict=True)])
        text = tokenizer.encoding.decode(ids[:-1].tolist())
        texts.append(text)
        begins += [divmod(at, length) for at in places]
        assert ids[-1] == tokenizer.end_of_text and len(ids) == row["tokens"]
        assert (row["domain"], row["split"], row["bytes"]) == (domain, split, len(text.encode()))
        assert row["key"] == hash_of(f"order {SEED}:{hash_of(text)}")
        assert row["shard"] == shards.index(lineage.shard_of(shards, row["sample"])[0])
        number = int(text.split()[1].rstrip(":")) if text.startswith(f"{domain} ") else None
        if number is not None:
            page = {"web": f"site{number % 3} 1.0/{number}", "code": f"pkg 2.0/{number}.py"}[domain]
            code_file = domain == "code" and number >= 15
            assert (row["origin"], row["source"]) == ((f"{number - 15}.txt", 1) if code_file else (page, 0))
    assert sorted(texts) == sorted(expected_documents()[domain, split])
    assert sorted(begins) == [(at, int(start)) for at, of in enumerate(offsets) for start in of[:-1]]
    parts = lineage.fragments(dataset, manifest, domain, split, range(len(samples)))
    for at, of in enumerate(offsets):
        end = 0
        for part in (part for part in parts if part.sample == at):
            assert part.position == end
            end += part.tokens
        assert end == of[-1]
    middle = len(samples) // 2
    only = lineage.fragments(dataset, manifest, domain, split, range(middle, middle + 2))
    assert only == [part for part in parts if middle <= part.sample < middle + 2]


def test_decoded_documents_are_the_cleaned_texts_in_order_and_nothing_else(two_cores, tmp_path):
    manifest = verify(two_cores)
    tokenizer = Tokenizer.load(two_cores / manifest.tokenizer.folder)
    end = tokenizer.end_of_text
    expected = expected_documents()
    assert {(domain, split) for domain in manifest.domains for split in ("train", "heldout")} == set(expected)
    counts = {}
    for (domain, split), texts in expected.items():
        record = manifest.domains[domain].splits[split]
        samples, offsets = samples_of(two_cores, domain, split, tmp_path)
        check_lineage(two_cores, domain, split, samples, offsets)
        assert samples.dtype == np.uint16 and samples.shape == (record.samples, manifest.max_seq_len)
        stream = samples.ravel()[: record.tokens]
        ends = np.flatnonzero(stream == end)
        documents = np.split(stream, ends + 1)
        assert len(documents.pop()) == 0, "the stream does not end with a document's end"
        assert [tokenizer.encoding.decode(ids[:-1].tolist()) for ids in documents] == texts
        assert record.documents == len(texts)
        assert record.tokens == sum(len(tokenizer.encoding.encode_ordinary(text)) + 1 for text in texts)
        assert record.padding_tokens == samples.size - record.tokens < manifest.max_seq_len
        assert (samples.ravel()[record.tokens :] == end).all()
        assert not ((stream[1:] == end) & (stream[:-1] == end)).any(), "an end after an end must mean padding"
        is_target = np.arange(samples.size).reshape(samples.shape) % manifest.max_seq_len != 0
        is_target.ravel()[record.tokens :] = False
        counts[domain, split] = np.bincount(samples[is_target], minlength=tokenizer.vocab_size)
    for domain, record in manifest.domains.items():
        probability = (counts[domain, "train"] + 1) / (counts[domain, "train"].sum() + tokenizer.vocab_size)
        heldout = np.repeat(np.arange(tokenizer.vocab_size), counts[domain, "heldout"])
        assert record.unigram_loss == pytest.approx(-np.log(probability[heldout]).mean(), rel=1e-12)


def test_best_fit_cuts_only_what_is_longer_than_a_sample(root, two_cores, spark, tmp_path):
    """The pieces in the samples are those of the documents, each once, and padding is behind them."""
    output = tmp_path / "dataset"
    shutil.copytree(work_of(two_cores), work_of(output))
    prepare(recipe(root, output, packing=Packing.best_fit), lambda line: None, spark)
    manifest = verify(output)
    tokenizer, length = Tokenizer.load(output / manifest.tokenizer.folder), manifest.max_seq_len
    for (domain, split), texts in expected_documents().items():
        record, wanted, found = manifest.domains[domain].splits[split], [], []
        for text in texts:
            ids = [*tokenizer.encoding.encode_ordinary(text), tokenizer.end_of_text]
            for count in best_fit.cut(len(ids), length):
                wanted.append(tuple(ids[:count]))
                ids = ids[count:]
        samples, offsets = samples_of(output, domain, split, tmp_path)
        check_lineage(output, domain, split, samples, offsets)
        for sample in samples:
            rest = sample.tolist()
            while rest and rest != [tokenizer.end_of_text] * len(rest):
                count = next((n for n in range(len(rest), 0, -1) if tuple(rest[:n]) in set(wanted)), None)
                assert count is not None, "no document's piece begins here"
                found.append(tuple(rest[:count]))
                rest = rest[count:]
        assert sorted(found) == sorted(wanted)
        assert record.tokens == sum(map(len, wanted)) == record.samples * length - record.padding_tokens
        assert record.samples < 1.05 * record.tokens / length + 2


def test_the_manifest_accounts_for_every_record(two_cores):
    web, code = (Manifest.read(two_cores).domains[name] for name in ("web", "code"))
    assert web.documents_read == len(WEB) + len(BAD) + 1
    counts = (len(MALFORMED), len(NO_UTF8), len(NO_TEXT), 0, 0, 1)
    names = ("malformed", "no_utf8", "no_text", "unreadable_file", "too_long", "empty")
    broken = dict(zip(names, counts, strict=True))
    by_step = {"mojibake": 0, "unicode": 1, "characters": 1, "language": 1, "mask_pii": 0}
    assert web.dropped == {**broken, **by_step}
    assert (web.duplicates, code.duplicates) == (1, 1)
    assert code.documents_read == len(CODE) + 1
    assert {step: number for step, number in code.dropped.items() if number} == {"no_utf8": 1}
    for domain in (web, code):
        kept = sum(split.documents for split in domain.splits.values())
        assert domain.documents_read == kept + domain.duplicates + sum(domain.dropped.values())
    expected = expected_documents()
    size = sum(len(text.encode()) for (domain, _), texts in expected.items() if domain == "web" for text in texts)
    assert web.bytes == size
    assert set(web.origins) == {"site0 1.0", "site1 1.0", "site2 1.0", "broken"}
    assert code.origins["pkg 2.0"] == 15 and code.origins["3.txt"] == 1
    assert [(source.format, source.documents, source.files) for source in code.sources] == [
        ("parquet", 15, 1),
        ("text", len(CODE) - 14, len(CODE) - 14),
    ]
    assert web.sources[0].bytes == sum(p.stat().st_size for p in Path(web.sources[0].path).iterdir())


def test_sources_add_up_to_their_domain(two_cores):
    manifest = Manifest.read(two_cores)
    for domain in manifest.domains.values():
        for source in domain.sources:
            assert source.documents == source.kept + source.duplicates + sum(source.dropped.values())
            assert sum(source.lengths.values()) == source.kept
        for of_source, of_domain in {
            "documents": "documents_read",
            "duplicates": "duplicates",
            "kept_bytes": "bytes",
        }.items():
            assert sum(getattr(source, of_source) for source in domain.sources) == getattr(domain, of_domain)
        assert sum(source.tokens for source in domain.sources) == sum(of.tokens for of in domain.splits.values())
        for counts in ("dropped", "languages", "lengths"):
            sums = sum((Counter(getattr(source, counts)) for source in domain.sources), Counter())
            assert sums == +Counter(getattr(domain, counts))
    code = manifest.domains["code"]
    assert [(source.kept, source.duplicates, source.dropped) for source in code.sources] == [
        (15, 0, {}),
        (len(CODE) - 16, 1, {"no_utf8": 1}),
    ]


def test_lengths_are_those_of_the_documents(two_cores):
    manifest = Manifest.read(two_cores)
    tokenizer = Tokenizer.load(two_cores / manifest.tokenizer.folder)
    by_hand = {domain: Counter() for domain in manifest.domains}
    for (domain, _), texts in expected_documents().items():
        for text in texts:
            count = len(tokenizer.encoding.encode_ordinary(text)) + 1
            by_hand[domain][str(max(2**power for power in range(40) if 2**power <= count))] += 1
    assert {domain: of.lengths for domain, of in manifest.domains.items()} == by_hand
    assert list(manifest.domains["code"].lengths) == sorted(by_hand["code"], key=int)


def test_the_recipe_is_there_with_every_default_and_no_secret(root, two_cores):
    asked = Manifest.read(two_cores).recipe
    assert asked["domains"]["web"]["sources"][0]["path"] == str(root / "web [1]")
    assert asked["domains"]["code"]["cleaning"][1] == {"characters": {"min": 20, "max": None}}
    assert asked["deduplicate"] == {"near": None, "lines": None} and asked["max_seq_len"] == 32
    assert not {"output", "spark", "keep_work", "cleaning"} & asked.keys()
    assert without_password("https://jane:secret@host/a@b") == "https://host/a@b"


def test_each_step_says_what_it_did(two_cores):
    web, code = (Manifest.read(two_cores).domains[name] for name in ("web", "code"))
    seen = web.documents_read - len(BAD) - 1
    for record in web.cleaning:
        assert record.documents_in == seen
        assert record.documents_out == seen - sum(record.dropped.values())
        assert web.dropped[record.step] == sum(record.dropped.values())
        seen = record.documents_out
    mojibake, unicode, characters, language, mask_pii = web.cleaning
    assert (mojibake.edited, mask_pii.edited) == (1, 1)
    assert [(of.why, of.before, of.after) for of in mojibake.examples] == [
        ("edited", raw, fixed) for raw, fixed in PLANTED.items() if "Grü" in (fixed or "")
    ]
    assert mask_pii.examples[0].after == PLANTED[MAILED] == mask_pii.examples[0].before, "addresses stay out of it"
    assert unicode.dropped == {"nothing left": 1} and characters.dropped == {"characters": 1}
    assert [of.why for of in characters.examples] == ["characters 9, below 20"]
    assert language.dropped == {"ja": 1} and language.examples[0].why.startswith("ja with a score of ")
    assert sum(web.languages.values()) == mask_pii.documents_out and "ja" not in web.languages
    assert [record.step for record in code.cleaning] == ["unicode", "characters"] and not code.languages


def test_what_could_not_be_read_is_in_quarantine(two_cores):
    rows = pq.read_table(two_cores / "quarantine").to_pylist()
    web = [line.decode(errors="replace") for line in BAD]
    assert sorted(row["record"] for row in rows) == sorted([*web, LATIN_1.decode(errors="replace")])
    assert {(row["domain"], row["source"], row["file"].rpartition("/")[2]) for row in rows} == {
        ("web", 0, "a.jsonl"),
        ("code", 1, "latin.txt"),
    }
    assert {row["reason"] for row in rows} == {"malformed", "no_utf8", "no_text"}


def test_shards_are_many_and_match_their_hashes(two_cores):
    manifest = Manifest.read(two_cores)
    train = manifest.domains["code"].splits["train"]
    assert len(train.shards) > 5 and sum(shard.samples for shard in train.shards) == train.samples
    for number, shard in enumerate(train.shards):
        content = (two_cores / folder_of("code", "train") / shard.file).read_bytes()
        assert shard.file == f"shard.{number:05}.{hashlib.sha256(content).hexdigest()[:12]}.mds.zstd"
        assert shard.hashes["sha1"] == hashlib.sha1(content).hexdigest()


def test_one_and_two_cores_write_the_same_bytes(two_cores, one_core):
    assert len(list(two_cores.rglob("*"))) > 10 and same_files(two_cores, one_core)


def test_nothing_is_left_beside_the_dataset(two_cores):
    assert sorted(path.name for path in two_cores.parent.iterdir()) == [".dataset.lock", ".dataset.work", "dataset"]
    assert sorted(path.name for path in two_cores.iterdir()) == [
        "code",
        "data_card.html",
        "data_card.md",
        "lineage",
        "manifest.json",
        "quarantine",
        "target_counts.parquet",
        "tokenizer",
        "web",
    ]
    assert not [path for path in two_cores.rglob("*") if path.name.startswith(".")]


def test_every_step_is_reported(lines, two_cores):
    said = "\n".join(lines)
    for words in (
        "reading",
        "web: 57 documents read, 10 dropped",
        "1 duplicates",
        "training a tokenizer",
        "writing",
        "is ready",
    ):
        assert words in said, said


def test_a_rerun_does_nothing_and_a_change_is_noticed(root, two_cores, spark, tmp_path):
    manifest = two_cores / "manifest.json"
    before, said = manifest.stat().st_mtime_ns, []
    same = recipe(root, two_cores, spark=SparkChoice("local[7]", "3g"))
    assert prepare(same, said.append) == Manifest.read(two_cores)
    assert said == [f"{two_cores} is up to date: nothing to do"]
    assert manifest.stat().st_mtime_ns == before
    copy = tmp_path / "dataset"
    shutil.copytree(two_cores, copy)
    changed = recipe(root, copy, compression=None, max_seq_len=64, seed=6)
    prepare(changed, lambda line: None, spark)
    rebuilt = verify(copy)
    original = Manifest.read(two_cores)
    assert rebuilt.max_seq_len == 64 and rebuilt.recipe_fingerprint != original.recipe_fingerprint
    for name, domain in rebuilt.domains.items():  # the held-out documents depend on neither seed nor length
        assert {s: of.documents for s, of in domain.splits.items()} == {
            s: of.documents for s, of in original.domains[name].splits.items()
        }


def test_mistakes_end_in_a_sentence_and_leave_nothing(root, spark, tmp_path):
    def mistake(sentence, **changes):
        output = tmp_path / "out" / "dataset"
        with pytest.raises(DataError, match=sentence):
            prepare(recipe(root, output, **changes), lambda line: None, spark)
        left = [path.name for path in output.parent.iterdir()] if output.parent.exists() else []
        assert set(left) <= {".dataset.lock", ".dataset.work"}

    def domain(path, **of_source):
        return {"web": Domain([Source(str(path), **of_source)])}

    web, parquet = root / "web [1]" / "b.jsonl", root / "code.parquet"
    mistake(r"domains.web.sources\[0\].path: there is no file .*nowhere", domains=domain(root / "nowhere" / "*.jsonl"))
    mistake(r"text_column: none of the 30 records of .* has 'body'", domains=domain(web, text_column="body"))
    as_parquet = {"format": SourceFormat.parquet}
    mistake(r"has no column 'text'; it has content, path", domains=domain(parquet, **as_parquet))
    missing_origin = {**as_parquet, "text_column": "content", "origin_column": "url"}
    mistake(r"origin_column: .* has no column 'url'", domains=domain(parquet, **missing_origin))
    mistake("web: none of its .* held out; raise heldout_fraction", domains=domain(web), heldout_fraction=1e-9)
    mistake("web: every document is held out", domains=domain(web), heldout_fraction=0.999999)
    (tmp_path / "short.jsonl").write_text('{"text": "x"}\n{"text": ""}\nrubbish\n')
    left = r"no document is left \(read 3; dropped: malformed 1, empty 1, characters 1; duplicates 0\)"
    mistake(left, domains=domain(tmp_path / "short.jsonl", max_quarantined=0.5))
    many = r"1 of 3 records of .*short.jsonl can't be read \(malformed 1\), more than max_quarantined \(1.00%\)"
    mistake(many + "; for example short.jsonl: malformed: 'rubbish'", domains=domain(tmp_path / "short.jsonl"))
    (tmp_path / "_hidden.jsonl").write_text('{"text": "x"}\n')
    mistake("Spark passes over files whose name begins with '_'", domains=domain(tmp_path / "_hidden.jsonl"))


def test_a_folder_that_is_no_dataset_is_not_overwritten(root, tmp_path):
    precious = tmp_path / "precious.txt"
    precious.write_text("mine")
    with pytest.raises(DataError, match="exists and is no prepared dataset; remove it or choose another folder"):
        prepare(recipe(root, tmp_path), lambda line: None)
    assert precious.read_text() == "mine"


def work_of(output):
    return output.parent / f".{output.name}.work"


def test_a_job_that_is_killed_again_and_again_does_each_stage_once(root, two_cores, spark, tmp_path, monkeypatch):
    class KilledError(BaseException):
        pass

    made = []

    def make(stages, name, depends_on, write, whole=""):
        def write_and_tell(folder):
            write(folder)
            made.append(name)

        before = len(made)
        stage = make_stage(stages, name, depends_on, write_and_tell, whole)
        if len(made) > before and len(made) % 3 == 0:
            raise KilledError
        return stage

    make_stage = Stages.make
    monkeypatch.setattr(Stages, "make", make)
    output = tmp_path / "dataset"
    for _ in range(20):
        try:
            prepare(recipe(root, output), lambda line: None, spark)
            break
        except KilledError:
            assert not output.exists()
    assert made == ["read"] * 3 + ["cleaned"] * 3 + ["unique", "tokenizer", "quarantine", "tokens", "shards"]
    assert same_files(output, two_cores)


def test_a_changed_recipe_redoes_what_depends_on_the_change(root, two_cores, spark, tmp_path):
    output, said = tmp_path / "dataset", []
    shutil.copytree(work_of(two_cores), work_of(output))

    def reused(**changes):
        said.clear()
        prepare(recipe(root, output, **changes), said.append, spark)
        return next(line for line in said if line.startswith("reused"))

    anew = "reused from an earlier run: "
    smaller = {"tokenizer": TokenizerChoice(TokenizerKind.train, vocab_size=300), "max_seq_len": 64}
    assert reused(**smaller) == anew + (
        "read (3), cleaned (3), unique (1), quarantine (1); made anew: tokenizer (1), tokens (1), shards (1)"
    )
    more = {"text": "one document more than there were before, and one more than any cleaning would take away"}
    (tmp_path / "more.jsonl").write_text(json.dumps(more) + "\n")
    domains = {"new": Domain([Source(str(tmp_path / "more.jsonl"))]), **recipe(root, output).domains}
    assert reused(**smaller, domains=domains, heldout_fraction=0.0).startswith(
        anew + "read (3), cleaned (3); made anew: read (1), cleaned (1), unique (1)"
    )
    kept = sorted(path.name.partition("-")[0] for path in work_of(output).iterdir())
    names = ["cleaned"] * 4 + ["hashes.json", "quarantine"] + ["read"] * 4 + ["tokenizer", "tokens", "unique"]
    assert kept == names, "of each stage, what the last recipe wants"
    cleaning = ["unicode", {"characters": {"min": 30}}]  # of one domain; the other has its own
    assert reused(**smaller, cleaning=cleaning, keep_work=False).startswith(
        anew + "read (3), cleaned (1); made anew: cleaned (2), unique (1)"
    )
    assert [path.name for path in work_of(output).iterdir()] == ["hashes.json"]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_job_that_is_stopped_leaves_the_old_dataset_whole_and_goes_on(root, two_cores, spark, tmp_path, how):
    output = tmp_path / "dataset"
    shutil.copytree(two_cores, output)
    shutil.copytree(work_of(two_cores), work_of(output))
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **IN_PROJECT}
    with subprocess.Popen(command(tmp_path, recipe(root, output, seed=99)), **pipes) as process:
        wanted = "writing" if how == signal.SIGKILL else "reading"
        assert process.stdout is not None and any(wanted in line for line in process.stdout)
        os.kill(process.pid, how)
        said = process.communicate(timeout=60)[1]
    assert process.returncode == (-signal.SIGKILL if how == signal.SIGKILL else 130)
    assert said == ("" if how == signal.SIGKILL else "brickyard prepare: interrupted\n")
    assert verify(output) == Manifest.read(two_cores)
    if how == signal.SIGKILL:
        said = []
        prepare(recipe(root, output, seed=99), said.append, spark)
        assert any(line.endswith("tokens (1); made anew: shards (1)") for line in said), said
        assert verify(output).seed == 99


def test_a_full_disk_is_one_sentence_and_the_next_run_goes_on(root, two_cores, spark, tmp_path):
    """Java may write no file of more than 2,000 bytes, which it finds out as it does that a disk is full."""
    output = tmp_path / "dataset"
    shutil.copytree(two_cores, output)
    shutil.copytree(work_of(two_cores), work_of(output))
    java = spark._jvm.ProcessHandle.current().pid()
    before = resource.prlimit(java, resource.RLIMIT_FSIZE)
    resource.prlimit(java, resource.RLIMIT_FSIZE, (2000, before[1]))
    try:
        with pytest.raises(DataError, match=r"^output: a disk is full \(File too large\): .* GB free; make room"):
            prepare(recipe(root, output, seed=98), lambda line: None, spark)
    finally:
        resource.prlimit(java, resource.RLIMIT_FSIZE, before)
    assert verify(output) == Manifest.read(two_cores)
    said = []
    prepare(recipe(root, output, seed=98), said.append, spark)
    assert any("reused from an earlier run: read (3), cleaned (3)" in line for line in said), said
    assert verify(output).seed == 98


def test_unigram_loss_by_hand():
    loss = unigram.unigram_loss(np.array([2, 0, 1]), np.array([1, 1, 0]))
    assert loss == pytest.approx(-(np.log(3 / 6) + np.log(1 / 6)) / 2)

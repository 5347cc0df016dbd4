"""A small corpus with every kind of trouble planted in it, and what should become of it, worked out without Spark."""

import hashlib
import json
import random
import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from omegaconf import OmegaConf
from quick import QUICK

from data.manifest import folder_of
from data.prepare.cleaning.encoding import Unicode
from data.prepare.recipe import (
    Domain,
    PrepareRecipe,
    Source,
    SourceFormat,
    SparkChoice,
    TokenizerChoice,
    TokenizerKind,
)

clean = Unicode().apply
TEXT = SourceFormat.text
MIN_CHARACTERS = 20
HELDOUT = 0.2
SEED = 5
IN_PROJECT = {"cwd": Path(__file__).parents[3]}


def sentences(seed, count):
    """Text of many different words, so that a small vocabulary can be trained on it."""
    draw = random.Random(seed)
    syllables = [a + b for a in "bdfgklmnprst" for b in ("a", "e", "i", "ou", "é", "ü")]
    words = ["".join(draw.choices(syllables, k=draw.randint(1, 4))) for _ in range(count)]
    return " ".join(words)


def ordinary_documents(name, count):
    return [f"{name} {number}: {sentences(f'{name}{number}', 20 + 5 * number)}\n" for number in range(count)]


# What web's own steps make of a text; None: dropped.
JAPANESE = "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。"
MAILED = "mail jane.roe@mail.invalid.org or ping 8.8.8.8, not 10.0.0.1"
PLANTED = {
    "SchÃ¶ne GrÃ¼ÃŸe, it was â\x80\x9csaidâ\x80\x9d": "Schöne Grüße, it was “said”",
    MAILED: "mail email@example.com or ping 192.0.2.1, not 10.0.0.1",
    JAPANESE: None,
}
SHARED = "This very text is in both domains and the first of them keeps it."
HUGE = "huge: " + sentences("huge", 4000)  # longer than a shard
WEB = [
    *ordinary_documents("web", 40),
    SHARED,
    "a copy within the domain, once more",
    "a copy within the domain,\x00 once more\r\n",  # equal only after cleaning
    "decomposed cafe\u0301 and a bell \x07 and <|endoftext|> spelt out",
    "",
    " \n\x00\t",
    "too short",
    *PLANTED,
]
LATIN_1 = "a text file in Latin 1: déjà vu, garçon".encode("latin-1")
LENGTH = {"characters": {"min": MIN_CHARACTERS}}
WEB_STEPS = ["mojibake", "unicode", LENGTH, {"language": {"keep": [], "drop": ["ja"], "min_score": 0}}, "mask_pii"]
CODE = [*ordinary_documents("code", 30), SHARED, HUGE]
MALFORMED = [
    b'{"text": "cut off in the mid',
    b"not json at all",
    b"[1, 2",
]
NO_UTF8 = [b'{"text": "a bad byte \xff in a line of text"}']
NO_TEXT = [b'{"origin": "textless"}', b'{"text": null}']
LONE_SURROGATE = b'{"text": "half a character \\ud800 in a line of text", "origin": "broken"}'


def write_corpus(folder):
    """WEB as JSON lines in two files, with bad lines between; CODE as Parquet and text files."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    web = [json.dumps({"text": text, "origin": f"site{i % 3} 1.0/{i}"}).encode() for i, text in enumerate(WEB)]
    (folder / "web [1]").mkdir(parents=True)  # a name that Spark would read as a glob
    (folder / "web [1]" / "a.jsonl").write_bytes(
        b"\n".join([*web[:20], *MALFORMED, *NO_UTF8, *NO_TEXT, b"", LONE_SURROGATE]) + b"\n"
    )
    (folder / "web [1]" / "b.jsonl").write_bytes(b"\n".join(web[20:]))
    table = {"content": CODE[:15], "path": [f"pkg 2.0/{i}.py" for i in range(15)]}
    pq.write_table(pa.table(table), folder / "code.parquet")
    (folder / "files").mkdir()
    for number, text in enumerate(CODE[15:]):
        (folder / "files" / f"{number}.txt").write_text(text)
    (folder / "files" / "latin.txt").write_bytes(LATIN_1)


def recipe(folder, output, **changes):
    """The recipe for write_corpus(folder)."""
    columns = {"text_column": "content", "origin_column": "path"}
    parquet = Source(str(folder / "code.parquet"), format=SourceFormat.parquet, **columns)
    parts = {
        "output": str(output),
        "domains": {
            "web": Domain([Source(str(folder / "web [1]"), origin_column="origin", max_quarantined=0.2)], WEB_STEPS),
            "code": Domain([parquet, Source(str(folder / "files" / "*.txt"), format=TEXT, max_quarantined=0.1)]),
        },
        "max_seq_len": 32,
        "seed": SEED,
        "heldout_fraction": HELDOUT,
        "cleaning": ["unicode", LENGTH],
        "tokenizer": TokenizerChoice(TokenizerKind.train, vocab_size=400),
        "shard_size_mb": 0.003,
        "compression": "zstd",
        "spark": SparkChoice("local[2]", "1g", {"spark.sql.shuffle.partitions": "2", **QUICK}),
    }
    return PrepareRecipe(**{**parts, **changes})


def expected_documents():
    """(domain, split) -> cleaned texts in order: unique, held out by hash, ordered by another hash."""
    half = LONE_SURROGATE.decode().replace("\\ud800", "?")  # what Java makes of it
    raw = {"web": [*WEB, json.loads(half)["text"]], "code": CODE}
    seen, kept = set(), []
    for domain, texts in raw.items():
        for text in (PLANTED.get(text, clean(text)) for text in texts):
            if text is not None and len(text) >= MIN_CHARACTERS and text not in seen:
                seen.add(text)
                kept.append((domain, text))
    documents = {}
    for domain, text in sorted(kept, key=lambda item: hash_of(f"order {SEED}:{hash_of(item[1])}")):
        heldout = int(hash_of(f"heldout:{hash_of(text)}")[:8], 16) / 2**32 < HELDOUT
        documents.setdefault((domain, "heldout" if heldout else "train"), []).append(text)
    return documents


def samples_of(dataset, domain, split, tmp_path):
    """A split's samples as Streaming reads them, [samples, max_seq_len], and each one's document_offsets."""
    from streaming import StreamingDataset

    local = tmp_path / domain / split  # a copy, since Streaming unpacks beside the shards
    shutil.copytree(dataset / folder_of(domain, split), local)
    read = StreamingDataset(local=str(local), shuffle=False, batch_size=1, validate_hash="xxh64")
    samples = [read[i] for i in range(read.num_samples)]
    return np.stack([sample["tokens"] for sample in samples]), [sample["document_offsets"] for sample in samples]


def same_files(one, two):
    files = [sorted(p.relative_to(root) for p in root.rglob("*") if p.is_file()) for root in (one, two)]
    return files[0] == files[1] and all(content(one / name) == content(two / name) for name in files[0])


def content(file):
    """Of Parquet its rows: a cluster wrote a few other bytes than one machine, and it is not known why."""
    return pq.read_table(file).to_pylist() if file.suffix == ".parquet" else file.read_bytes()


def hash_of(text):
    return hashlib.sha256(text.encode()).hexdigest()


def command(folder, prepared):
    """Of a shell, to prepare a recipe, which is written into the folder."""
    path = folder / "recipe.yaml"
    path.write_text(OmegaConf.to_yaml(OmegaConf.structured(prepared)))
    return [sys.executable, "-m", "launch", "prepare", str(path)]


def work_of(output):
    """The folder of a dataset's finished stages."""
    return output.parent / f".{output.name}.work"

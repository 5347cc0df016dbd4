"""How fast is text prepared, what does it take, and what would 12 trillion tokens cost?

    .venv/bin/python benchmarks/prepare.py [--mb 1000]

The text is that of this environment's own packages: Python files and docs. The whole job (read, clean, exact and near
duplicates, tokenize, pack, write) runs on all cores, on one, and on all again (a rented machine's speed drifts within
minutes: of the two the mean counts), and beside it, in the same run:

- a bare loop of tiktoken over the documents that the job kept, a process a core: the limit of tokenize + pack + write,
  and of what a second core can bring (two hardware threads of one core are not two cores);
- datatrove's equivalent pipeline on all cores (datatrove_job.py), in an environment of its own, which is made in the
  temporary folder unless --datatrove-python names one;
- the job on a tenth of the text, twice as well, for the memory: of that the larger counts.

Java may take HEAP, which a tenth of the text fills already, and a shard has SHARD_MB, of which a task holds three: a
tenth of the text makes several for each core.

The tokenizer is cl100k_base: without a network, TIKTOKEN_CACHE_DIR names a folder that has it (README.md). Processes on
one core are pinned to it, Java and its collector included. Ends with one JSON line.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import platform
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:] = [folder for folder in sys.path if Path(folder).resolve() != HERE]  # `model.py` would hide `model`

import psutil  # noqa: E402
import pyarrow.dataset  # noqa: E402

from data.fast_tokenizer import to_fast  # noqa: E402
from data.manifest import Manifest  # noqa: E402
from data.prepare import job  # noqa: E402
from data.prepare.duplicates.choices import Deduplicate, NearDuplicates  # noqa: E402
from data.prepare.recipe import Domain, PrepareRecipe, Source, SparkChoice  # noqa: E402
from data.prepare.stages import Stages  # noqa: E402
from data.tokenizer import Tokenizer, cl100k_base  # noqa: E402

DOMAIN = "packages"
SUFFIXES = {".py", ".pyi", ".pyx", ".pxd", ".rst", ".md", ".txt"}
NAMES = ("METADATA", "LICENSE", "README")
FILES = 20  # of the corpus; the small one has a tenth of them
BATCH = 64  # documents of a call in the bare loop
HEAP, SHARD_MB = "512m", 16
SHARES = 5  # of the text, by each of which the machine is asked what a second core brings
TOKENS = 12e12
DATATROVE = ("datatrove==0.10.1", "orjson", "tokenizers", "ftfy", "spacy", "regex", "xxhash<4", "nltk", "pyarrow")
NEAR = NearDuplicates(ngram=5, num_hashes=112, bands=14)  # datatrove's own, and FineWeb's
# Every rule looks at every document. At their defaults, which are for prose, hardly any source code would be left.
QUALITY = {
    "min_words": 10,
    "max_words": 10_000_000,
    "min_mean_word_length": 2,
    "max_mean_word_length": 100,
    "max_symbol_ratio": 1.0,
    "max_bullet_lines": 0.99,
    "max_ellipsis_lines": 0.99,
    "min_alphabetic_words": 0.2,
    "min_stop_words": 1,
}
LINES = 0.95  # the largest fractions of what is repeated
TOP_NGRAMS = dict.fromkeys((2, 3, 4), 0.95)
DUPLICATE_NGRAMS = dict.fromkeys((5, 6, 7, 8, 9, 10), 0.99)
THEIR_QUALITY = {
    "min_doc_words": QUALITY["min_words"],
    "max_doc_words": QUALITY["max_words"],
    "min_avg_word_length": QUALITY["min_mean_word_length"],
    "max_avg_word_length": QUALITY["max_mean_word_length"],
    "max_symbol_word_ratio": QUALITY["max_symbol_ratio"],
    "max_bullet_lines_ratio": QUALITY["max_bullet_lines"],
    "max_ellipsis_lines_ratio": QUALITY["max_ellipsis_lines"],
    "max_non_alpha_words_ratio": QUALITY["min_alphabetic_words"],  # its name; it is the least of those with a letter
    "min_stop_words": QUALITY["min_stop_words"],
}
THEIR_REPETITION = {
    **dict.fromkeys(("dup_line_frac", "dup_para_frac", "dup_line_char_frac", "dup_para_char_frac"), LINES),
    "top_n_grams": list(TOP_NGRAMS.items()),
    "dup_n_grams": list(DUPLICATE_NGRAMS.items()),
}


@dataclass
class Run:
    """The whole job, once."""

    seconds: float
    tokens: int
    documents: int
    bytes_kept: int
    stages: dict[str, float]  # seconds
    packing_seconds: float  # from the first document tokenized to the dataset in its place
    memory: dict[str, float]  # peaks in MB: of all processes together, of Java, of the largest Python worker


def main() -> None:
    if len(sys.argv) == 3 and sys.argv[1] == "--job":
        run_job(json.loads(sys.argv[2]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mb", type=int, default=1000, help="of text, at most (default: %(default)s)")
    parser.add_argument("--folder", type=Path, help="where the temporary folder is made (default: the system's)")
    parser.add_argument("--datatrove-python", type=Path, help="an interpreter that has datatrove")
    parser.add_argument("--without-datatrove", action="store_true", help="leave it out")
    options = parser.parse_args()
    print(f"machine: {machine()}", flush=True)
    with tempfile.TemporaryDirectory(prefix="prepare-", dir=options.folder) as folder:
        print(json.dumps(measure(Path(folder), options)))


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    corpus, tenth = folder / "corpus", folder / "tenth"
    megabytes, documents = write_corpus(corpus, tenth, options.mb)
    print(f"text: {megabytes:.0f} MB in {documents:,} documents", flush=True)
    cores = sorted(os.sched_getaffinity(0))
    first, first_bare = beside_bare_loop("all the text, all cores", corpus, folder / "all", cores)
    one_core = whole_job("all the text, one core", corpus, folder / "one", cores[:1])
    second, second_bare = beside_bare_loop("all the text, all cores again", corpus, folder / "again", cores)
    all_cores, bare = mean_of(first, second), (first_bare + second_bare) / 2
    assert one_core.tokens == first.tokens == second.tokens
    limit = bare_scaling(folder / "all" / "tokenizer", kept_texts(folder / ".all.work"), cores)
    small = whole_job("a tenth of the text, all cores", tenth, folder / "small", cores)
    small = mean_of(small, whole_job("a tenth of the text, all cores again", tenth, folder / "small again", cores))
    results: dict[str, Any] = {"machine": machine(), "load": round(os.getloadavg()[0], 2), "mb": round(megabytes)}
    results |= against_bare_loop(all_cores, bare)
    results |= against_one_core(all_cores, one_core, limit, len(cores))
    results |= memory(all_cores, small, len(cores))
    results |= cost(all_cores, len(cores))
    if not options.without_datatrove:
        results |= against_datatrove(all_cores, folder, corpus, options.datatrove_python)
    return results


def machine() -> str:
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    name = models[0].partition(":")[2].strip() if models else platform.machine()
    gigabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{name}, {os.cpu_count()} cores, {gigabytes:.0f} GiB"


def say(line: str) -> None:
    print(f"prepare: {line}", file=sys.stderr, flush=True)


def write_corpus(folder: Path, tenth: Path, megabytes: int) -> tuple[float, int]:
    """JSON Lines files of about equal size, and a tenth of them linked into `tenth`; (megabytes, documents)."""
    folder.mkdir()
    written = documents = 0
    files = [(folder / f"{number:02}.jsonl").open("w", encoding="utf-8") for number in range(FILES)]
    for path, text in package_texts():
        files[documents % FILES].write(json.dumps({"path": path, "text": text}) + "\n")
        documents += 1
        written += len(text.encode())
        if written >= megabytes * 1_000_000:
            break
    for file in files:
        file.close()
    tenth.mkdir()
    for path in sorted(folder.iterdir())[: FILES // 10]:
        (tenth / path.name).hardlink_to(path)
    return written / 1e6, documents


def package_texts() -> Iterator[tuple[str, str]]:
    """Names and texts of the environment's files, each file once, in an order that knows nothing of folders."""
    root = Path(sysconfig.get_path("purelib"))
    named = {path.resolve(): path.relative_to(root) for path in root.rglob("*") if is_text(path) and path.is_file()}
    for path, name in sorted(named.items(), key=lambda item: hashlib.sha256(str(item[1]).encode()).digest()):
        try:
            yield str(name), path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue


def is_text(path: Path) -> bool:
    return path.suffix in SUFFIXES or path.name.startswith(NAMES)


def whole_job(name: str, corpus: Path, output: Path, cores: list[int]) -> Run:
    """A process of its own, pinned to `cores`, whose memory and that of all it starts is watched."""
    say(f"the whole job: {name}")
    arguments = {"corpus": str(corpus), "output": str(output), "cores": cores}
    began = time.perf_counter()
    command = [sys.executable, __file__, "--job", json.dumps(arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process, Watched(process.pid) as peaks:
        assert process.stdout is not None
        said = process.stdout.read()
    seconds = time.perf_counter() - began
    if process.returncode:
        raise SystemExit(f"prepare: the job failed: {name}")
    timed = json.loads(said.splitlines()[-1])
    domain = Manifest.read(output).domains[DOMAIN]
    tokens = sum(split.tokens for split in domain.splits.values())
    documents = sum(split.documents for split in domain.splits.values())
    shown = ", ".join(f"{stage} {spent:.0f}" for stage, spent in timed["stages"].items())
    say(f"{seconds:.0f} s: {shown}")
    return Run(seconds, tokens, documents, domain.bytes, timed["stages"], timed["packing"], peaks)


def beside_bare_loop(name: str, corpus: Path, output: Path, cores: list[int]) -> tuple[Run, float]:
    """The whole job, and the rate of the bare loop in bytes a second, right after it."""
    run = whole_job(name, corpus, output, cores)
    say(f"{run.tokens:,} tokens of {run.documents:,} documents, {run.bytes_kept / 1e6:.0f} MB")
    bare = bare_rate(output / "tokenizer", kept_texts(output.with_name(f".{output.name}.work")), cores)
    say(f"tokenize + pack + write at {run.bytes_kept / run.packing_seconds / bare:.2f} of the bare loop's rate")
    return run, bare


def mean_of(one: Run, other: Run) -> Run:
    """Of their times; of their memory the larger."""
    return replace(
        one,
        seconds=(one.seconds + other.seconds) / 2,
        stages={name: (spent + other.stages[name]) / 2 for name, spent in one.stages.items()},
        packing_seconds=(one.packing_seconds + other.packing_seconds) / 2,
        memory={name: max(size, other.memory[name]) for name, size in one.memory.items()},
    )


def run_job(arguments: dict[str, Any]) -> None:
    """In that process. The last line printed is JSON."""
    os.sched_setaffinity(0, arguments["cores"])
    make, stages, first_token, ready = Stages.make, dict[str, float](), list[float](), list[float]()

    def timed(self: Stages, name: str, *others: Any, **named: Any) -> Any:
        began = time.perf_counter()
        if name == "tokens":
            first_token.append(began)
        made = make(self, name, *others, **named)
        stages[name] = stages.get(name, 0) + time.perf_counter() - began
        return made

    def report(line: str) -> None:
        if " is ready after " in line:  # in its place; what follows is Spark's end
            ready.append(time.perf_counter())

    Stages.make = timed  # type: ignore[method-assign]
    job.prepare(recipe(arguments), report)
    packing = ready[0] - first_token[0]
    print(json.dumps({"stages": {name: round(spent, 1) for name, spent in stages.items()}, "packing": packing}))


def recipe(arguments: dict[str, Any]) -> PrepareRecipe:
    repetition = {
        "max_duplicate_lines": LINES,
        "max_duplicate_paragraphs": LINES,
        "max_duplicate_line_characters": LINES,
        "max_duplicate_paragraph_characters": LINES,
        "top_ngrams": TOP_NGRAMS,
        "duplicate_ngrams": DUPLICATE_NGRAMS,
    }
    cleaning = ["mojibake", "unicode", {"gopher_quality": QUALITY}, {"gopher_repetition": repetition}, "mask_pii"]
    return PrepareRecipe(
        output=arguments["output"],
        domains={DOMAIN: Domain([Source(arguments["corpus"], origin_column="path")])},
        cleaning=cleaning,
        deduplicate=Deduplicate(near=NEAR),
        shard_size_mb=SHARD_MB,
        spark=SparkChoice(f"local[{len(arguments['cores'])}]", HEAP),
    )


class Watched:
    """Peaks of memory of a process and of all that it starts, in MB. A page that several share is counted once."""

    def __init__(self, pid: int) -> None:
        self.root = psutil.Process(pid)
        self.peaks = {"all": 0.0, "java": 0.0, "worker": 0.0}
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._watch)

    def __enter__(self) -> dict[str, float]:
        self.thread.start()
        return self.peaks

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.thread.join()

    def _watch(self) -> None:
        while not self.done.wait(0.5):
            sizes = {"all": 0.0, "java": 0.0, "worker": 0.0}
            for process in self._tree():
                kind, size = self._size(process)
                sizes["all"] += size
                sizes[kind] = max(sizes[kind], size)
            self.peaks.update({name: max(size, self.peaks[name]) for name, size in sizes.items()})

    def _tree(self) -> list[psutil.Process]:
        try:
            return [self.root, *self.root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def _size(self, process: psutil.Process) -> tuple[str, float]:
        try:
            kind = "java" if process.name() == "java" else "worker"
            lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
        except (psutil.NoSuchProcess, OSError):
            return "worker", 0.0
        return kind, next((int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("Pss:")), 0.0)


def kept_texts(work: Path) -> list[str]:
    """The documents that the job tokenized, in memory."""
    (stage,) = work.glob("near_duplicate-*")
    rows = pyarrow.dataset.dataset(stage / "documents", format="parquet")
    table = rows.to_table(columns=["text"], filter=pyarrow.dataset.field("dropped").is_null())
    return table.column("text").to_pylist()


def bare_rate(tokenizer: Path, texts: list[str], cores: list[int]) -> float:
    """Bytes a second of encode_ordinary_batch in a process a core, each with its share of the texts."""
    say(f"a bare tiktoken loop on {len(cores)} of the cores")
    context = multiprocessing.get_context("fork")
    ready, results = context.Barrier(len(cores)), context.Queue()

    def encode(core: int, share: list[str]) -> None:
        os.sched_setaffinity(0, {core})
        encoding = Tokenizer.load(tokenizer).encoding
        encoding.encode_ordinary("warm")
        ready.wait()
        began = time.perf_counter()
        for start in range(0, len(share), BATCH):
            encoding.encode_ordinary_batch(share[start : start + BATCH], num_threads=1)
        results.put((began, time.perf_counter()))

    shares = [texts[place :: len(cores)] for place in range(len(cores))]
    processes = [context.Process(target=encode, args=each) for each in zip(cores, shares, strict=True)]
    for process in processes:
        process.start()
    times = [results.get() for _ in processes]
    for process in processes:
        process.join()
    spent = max(end for _, end in times) - min(began for began, _ in times)
    return sum(len(text.encode()) for text in texts) / spent


def bare_scaling(tokenizer: Path, texts: list[str], cores: list[int]) -> float:
    """How much faster the bare loop is on all cores than on one: the median of some pairs."""
    shares = [texts[place::SHARES] for place in range(SHARES)]
    return median(bare_rate(tokenizer, share, cores) / bare_rate(tokenizer, share, cores[:1]) for share in shares)


def against_bare_loop(run: Run, bare: float) -> dict[str, Any]:
    rate = run.bytes_kept / run.packing_seconds
    print(
        f"tokenize + pack + write: {rate / 1e6:.2f} MB/s, the bare loop {bare / 1e6:.2f} MB/s: {rate / bare:.2f} "
        "(wanted: 0.7)"
    )
    return {"packing_mb_s": round(rate / 1e6, 2), "bare_mb_s": round(bare / 1e6, 2), "to_bare": round(rate / bare, 3)}


def against_one_core(run: Run, one: Run, limit: float, cores: int) -> dict[str, Any]:
    faster = one.seconds / run.seconds
    print(
        f"1 -> {cores} cores: {one.seconds:.0f} s -> {run.seconds:.0f} s: {faster:.2f} (wanted: 1.7); the bare loop "
        f"{limit:.2f}, which is this machine's limit: {faster / limit:.2f} of it"
    )
    ratios = {"cores": faster, "cores_limit": limit, "cores_of_limit": faster / limit}
    return {"seconds": round(run.seconds, 1), "seconds_one_core": round(one.seconds, 1)} | {
        name: round(ratio, 3) for name, ratio in ratios.items()
    }


def memory(run: Run, small: Run, cores: int) -> dict[str, Any]:
    for name, of in (("a tenth", small), ("all", run)):
        print(
            f"memory, {name} of the text: {of.memory['all'] / cores:,.0f} MB a core at most "
            f"(Java {of.memory['java']:,.0f} MB, the largest Python worker {of.memory['worker']:,.0f} MB)"
        )
    both = (("1x", small.memory), ("10x", run.memory))
    growth = run.memory["all"] / small.memory["all"]
    print(f"memory as the text grows tenfold: {growth:.2f} times")
    peaks = {name: {kind: round(size) for kind, size in of.items()} for name, of in both}
    return {"memory_mb": peaks, "memory_growth": round(growth, 3)}


def cost(run: Run, cores: int) -> dict[str, Any]:
    """Core-hours of TOKENS, were every token as dear as those of this run."""
    hours = TOKENS / run.tokens * run.seconds * cores / 3600
    print(
        f"12T tokens: {run.tokens:,} tokens took {run.seconds:.0f} s on {cores} cores, "
        f"{run.tokens / run.seconds / cores:,.0f} tokens a core-second; 12e12 / that / 3600 = {hours:,.0f} core-hours, "
        f"which is {hours / 1000 / 24:.1f} days on 1,000 cores"
    )
    by_stage = {name: hours * spent / run.seconds for name, spent in run.stages.items()}
    by_stage["other"] = hours - sum(by_stage.values())
    for name, part in by_stage.items():
        print(f"{name:>16}: {part:9,.0f} core-hours")
    return {"core_hours": round(hours), "core_hours_by_stage": {name: round(part) for name, part in by_stage.items()}}


def against_datatrove(run: Run, folder: Path, corpus: Path, python: Path | None) -> dict[str, Any]:
    python = python or make_environment(folder / "datatrove-environment")
    settings = {"ngram": NEAR.ngram, "num_hashes": NEAR.num_hashes, "bands": NEAR.bands}
    settings |= {"quality": THEIR_QUALITY, "repetition": THEIR_REPETITION, "tokenizer": str(folder / "cl100k.json")}
    to_fast(cl100k_base()).save(settings["tokenizer"])
    (folder / "settings.json").write_text(json.dumps(settings))
    say("datatrove: the whole job")
    command = [python, HERE / "datatrove_job.py", corpus, folder / "datatrove", folder / "settings.json"]
    began = time.perf_counter()
    with (folder / "datatrove.log").open("w") as log:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=log, text=True, check=False)
    seconds = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(f"prepare: datatrove failed:\n{(folder / 'datatrove.log').read_text()[-2000:]}")
    theirs = json.loads(done.stdout.splitlines()[-1])
    # Each side by the tokens that it wrote: they count a word differently, so they keep a few other documents.
    ratio = (run.tokens / run.seconds) / (theirs["tokens"] / seconds)
    print(
        f"datatrove: {seconds:.0f} s for {theirs['tokens']:,} tokens, ours {run.seconds:.0f} s for {run.tokens:,}: "
        f"ours is {seconds / run.seconds:.2f} times as fast for the same text, {ratio:.2f} times a token (wanted: 1.5)"
    )
    print(f"datatrove's steps: {theirs['seconds']}")
    return {
        "datatrove_seconds": round(seconds, 1),
        "datatrove_steps": theirs["seconds"],
        "to_datatrove": round(seconds / run.seconds, 2),
        "to_datatrove_by_token": round(ratio, 2),
    }


def make_environment(folder: Path) -> Path:
    say(f"making an environment with {DATATROVE[0]} in {folder}")
    uv = Path(sys.executable).parent / "uv"
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, folder], check=True)
    environment = {**os.environ, "VIRTUAL_ENV": str(folder)}
    subprocess.run([uv, "pip", "install", "--quiet", *DATATROVE], check=True, env=environment)
    return folder / "bin" / "python"


if __name__ == "__main__":
    main()

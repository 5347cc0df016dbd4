"""datatrove's side of benchmarks/prepare.py: read, clean, MinHash deduplication, tokenize, on this machine's cores.

    PYTHON_WITH_DATATROVE benchmarks/datatrove_job.py CORPUS FOLDER SETTINGS.json

The steps and their order are those of datatrove's own examples (process_common_crawl_dump.py and
minhash_deduplication.py), the numbers those that benchmarks/prepare.py gives to Brickyard. Prints one JSON line:
seconds of each step, and tokens.
"""

import json
import os
import sys
import time
from pathlib import Path

from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import (
    MinhashConfig,
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupFilter,
    MinhashDedupSignature,
)
from datatrove.pipeline.filters import GopherQualityFilter, GopherRepetitionFilter
from datatrove.pipeline.formatters import FTFYFormatter, PIIFormatter
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.tokens import DocumentTokenizer
from datatrove.pipeline.writers import JsonlWriter


def main() -> None:
    corpus, folder, settings = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(Path(sys.argv[3]).read_text())
    cores = len(os.sched_getaffinity(0))
    dedup = MinhashConfig(
        n_grams=settings["ngram"],
        num_buckets=settings["bands"],
        hashes_per_bucket=settings["num_hashes"] // settings["bands"],
    )
    clean, signatures, pairs, repeats = (str(folder / name) for name in ("clean", "signatures", "pairs", "repeats"))
    steps = {
        "clean": (
            cores,
            [
                JsonlReader(str(corpus)),
                FTFYFormatter(
                    unescape_html=False, remove_terminal_escapes=False, fix_line_breaks=True, normalization="NFC"
                ),
                GopherQualityFilter(**settings["quality"]),
                GopherRepetitionFilter(**settings["repetition"]),
                PIIFormatter(),
                JsonlWriter(clean, compression=None),
            ],
        ),
        "signatures": (cores, [JsonlReader(clean), MinhashDedupSignature(signatures, config=dedup)]),
        "pairs": (dedup.num_buckets, [MinhashDedupBuckets(signatures, pairs, config=dedup)]),
        "cluster": (1, [MinhashDedupCluster(pairs, repeats, config=dedup)]),
        "tokenize": (
            cores,
            [
                JsonlReader(clean),
                MinhashDedupFilter(repeats),
                DocumentTokenizer(
                    str(folder / "tokens"),
                    tokenizer_name_or_path=settings["tokenizer"],
                    eos_token="<|endoftext|>",
                    seed=17,
                ),
            ],
        ),
    }
    seconds = {}
    for name, (tasks, pipeline) in steps.items():
        began = time.perf_counter()
        logs = str(folder / "logs" / name)
        LocalPipelineExecutor(pipeline, tasks=tasks, workers=min(tasks, cores), logging_dir=logs).run()
        seconds[name] = round(time.perf_counter() - began, 1)
    tokens = sum(path.stat().st_size for path in (folder / "tokens").glob("*.ds")) // 4  # cl100k_base needs 32 bits
    print(json.dumps({"seconds": seconds, "tokens": tokens}))


if __name__ == "__main__":
    main()

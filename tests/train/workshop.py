"""A small dataset of real text, prepared by the real job, and a recipe small enough for tests."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from pyspark.sql import SparkSession
from quick import QUICK

from data.prepare.job import prepare
from data.prepare.recipe import (
    Domain,
    PrepareRecipe,
    Source,
    SourceFormat,
    SparkChoice,
    TokenizerChoice,
    TokenizerKind,
)

RECIPE = """\
run_name: test
run_root: {root}/runs
seed: 3
max_duration: 12ba
global_train_batch_size: 8
device_train_microbatch_size: 4
max_seq_len: 32
save_interval: 4ba
eval_interval: 6ba
eval_samples: 24
device_eval_batch_size: 8
log_interval: 1ba

dataset:
  path: {root}/dataset
  num_workers: 0

curriculum:
  seed: ${{seed}}
  anchors:
    - {{at: 0tok, weights: {{prose: 0.75, code: 0.25}}}}
    - {{at: 1_536tok, weights: {{prose: 0.25, code: 0.75}}, ramp: linear}}

model:
  d_model: 32
  n_layers: 2
  n_heads: 4
  vocab_size: 512
  max_seq_len: ${{max_seq_len}}
  resid_pdrop: 0.1
  attn_config: {{kv_n_heads: 2, clip_qkv: 8}}
  ffn_config: {{ffn_hidden_size: 32, moe_num_experts: 4, moe_top_k: 2, moe_jitter_eps: 0.01}}

optimizer: {{lr: 3e-3}}
scheduler: {{name: cosine, warmup: 2ba}}
wandb: {{mode: disabled}}
"""


def make_workshop(root: Path, spark: SparkSession | None = None) -> SimpleNamespace:
    """`root` with `root/dataset` (two domains of the standard library's own text) and `recipe`, a file.

    `spark`: a session to prepare it with, instead of one of its own.
    """
    library = Path(pytest.__file__).parent.parent
    write_documents(root / "code", sorted((library / "_pytest").glob("*.py"))[:24])
    write_documents(root / "prose", sorted(library.glob("*.dist-info/METADATA"))[:24])
    prepare(
        PrepareRecipe(
            output=str(root / "dataset"),
            max_seq_len=32,
            heldout_fraction=0.15,
            domains={
                name: Domain([Source(path=str(root / name), format=SourceFormat.text)]) for name in ("code", "prose")
            },
            cleaning=["unicode", {"characters": {"min": 20}}],
            tokenizer=TokenizerChoice(kind=TokenizerKind.train, vocab_size=512),
            shard_size_mb=0.02,
            spark=SparkChoice("local[2]", "1g", QUICK),
        ),
        lambda line: None,
        spark,
    )
    recipe = root / "recipe.yaml"
    recipe.write_text(RECIPE.format(root=root))
    return SimpleNamespace(root=root, recipe=recipe, dataset=root / "dataset")


def write_documents(folder: Path, files: list[Path]) -> None:
    folder.mkdir()
    for number, file in enumerate(files):
        (folder / f"{number:02d}.txt").write_text(file.read_text(encoding="utf-8")[:6000], encoding="utf-8")

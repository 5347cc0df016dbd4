"""A small model and a trained tokenizer as a checkpoint, without a run."""

from pathlib import Path

import torch

from data.prepare import bpe
from model.config import AttentionConfig, ModelConfig
from model.dbrx import DbrxForCausalLM
from model.ffn_config import FFNConfig
from train.checkpoints.contents import Contents
from train.checkpoints.weights import write_weights

SENTENCES = [f"the {a} of {b}s isn't {a}{b}, it's {i:05} naïve {b}\n" for i, (a, b) in enumerate(
    (a, b) for a in ("brick", "layer", "kiln", "mortar") for b in ("wall", "arch", "vault", "course")
)]  # fmt: skip
TOKENIZER = bpe.train(SENTENCES, 300, "test")
CONFIG = ModelConfig(
    d_model=32,
    n_heads=4,
    n_layers=2,
    max_seq_len=24,
    vocab_size=320,
    attn_config=AttentionConfig(kv_n_heads=2, clip_qkv=8.0, rope_theta=500_000.0),
    ffn_config=FFNConfig(ffn_hidden_size=16, moe_num_experts=4, moe_top_k=2),
    initializer_range=0.2,
)


def write_checkpoint(
    folder: Path, config: ModelConfig = CONFIG, seed: int = 0, dtype: torch.dtype = torch.float32
) -> DbrxForCausalLM:
    """Writes a checkpoint of random weights; returns the model."""
    model = DbrxForCausalLM(config, seed).to(dtype).eval()
    tensors = model.state_dict()
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    write_weights(folder, shapes, dict.fromkeys(shapes, dtype), tensors.__getitem__)
    Contents(config, TOKENIZER).write(folder)
    return model

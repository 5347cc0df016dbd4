"""What a checkpoint weighs, before there is one."""

from model.config import ModelConfig
from model.flops import count_parameters


def checkpoint_bytes(model: ModelConfig) -> int:
    """Of a checkpoint's tensors: the weights and AdamW's two averages of each, in fp32. The rest of its files are small
    (`tests/train/test_checkpoints.py` weighs one)."""
    return 3 * 4 * count_parameters(model).total

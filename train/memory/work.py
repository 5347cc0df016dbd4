"""What the memory of a training step on one rank depends on."""

from __future__ import annotations

from dataclasses import dataclass

from model.config import ExpertsImplementation, ModelConfig
from train.layout import Layout
from train.machine import gpu_keys
from train.recipe import ParallelConfig, Recipe

FP32 = 4  # bytes


@dataclass(frozen=True)
class Work:
    """What the memory of a step depends on."""

    model: ModelConfig
    parallel: ParallelConfig
    layout: Layout
    samples: int  # of a microbatch
    length: int  # tokens of a sample
    microbatches: int
    width: int  # bytes of a number in matrix products: 2 with bf16
    gpu: bool

    @classmethod
    def of(cls, recipe: Recipe, layout: Layout) -> Work:
        """The work of a rank. A recipe that a CPU can train is taken to be trained on one."""
        share = recipe.global_train_batch_size // layout.ranks
        samples = recipe.device_train_microbatch_size or share
        width = 2 if recipe.precision == "bf16" else FP32
        gpu = bool(gpu_keys(recipe))
        length, microbatches = recipe.max_seq_len, share // samples
        return cls(recipe.model, recipe.parallel, layout, samples, length, microbatches, width, gpu)

    @property
    def tokens(self) -> int:
        return self.samples * self.length

    @property
    def slots(self) -> int:
        """Token-expert pairs of a microbatch."""
        return self.tokens * self.model.ffn_config.moe_top_k

    @property
    def reduce_width(self) -> int:
        """Bytes of a number of the gradients that are summed over ranks."""
        return self.width if self.parallel.reduce_dtype == "bf16" else FP32

    @property
    def stream(self) -> int:
        """Bytes of the residual stream, or of anything of its shape in the dtype of products."""
        return self.tokens * self.model.d_model * self.width

    @property
    def normed(self) -> int:
        """Bytes of what a norm keeps: its input and output are fp32 under autocast too, and two numbers a token."""
        return self.tokens * (self.model.d_model + 2) * FP32

    def experts_on_gpu(self) -> bool:
        """Whether MegaBlocks computes the experts."""
        chosen = self.model.experts
        return chosen is ExpertsImplementation.megablocks or (
            chosen is ExpertsImplementation.auto and self.gpu and self.model.fits_megablocks
        )

"""What a DBRX model is made of, as plain dataclasses that OmegaConf can read.

Names, meanings and defaults are those of transformers' `DbrxConfig`, `DbrxAttentionConfig` and `DbrxFFNConfig`; what is
ours says so. Each class lists its own problems, as (key relative to it, sentence), and whoever reads a recipe adds the
file and the full key.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import Enum

from model.config_checks import Problem, expect_positive, expect_probability, prefixed
from model.ffn_config import FFNConfig
from model.rope_config import ROPE_KEYS, RopeParameters

# Every parameter belongs to one of these; `model/parts.py` says to which.
PARTS = ("embedding", "attention", "router", "experts", "dense", "norms", "head")


class AttentionImplementation(Enum):
    """Who computes attention. The numbers are the same; only speed, memory and devices differ."""

    sdpa = "sdpa"  # PyTorch's fused kernels, any device
    eager = "eager"  # the reference, written out; memory grows with the square of the sample's length
    flash_attention_2 = "flash_attention_2"  # the flash-attn package, GPU, bf16


class ExpertsImplementation(Enum):
    """Who computes the experts (ours). Parameters, names and numbers are the same; only speed and devices differ."""

    auto = "auto"  # megablocks where there is a GPU, torch elsewhere
    torch = "torch"  # any device
    megablocks = "megablocks"  # GPU


class ExpertsGemm(Enum):
    """The GEMM of the `megablocks` experts (ours)."""

    auto = "auto"  # grouped_mm; on a GPU older than Hopper grouped_gemm, where it is installed
    grouped_mm = "grouped_mm"  # PyTorch's
    grouped_gemm = "grouped_gemm"  # CUTLASS, from the package of that name
    stk = "stk"  # block-sparse products; MegaBlocks runs them with Triton below 3.2


@dataclass
class AttentionConfig:
    """Grouped-query attention with rotary positions."""

    attn_pdrop: float = 0.0  # dropout on the attention weights
    clip_qkv: float | None = None  # queries, keys and values are clamped to [-clip_qkv, clip_qkv]
    kv_n_heads: int = 1  # key and value heads; each serves n_heads / kv_n_heads query heads
    rope_theta: float = 10_000.0  # base of the rotary wavelengths

    def problems(self) -> Iterator[Problem]:
        """Yields (key, sentence) for each value that can't work on its own."""
        yield from expect_positive("kv_n_heads", self.kv_n_heads)
        yield from expect_positive("rope_theta", self.rope_theta)
        yield from expect_probability("attn_pdrop", self.attn_pdrop)
        if self.clip_qkv is not None:
            yield from expect_positive("clip_qkv", self.clip_qkv)


@dataclass
class ModelConfig:
    """A DBRX decoder. `max_seq_len` and `vocab_size` follow from the recipe and its dataset; train/ fills them in.

    Of `DbrxConfig` are left out: `use_cache` and `output_router_logits`, which say what a forward pass hands back, and
    the special tokens' ids, which are the tokenizer's.
    """

    d_model: int = 2048  # width of the residual stream
    n_heads: int = 16  # query heads
    n_layers: int = 24  # blocks
    max_seq_len: int = 2048  # tokens
    vocab_size: int = 32_000  # token ids are 0 .. vocab_size - 1
    resid_pdrop: float = 0.0  # dropout on what attention and experts add to the residual stream
    emb_pdrop: float = 0.0  # dropout on the embeddings
    attn_config: AttentionConfig = field(default_factory=AttentionConfig)
    ffn_config: FFNConfig = field(default_factory=FFNConfig)
    rope_parameters: RopeParameters = field(default_factory=RopeParameters)
    initializer_range: float = 0.02  # standard deviation of the initial weights
    tie_word_embeddings: bool = False  # one matrix for the embedding and the head
    attn_implementation: AttentionImplementation = AttentionImplementation.sdpa
    experts: ExpertsImplementation = ExpertsImplementation.auto  # ours
    experts_gemm: ExpertsGemm = ExpertsGemm.auto  # ours
    attend_across_documents: bool = True  # ours; false: attention, positions and loss stop at a document's end

    @property
    def head_dim(self) -> int:
        """Channels of one attention head."""
        return self.d_model // self.n_heads

    @property
    def rope(self) -> RopeParameters:
        """`rope_parameters` with what it takes from elsewhere filled in."""
        rope = replace(self.rope_parameters, rope_theta=self.rope_parameters.rope_theta or self.attn_config.rope_theta)
        if "original_max_position_embeddings" in ROPE_KEYS[rope.rope_type]:
            rope.original_max_position_embeddings = rope.original_max_position_embeddings or self.max_seq_len
        return rope

    @property
    def first_moe_layer(self) -> int:
        """Number, from 0, of the first block that has experts."""
        return self.ffn_config.first_k_dense_replace

    @property
    def n_moe_layers(self) -> int:
        """Blocks that have experts: all but the first `first_k_dense_replace`."""
        return self.n_layers - self.ffn_config.first_k_dense_replace

    def problems(self) -> Iterator[Problem]:
        """Yields (key path, sentence) for each value or combination that can't work, those of the parts included."""
        for name in ("d_model", "n_heads", "n_layers", "max_seq_len", "vocab_size", "initializer_range"):
            yield from expect_positive(name, getattr(self, name))
        yield from expect_probability("resid_pdrop", self.resid_pdrop)
        yield from expect_probability("emb_pdrop", self.emb_pdrop)
        yield from prefixed("attn_config", self.attn_config.problems())
        yield from prefixed("ffn_config", self.ffn_config.problems())
        yield from prefixed("rope_parameters", self.rope_parameters.problems())
        yield from self._head_problems()
        if self.ffn_config.first_k_dense_replace >= self.n_layers > 0:
            expected = f"expected less than n_layers ({self.n_layers}), so that a block has experts"
            yield "ffn_config.first_k_dense_replace", f"{expected}, found {self.ffn_config.first_k_dense_replace}"
        if self.experts is ExpertsImplementation.megablocks:
            yield from self._megablocks_problems()

    @property
    def fits_megablocks(self) -> bool:
        """Whether MegaBlocks can compute these experts."""
        return not any(self._megablocks_problems())

    def _megablocks_problems(self) -> Iterator[Problem]:
        ffn, sparse = self.ffn_config, self.experts_gemm is ExpertsGemm.stk
        multiple, who = (128, "stk") if sparse else (8, "a grouped GEMM")
        for key, size in ("d_model", self.d_model), ("ffn_config.ffn_hidden_size", ffn.ffn_hidden_size):
            if size % multiple:
                yield key, f"expected a multiple of {multiple}, which {who} needs in megablocks experts, found {size}"
        if ffn.moe_num_experts * ffn.ffn_hidden_size < 128:
            expected = "expected moe_num_experts * ffn_hidden_size to be at least 128, which MegaBlocks needs"
            yield "ffn_config.ffn_hidden_size", f"{expected}, found {ffn.moe_num_experts * ffn.ffn_hidden_size}"

    def _head_problems(self) -> Iterator[Problem]:
        if self.d_model <= 0 or self.n_heads <= 0:
            return
        if self.d_model % self.n_heads:
            yield "n_heads", f"expected a divisor of d_model ({self.d_model}), found {self.n_heads}"
        elif self.head_dim % 2:
            expected = "expected d_model / n_heads to be even, because rotary positions turn pairs of channels"
            yield "n_heads", f"{expected}, found {self.d_model} / {self.n_heads} = {self.head_dim}"
        elif self.attn_implementation is AttentionImplementation.flash_attention_2 and self.head_dim > 256:
            expected = "expected d_model / n_heads to be at most 256 with attn_implementation flash_attention_2"
            yield "n_heads", f"{expected}, found {self.d_model} / {self.n_heads} = {self.head_dim}"
        kv_n_heads = self.attn_config.kv_n_heads
        if kv_n_heads > 0 and self.n_heads % kv_n_heads:
            yield "attn_config.kv_n_heads", f"expected a divisor of n_heads ({self.n_heads}), found {kv_n_heads}"


def check_config(config: ModelConfig) -> None:
    """Raises ValueError, one sentence for all problems, if the model can't be built."""
    problems = [f"{key}: {sentence}" for key, sentence in config.problems()]
    if problems:
        raise ValueError(f"model config: {'; '.join(problems)}")

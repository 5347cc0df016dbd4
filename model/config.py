"""What a DBRX model is made of, as plain dataclasses that OmegaConf can read.

Names, meanings and defaults are those of transformers' `DbrxConfig`, `DbrxAttentionConfig` and `DbrxFFNConfig`; what is
ours says so. Each class lists its own problems, as (key relative to it, sentence), and whoever reads a recipe adds the
file and the full key.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from enum import Enum
from typing import Any

Problem = tuple[str, str]


class Activation(Enum):
    """The function on the gate of an expert's gated linear unit."""

    silu = "silu"


class AttentionImplementation(Enum):
    """Who computes attention. The numbers are the same; only speed, memory and devices differ."""

    sdpa = "sdpa"  # PyTorch's fused kernels, any device
    eager = "eager"  # the reference, written out; memory grows with the square of the sample's length
    flash_attention_2 = "flash_attention_2"  # the flash-attn package, GPU, bf16


class RopeType(Enum):
    """How rotary wavelengths are stretched for a context longer than the weights were trained on.

    Of transformers' types are missing `dynamic`, which stretches beyond `max_seq_len` only, where samples are refused
    here; `longrope`, whose factors are searched for a trained model channel by channel; and `proportional`, which
    leaves channels unturned and is for no longer context.
    """

    default = "default"  # not at all
    linear = "linear"  # all by the same factor (arXiv 2306.15595)
    yarn = "yarn"  # long ones more than short ones, and attention is sharpened (arXiv 2309.00071)
    llama3 = "llama3"  # long ones by the factor, short ones not at all (arXiv 2407.21783)


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


class MissingPackageError(Exception):
    """A config asks by name for a package that is not installed: one sentence that begins with the key."""


class LossScope(Enum):
    """Whose slots the load-balancing loss takes the experts' shares from (ours)."""

    microbatch = "microbatch"  # the rank's microbatch in hand, as in transformers and MegaBlocks
    global_batch = "global_batch"  # all ranks and microbatches of the optimizer step before


@dataclass
class AttentionConfig:
    """Grouped-query attention with rotary positions."""

    attn_pdrop: float = 0.0  # dropout on the attention weights
    clip_qkv: float | None = None  # queries, keys and values are clamped to [-clip_qkv, clip_qkv]
    kv_n_heads: int = 1  # key and value heads; each serves n_heads / kv_n_heads query heads
    rope_theta: float = 10_000.0  # base of the rotary wavelengths

    def problems(self) -> Iterator[Problem]:
        """Yields (key, sentence) for each value that can't work on its own."""
        yield from _expect_positive("kv_n_heads", self.kv_n_heads)
        yield from _expect_positive("rope_theta", self.rope_theta)
        yield from _expect_probability("attn_pdrop", self.attn_pdrop)
        if self.clip_qkv is not None:
            yield from _expect_positive("clip_qkv", self.clip_qkv)


_ROPE_KEYS = {  # besides rope_theta
    RopeType.default: (),
    RopeType.linear: ("factor",),
    RopeType.yarn: (
        *("factor", "original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow"),
        *("mscale", "mscale_all_dim", "truncate"),
    ),
    RopeType.llama3: ("factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"),
}


@dataclass
class RopeParameters:
    """Rotary positions for longer context: transformers' `rope_parameters`, which was `rope_scaling` before 5.0."""

    rope_type: RopeType = RopeType.default
    rope_theta: float | None = None  # null: attn_config.rope_theta
    factor: float | None = None  # by how much the context grows
    original_max_position_embeddings: int | None = None  # context of the weights, in tokens; null: max_seq_len
    attention_factor: float | None = None  # yarn: multiplies queries and keys; null: from factor and the two mscales
    beta_fast: float | None = None  # yarn: channels that turn more often than this in the context stay; null: 32
    beta_slow: float | None = None  # yarn: those that turn less often are stretched by the whole factor; null: 1
    mscale: float | None = None  # yarn
    mscale_all_dim: float | None = None  # yarn
    truncate: bool | None = None  # yarn: whole channels bound the ramp between the two; null: true
    low_freq_factor: float | None = None  # llama3: wavelengths above context / this are stretched
    high_freq_factor: float | None = None  # llama3: those below context / this stay

    def problems(self) -> Iterator[Problem]:
        """Yields (key, sentence) for each value that can't work on its own or with its neighbours here."""
        kind = self.rope_type.value
        for name, value in self.given().items():
            if name not in ("rope_type", "rope_theta", *_ROPE_KEYS[self.rope_type]):
                yield name, f"expected no such key with rope_type {kind}, which does not use it, found {value}"
            elif not isinstance(value, bool | RopeType):
                yield from _expect_positive(name, value)
        if self.rope_type is not RopeType.default and (self.factor is None or 0 < self.factor < 1):
            yield "factor", f"expected a number of at least 1 with rope_type {kind}, found {self.factor}"
        if self.rope_type is RopeType.llama3:
            yield from self._llama3_problems()
        fast, slow = self.beta_fast or 32.0, self.beta_slow or 1.0
        if self.rope_type is RopeType.yarn and not fast > slow:
            yield "beta_fast", f"expected a number above beta_slow ({slow:g}), found {fast:g}"

    def _llama3_problems(self) -> Iterator[Problem]:
        low, high = self.low_freq_factor, self.high_freq_factor
        for name, value in (("low_freq_factor", low), ("high_freq_factor", high)):
            if value is None:
                yield name, "expected a number with rope_type llama3, found nothing"
        if low is not None and high is not None and not high > low:
            yield "high_freq_factor", f"expected a number above low_freq_factor ({low:g}), found {high:g}"

    def given(self) -> dict[str, Any]:
        """What is not null, by name."""
        return {field.name: value for field in fields(self) if (value := getattr(self, field.name)) is not None}


@dataclass
class FFNConfig:
    """The mixture of experts that stands where a dense transformer has its feed-forward layer, and that layer in the
    first blocks if they are to be dense."""

    ffn_hidden_size: int = 3584  # of one expert
    activation: Activation = Activation.silu
    moe_num_experts: int = 4
    moe_top_k: int = 1  # experts that each token visits
    moe_jitter_eps: float | None = None  # in training the router's input is multiplied by uniform(1 - eps, 1 + eps)
    moe_loss_weight: float = 0.01  # of the load-balancing loss
    moe_loss_per_layer: bool = False  # ours: balance each layer by itself (MegaBlocks), not all layers taken together
    moe_loss_scope: LossScope = LossScope.microbatch  # ours
    moe_zloss_weight: float = 0.0  # ours, MegaBlocks' name: of the router z-loss
    moe_bias_update_rate: float | None = None  # ours: step of each expert's bias in loss-free balancing; null: no bias
    moe_normalize_expert_weights: float | None = 1.0  # p of the norm that the chosen weights are divided by
    uniform_expert_assignment: bool = False  # for benchmarks: experts in turn, whatever the router says
    first_k_dense_replace: int = 0  # ours, DeepSeek's name: so many first blocks have one dense unit, no experts
    dense_ffn_hidden_size: int | None = None  # ours: of a dense unit; null: that of the experts that a token visits

    @property
    def dense_width(self) -> int:
        """Hidden size of the dense gated linear unit of the first blocks."""
        return self.dense_ffn_hidden_size or self.moe_top_k * self.ffn_hidden_size

    def problems(self) -> Iterator[Problem]:
        """Yields (key, sentence) for each value that can't work on its own or with its neighbours here."""
        yield from _expect_positive("ffn_hidden_size", self.ffn_hidden_size)
        yield from _expect_positive("moe_num_experts", self.moe_num_experts)
        yield from _expect_positive("moe_top_k", self.moe_top_k)
        if self.moe_top_k > self.moe_num_experts > 0:
            expected = f"expected at most moe_num_experts ({self.moe_num_experts})"
            yield "moe_top_k", f"{expected}, found {self.moe_top_k}"
        if self.moe_jitter_eps is not None and not 0 <= self.moe_jitter_eps < 1:
            yield "moe_jitter_eps", f"expected a number from 0 up to, not including, 1, found {self.moe_jitter_eps}"
        if not 0 <= self.moe_loss_weight < float("inf"):
            yield "moe_loss_weight", f"expected a number of at least 0, found {self.moe_loss_weight}"
        if not 0 <= self.moe_zloss_weight < float("inf"):
            yield "moe_zloss_weight", f"expected a number of at least 0, found {self.moe_zloss_weight}"
        if self.moe_normalize_expert_weights is not None:
            yield from _expect_positive("moe_normalize_expert_weights", self.moe_normalize_expert_weights)
        yield from self._bias_problems()
        yield from self._dense_problems()

    def _bias_problems(self) -> Iterator[Problem]:
        if self.moe_bias_update_rate is None:
            return
        if not 0 < self.moe_bias_update_rate < float("inf"):
            expected = "expected a number above 0, or null for no bias"
            yield "moe_bias_update_rate", f"{expected}, found {self.moe_bias_update_rate}"
        elif self.uniform_expert_assignment:
            expected = "expected null where uniform_expert_assignment is true, because no bias can move the tokens"
            yield "moe_bias_update_rate", f"{expected}, found {self.moe_bias_update_rate}"

    def _dense_problems(self) -> Iterator[Problem]:
        if self.first_k_dense_replace < 0:
            yield "first_k_dense_replace", f"expected 0 or more, found {self.first_k_dense_replace}"
        if self.dense_ffn_hidden_size is None:
            return
        yield from _expect_positive("dense_ffn_hidden_size", self.dense_ffn_hidden_size)
        if self.first_k_dense_replace == 0:
            expected = "expected null where first_k_dense_replace is 0, because no block is dense"
            yield "dense_ffn_hidden_size", f"{expected}, found {self.dense_ffn_hidden_size}"


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
        if "original_max_position_embeddings" in _ROPE_KEYS[rope.rope_type]:
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
            yield from _expect_positive(name, getattr(self, name))
        yield from _expect_probability("resid_pdrop", self.resid_pdrop)
        yield from _expect_probability("emb_pdrop", self.emb_pdrop)
        yield from _prefixed("attn_config", self.attn_config.problems())
        yield from _prefixed("ffn_config", self.ffn_config.problems())
        yield from _prefixed("rope_parameters", self.rope_parameters.problems())
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


def _expect_positive(key: str, value: float) -> Iterator[Problem]:
    if not 0 < value < float("inf"):
        yield key, f"expected a number above 0, found {value}"


def _expect_probability(key: str, value: float) -> Iterator[Problem]:
    if not 0 <= value < 1:
        yield key, f"expected a probability from 0 up to, not including, 1, found {value}"


def _prefixed(parent: str, problems: Iterator[Problem]) -> Iterator[Problem]:
    for key, sentence in problems:
        yield f"{parent}.{key}", sentence

"""What a DBRX model is made of, as plain dataclasses that OmegaConf can read.

Names, meanings and defaults are those of transformers' `DbrxConfig`, `DbrxAttentionConfig` and `DbrxFFNConfig`; what is
ours says so. Each class lists its own problems, as (key relative to it, sentence), and whoever reads a recipe adds the
file and the full key.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

Problem = tuple[str, str]


class Activation(Enum):
    """The function on the gate of an expert's gated linear unit."""

    silu = "silu"


class ExpertsImplementation(Enum):
    """Who computes the experts (ours). Parameters, names and numbers are the same; only speed and devices differ."""

    auto = "auto"  # megablocks where there is a GPU, torch elsewhere
    torch = "torch"  # any device
    megablocks = "megablocks"  # GPU


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


@dataclass
class FFNConfig:
    """The mixture of experts that stands where a dense transformer has its feed-forward layer."""

    ffn_hidden_size: int = 3584  # of one expert
    activation: Activation = Activation.silu
    moe_num_experts: int = 4
    moe_top_k: int = 1  # experts that each token visits
    moe_jitter_eps: float | None = None  # in training the router's input is multiplied by uniform(1 - eps, 1 + eps)
    moe_loss_weight: float = 0.01  # of the load-balancing loss
    moe_loss_per_layer: bool = False  # ours: balance each layer by itself (MegaBlocks), not all layers taken together
    moe_normalize_expert_weights: float | None = 1.0  # p of the norm that the chosen weights are divided by
    uniform_expert_assignment: bool = False  # for benchmarks: experts in turn, whatever the router says

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
        if self.moe_normalize_expert_weights is not None:
            yield from _expect_positive("moe_normalize_expert_weights", self.moe_normalize_expert_weights)


@dataclass
class ModelConfig:
    """A DBRX decoder. `max_seq_len` and `vocab_size` follow from the recipe and its dataset; train/ fills them in."""

    d_model: int = 2048  # width of the residual stream
    n_heads: int = 16  # query heads
    n_layers: int = 24  # blocks
    max_seq_len: int = 2048  # tokens
    vocab_size: int = 32_000  # token ids are 0 .. vocab_size - 1
    resid_pdrop: float = 0.0  # dropout on what attention and experts add to the residual stream
    emb_pdrop: float = 0.0  # dropout on the embeddings
    attn_config: AttentionConfig = field(default_factory=AttentionConfig)
    ffn_config: FFNConfig = field(default_factory=FFNConfig)
    initializer_range: float = 0.02  # standard deviation of the initial weights
    tie_word_embeddings: bool = False  # one matrix for the embedding and the head
    experts: ExpertsImplementation = ExpertsImplementation.auto  # ours

    @property
    def head_dim(self) -> int:
        """Channels of one attention head."""
        return self.d_model // self.n_heads

    def problems(self) -> Iterator[Problem]:
        """Yields (key path, sentence) for each value or combination that can't work, those of the parts included."""
        for name in ("d_model", "n_heads", "n_layers", "max_seq_len", "vocab_size", "initializer_range"):
            yield from _expect_positive(name, getattr(self, name))
        yield from _expect_probability("resid_pdrop", self.resid_pdrop)
        yield from _expect_probability("emb_pdrop", self.emb_pdrop)
        yield from _prefixed("attn_config", self.attn_config.problems())
        yield from _prefixed("ffn_config", self.ffn_config.problems())
        yield from self._head_problems()
        if self.experts is ExpertsImplementation.megablocks and not self.fits_megablocks:
            expected = "expected moe_num_experts * ffn_hidden_size to be at least 128, which MegaBlocks needs"
            found = self.ffn_config.moe_num_experts * self.ffn_config.ffn_hidden_size
            yield "ffn_config.ffn_hidden_size", f"{expected}, found {found}"

    @property
    def fits_megablocks(self) -> bool:
        """Whether the experts fill one of MegaBlocks' blocks; its dropless layer can't be built below that."""
        return self.ffn_config.moe_num_experts * self.ffn_config.ffn_hidden_size >= 128

    def _head_problems(self) -> Iterator[Problem]:
        if self.d_model <= 0 or self.n_heads <= 0:
            return
        if self.d_model % self.n_heads:
            yield "n_heads", f"expected a divisor of d_model ({self.d_model}), found {self.n_heads}"
        elif self.head_dim % 2:
            expected = "expected d_model / n_heads to be even, because rotary positions turn pairs of channels"
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

"""How large a model is, and what a token costs. Counted from the config alone, in microseconds at any size."""

from dataclasses import dataclass

from model.config import ModelConfig


@dataclass(frozen=True)
class ParameterCount:
    """Numbers of parameters. `active` are those that take part in one token: all but the experts it does not visit."""

    embedding: int  # the head included; once if tied
    attention: int
    router: int
    experts: int
    dense: int  # the feed-forward units of the first blocks, if they have no experts
    norms: int
    active_experts: int

    @property
    def total(self) -> int:
        """All that is trained and stored."""
        return self.embedding + self.attention + self.router + self.experts + self.dense + self.norms

    @property
    def active(self) -> int:
        """Those that one token meets."""
        return self.total - self.experts + self.active_experts


def count_parameters(config: ModelConfig) -> ParameterCount:
    """Counts the parameters that `DbrxForCausalLM(config)` would have."""
    ffn, D, L = config.ffn_config, config.d_model, config.n_layers
    moe_L, expert = config.n_moe_layers, 3 * D * ffn.ffn_hidden_size
    kv_width = 2 * config.attn_config.kv_n_heads * config.head_dim
    return ParameterCount(
        embedding=config.vocab_size * D * (1 if config.tie_word_embeddings else 2),
        attention=L * D * (2 * D + kv_width),
        router=moe_L * D * ffn.moe_num_experts,
        experts=moe_L * ffn.moe_num_experts * expert,
        dense=ffn.first_k_dense_replace * 3 * D * ffn.dense_width,
        norms=(2 * L + 1) * D,
        active_experts=moe_L * ffn.moe_top_k * expert,
    )


def training_flops_per_token(config: ModelConfig, sequence_length: int) -> float:
    """Floating-point operations of forward and backward for one token, a multiply and an add counted as two.

    6 x (active parameters in matrix products: those of attention, router, visited experts, dense units and head)
    + 6 x n_layers x 2 x d_model x (sequence_length + 1) / 2 for the products of causal attention,
    where a token meets (sequence_length + 1) / 2 keys and values on average. This is the count that model FLOPs
    utilisation is defined on (PaLM, arXiv 2204.02311, appendix B), with the causal half left out: nothing recomputed
    counts, nor do norms, softmaxes and the embedding's look-up.
    """
    count = count_parameters(config)
    head = config.vocab_size * config.d_model
    products = count.attention + count.router + count.active_experts + count.dense + head
    context = (sequence_length + 1) / 2
    return 6 * products + 6 * config.n_layers * 2 * config.d_model * context

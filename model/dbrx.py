"""The DBRX decoder. Its state dict has the keys and shapes of transformers' `DbrxForCausalLM`."""

from typing import NamedTuple

from torch import Tensor, nn

from model.block import Block
from model.config import ModelConfig, check_config
from model.documents import Documents
from model.head import LanguageModelHead, TokenLoss
from model.initialise import initialise
from model.router import Router, Routing


class DbrxOutput(NamedTuple):
    """What a forward pass gives. A tuple, because FSDP2 looks for tensors in tuples, lists and dicts only."""

    logits_BTV: Tensor | None  # unless targets were given
    token_loss: TokenLoss | None  # if targets were given
    routings: tuple[Routing, ...]  # one for each layer that has experts


class DbrxDecoder(nn.Module):
    """Embedding, blocks and the last norm."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.emb_pdrop = config.emb_pdrop
        self.wte = nn.Embedding(config.vocab_size, config.d_model)
        self.blocks = nn.ModuleList([Block(config, layer) for layer in range(config.n_layers)])
        self.norm_f = nn.LayerNorm(config.d_model, bias=False)

    def forward(self, tokens_BT: Tensor, documents: Documents | None = None) -> tuple[Tensor, tuple[Routing, ...]]:
        """Returns the last hidden state [B, T, D] and the routing of each layer that has experts."""
        x_BTD = nn.functional.dropout(self.wte(tokens_BT), self.emb_pdrop, self.training)
        routings = []
        for block in self.blocks:
            x_BTD, routing = block(x_BTD, documents)
            if routing is not None:
                routings.append(routing)
        return self.norm_f(x_BTD), tuple(routings)


class DbrxForCausalLM(nn.Module):
    """A DBRX language model with weights drawn from `seed`.

    Raises ValueError if the config can't be built. Under `torch.device("meta")` nothing is drawn and no memory taken;
    `model.initialise` says how to go on.
    """

    def __init__(self, config: ModelConfig, seed: int = 0) -> None:
        super().__init__()
        check_config(config)
        self.config = config
        self.transformer = DbrxDecoder(config)
        self.lm_head = LanguageModelHead(config.d_model, config.vocab_size)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.transformer.wte.weight
        if not self.lm_head.weight.is_meta:
            initialise(self, config, seed)

    def forward(
        self, tokens_BT: Tensor, targets_BT: Tensor | None = None, documents: Documents | None = None
    ) -> DbrxOutput:
        """Logits, or with targets (see `LanguageModelHead`) the cross-entropy, and each layer's routing.

        Where documents are given, attention and positions stop at their ends. tokens_BT is int64, ids below vocab_size;
        T is at most max_seq_len. Raises ValueError if it is longer.
        """
        if tokens_BT.shape[1] > self.config.max_seq_len:
            limit = self.config.max_seq_len
            raise ValueError(f"expected at most max_seq_len ({limit}) tokens in a sequence, found {tokens_BT.shape[1]}")
        x_BTD, routings = self.transformer(tokens_BT, documents)
        out = self.lm_head(x_BTD, targets_BT)
        if targets_BT is None:
            return DbrxOutput(out, None, routings)
        return DbrxOutput(None, out, routings)

    @property
    def routers(self) -> list[Router]:
        """Those of the layers that have experts, in order."""
        return [module for module in self.modules() if isinstance(module, Router)]

    def fsdp_wrap_fn(self, module: nn.Module) -> bool:
        """Asked by Composer for each module: shard by block. Embedding, last norm and head go with the whole model."""
        return isinstance(module, Block)

    def activation_checkpointing_fn(self, module: nn.Module) -> bool:
        """Asked by Composer where activation checkpointing is on: recompute by block."""
        return isinstance(module, Block)

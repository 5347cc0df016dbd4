"""Where the documents of packed samples lie, for attention that stops at their ends."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

_BLOCK = 128  # tokens of a side of FlexAttention's blocks


@dataclass(frozen=True, eq=False)
class Documents:
    """Which tokens of a microbatch are of one document.

    What one kernel or another needs of it is worked out when first asked for, and then serves every layer. Not a tuple:
    FSDP2 leaves it as it is on the way into a block.
    """

    starts_BT: Tensor  # bool, where a document begins; always at position 0 of a sample

    @cached_property
    def ids(self) -> Tensor:
        """int64 [B, T]: 1, 2, 3, ... within each sample."""
        return self.starts_BT.cumsum(dim=1)

    @cached_property
    def positions(self) -> Tensor:
        """int64 [B, T]: 0, 1, 2, ... within each document."""
        places_T = torch.arange(self.starts_BT.shape[1], device=self.starts_BT.device)
        return places_T - torch.where(self.starts_BT, places_T, 0).cummax(dim=1).values

    @cached_property
    def mask(self) -> Tensor:
        """bool [B, 1, T, T]: whether the last position may be seen from the one before. For the reference only."""
        return (self.ids[:, :, None] == self.ids[:, None, :]).tril()[:, None]

    @cached_property
    def ends(self) -> Tensor:
        """int32 [documents + 1]: 0, and where each document ends in the microbatch as one row of B * T tokens. Waits
        for the GPU."""
        starts = self.starts_BT.flatten().nonzero().squeeze(1).int()
        return torch.cat([starts, starts.new_full((1,), self.starts_BT.numel())])

    @cached_property
    def lengths(self) -> list[int]:
        """Tokens of each document, in order. Waits for the GPU."""
        return self.ends.diff().tolist()

    @cached_property
    def block_mask(self) -> BlockMask:
        """FlexAttention's: which blocks of 128 x 128 positions it computes, and which of those with a mask.

        Ids never fall within a sample, so the first and the last of each block say all: two blocks share a document if
        the later one begins no later than the earlier one ends, and consist of one if all four ids are the same.
        Memory grows with the square of T / 128, and nothing waits for the GPU.
        """
        B, T = self.starts_BT.shape
        ids_BT = self.ids
        blocks = -(-T // _BLOCK)
        filled = torch.cat([ids_BT, ids_BT[:, -1:].expand(B, blocks * _BLOCK - T)], dim=1).view(B, blocks, _BLOCK)
        first, last = filled[:, :, 0], filled[:, :, -1]
        shared = (last[:, None, :] >= first[:, :, None]).tril()
        whole = (first[:, None, :] == last[:, :, None]).tril(-1)
        if T % _BLOCK:
            whole[:, -1] = False  # the last row of blocks is not filled

        def visible(b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return (query >= key) & (ids_BT[b, query] == ids_BT[b, key])

        return BlockMask.from_kv_blocks(
            *_listed(shared & ~whole), *_listed(whole), BLOCK_SIZE=_BLOCK, mask_mod=visible, seq_lengths=(T, T)
        )


def find_documents(tokens_BT: Tensor, end_of_text: int) -> Documents:
    """A document ends with its end_of_text and the token after it begins the next.

    Padding, which is end_of_text after end_of_text, counts as one document, of which nothing is learned.
    """
    end_BT = tokens_BT == end_of_text
    padding_BT = end_BT.clone()
    padding_BT[:, 1:] &= end_BT[:, :-1]
    padding_BT[:, 0] = False
    starts_BT = torch.ones_like(end_BT)
    starts_BT[:, 1:] = torch.where(padding_BT[:, 1:], ~padding_BT[:, :-1], end_BT[:, :-1])
    return Documents(starts_BT)


def _listed(chosen: Tensor) -> tuple[Tensor, Tensor]:
    """int32 [B, 1, blocks] and [B, 1, blocks, blocks]: how many of each row are chosen, and which, those first."""
    order = chosen.to(torch.int8).argsort(dim=-1, descending=True, stable=True)
    return chosen.sum(dim=-1).int()[:, None], order.int()[:, None]

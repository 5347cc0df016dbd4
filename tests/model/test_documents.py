"""Where documents begin and end, and what each kernel is told of it."""

import torch
from torch.nn.attention.flex_attention import create_block_mask

from model.documents import Documents, find_documents

END = 0


def test_starts():
    tokens = torch.tensor(
        [
            [7, END, 8, 9, END, END, END, END],  # padded
            [END, END, 5, END, END, 6, 7, 8],  # the end of a document before; padding in the middle
            [END, 5, 6, END, 7, END, 8, END],
            [1, 2, 3, 4, 5, 6, 7, 8],
        ]
    )
    documents = find_documents(tokens, END)
    assert documents.ids.tolist() == [
        [1, 1, 2, 2, 2, 3, 3, 3],
        [1, 2, 3, 3, 4, 5, 5, 5],
        [1, 2, 2, 2, 3, 3, 4, 4],
        [1] * 8,
    ]
    assert documents.positions.tolist() == [
        [0, 1, 0, 1, 2, 0, 1, 2],
        [0, 0, 0, 1, 0, 0, 1, 2],
        [0, 0, 1, 2, 0, 1, 0, 1],
        list(range(8)),
    ]
    assert documents.lengths == [2, 3, 3, 1, 1, 2, 1, 3, 1, 3, 2, 2, 8]
    assert documents.ends.tolist() == [0, 2, 5, 8, 9, 10, 12, 13, 16, 17, 20, 22, 24, 32]
    assert documents.ends.dtype is torch.int32


def _random(samples: int, length: int, mean: int) -> Documents:
    starts = torch.rand(samples, length, generator=torch.Generator().manual_seed(length)) < 1 / mean
    starts[:, 0] = True
    return Documents(starts)


def test_mask():
    documents = _random(3, 50, 7)
    for b in range(3):
        for query in range(50):
            visible = documents.mask[b, 0, query].nonzero().flatten()
            assert visible.tolist() == list(range(query - documents.positions[b, query], query + 1))


def test_block_mask_is_that_of_the_whole_mask():
    """FlexAttention's own way to it writes out T x T."""
    for length, mean in [(128, 30), (700, 60), (1024, 400), (1100, 5000), (300, 1)]:
        documents = _random(2, length, mean)
        ids = documents.ids
        expected = create_block_mask(
            lambda b, h, query, key, ids=ids: (query >= key) & (ids[b, query] == ids[b, key]),
            *(2, None, length, length),
            device="cpu",
        )
        mine = documents.block_mask
        assert mine.shape == expected.shape and torch.equal(mine.to_dense(), expected.to_dense())
        assert torch.equal(mine.full_kv_num_blocks, expected.full_kv_num_blocks)
        for name in ("kv", "q", "full_kv", "full_q"):
            counts, places = (getattr(mine, f"{name}_{part}") for part in ("num_blocks", "indices"))
            for row, count in enumerate(counts.flatten().tolist()):
                theirs = getattr(expected, f"{name}_indices").flatten(0, 2)[row]
                assert torch.equal(places.flatten(0, 2)[row, :count].sort().values, theirs[:count].sort().values)


def test_what_is_worked_out_serves_every_layer():
    documents = _random(1, 20, 5)
    assert documents.block_mask is documents.block_mask and documents.lengths is documents.lengths

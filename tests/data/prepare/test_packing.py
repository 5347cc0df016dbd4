"""Packing is concatenate-and-split: no token lost, moved or made, whoever cuts which document in whatever order."""

import random

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from data.prepare import packing
from data.prepare.shards import plan

END = 9


@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=30),
    st.integers(2, 9),
    st.integers(1, 5),
    st.randoms(use_true_random=False),
)
def test_pieces_assemble_to_the_stream(lengths, length, samples_per_shard, shuffler: random.Random):
    documents = [np.array([*(number % 8 for _ in range(size)), END], np.uint16) for number, size in enumerate(lengths)]
    stream = np.concatenate(documents)
    offsets = np.cumsum([0, *map(len, documents)])[:-1]
    shard_tokens = length * samples_per_shard
    pieces = [
        (shard, int(offset) + start, document[start:stop])
        for document, offset in zip(documents, offsets, strict=True)
        for shard, start, stop in packing.cut(int(offset), len(document), shard_tokens)
    ]
    shuffler.shuffle(pieces)
    layout = plan({("a", "train"): len(stream)}, length, "uint16", END, samples_per_shard * (length * 2 + 4) / 2**20)
    assert layout.samples_per_shard == samples_per_shard
    samples, target_total = [], 0
    for shard in range(layout.shards):
        own = sorted((offset, tokens) for number, offset, tokens in pieces if number == shard)
        rows, padding = packing.assemble(own, shard * shard_tokens, length, END)
        last = shard == layout.shards - 1
        assert rows.dtype == np.uint16 and (last or (padding == 0 and len(rows) == samples_per_shard))
        samples.append(rows)
        target_total += len(packing.targets(rows, padding))
    packed = np.concatenate(samples).ravel()
    assert (packed[: len(stream)] == stream).all()
    assert len(packed) - len(stream) == padding < length and (packed[len(stream) :] == END).all()
    assert target_total == len(stream) - len(packed) // length
    assert (packed[len(stream) :] == END).all() and (packed[len(stream) - 1] == END)


def test_a_document_is_cut_at_every_shard_boundary_it_crosses():
    assert list(packing.cut(7, 25, 10)) == [(0, 0, 3), (1, 3, 13), (2, 13, 23), (3, 23, 25)]
    assert list(packing.cut(10, 10, 10)) == [(1, 0, 10)]


def test_targets_leave_out_first_tokens_and_padding_only():
    samples = np.array([[1, 2, 3], [4, END, END]])
    assert packing.targets(samples, padding=1).tolist() == [2, 3, END]
    assert packing.targets(samples, padding=0).tolist() == [2, 3, END, END]


def test_shards_of_all_splits_are_numbered_through():
    counts = {("a", "train"): 100, ("a", "heldout"): 1, ("b", "train"): 41}
    layout = plan(counts, 10, "uint32", END, 2 * 44 / 2**20)
    assert (layout.samples_per_shard, layout.shards) == (2, 5 + 1 + 3)
    places = [layout.split_of(shard) for shard in range(layout.shards)]
    assert places == [("a", "train", i) for i in range(5)] + [("a", "heldout", 0)] + [
        ("b", "train", i) for i in range(3)
    ]
    assert plan(counts, 10, "uint32", END, 1e-9).samples_per_shard == 1

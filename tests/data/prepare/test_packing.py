"""Packing is concatenate-and-split: no token lost, moved or made, whoever cuts which document in whatever order."""

import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.prepare import best_fit, packing
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
        (shard, int(offset) + start, start == 0, document[start:stop])
        for document, offset in zip(documents, offsets, strict=True)
        for shard, start, stop in packing.cut(int(offset), len(document), shard_tokens)
    ]
    shuffler.shuffle(pieces)
    samples_in_all = -(-len(stream) // length)
    layout = plan({("a", "train"): samples_in_all}, length, "uint16", END, samples_per_shard * (length * 2 + 4) / 2**20)
    assert layout.samples_per_shard == samples_per_shard
    samples, target_total = [], 0
    for shard in range(layout.shards):
        own = sorted(piece[1:] for piece in pieces if piece[0] == shard)
        rows, real, begins = packing.assemble(own, shard * shard_tokens, length, END)
        padding = int((~real).sum())
        last = shard == layout.shards - 1
        assert rows.dtype == np.uint16 and (last or (padding == 0 and len(rows) == samples_per_shard))
        samples.append(rows)
        told = [packing.document_offsets(*of_sample).tolist() for of_sample in zip(real, begins, strict=True)]
        for number, of_sample in enumerate(told, start=shard * samples_per_shard):
            ahead = offsets[(offsets >= number * length) & (offsets < (number + 1) * length)] - number * length
            assert of_sample == [*ahead, min(length, len(stream) - number * length)]
        target_total += len(packing.targets(rows, real))
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
    real = np.array([[True, True, True], [True, True, False]])
    assert packing.targets(samples, real).tolist() == [2, 3, END]
    assert packing.targets(samples, np.ones_like(real)).tolist() == [2, 3, END, END]


def test_gaps_are_padding():
    pieces = [(20, True, np.array([1, END])), (24, True, np.array([2, 3, 4, 5])), (28, False, np.array([6, END]))]
    samples, real, starts = packing.assemble(pieces, 20, 4, END)
    assert samples.tolist() == [[1, END, END, END], [2, 3, 4, 5], [6, END, END, END]]
    assert real.tolist() == [[True, True, False, False], [True] * 4, [True, True, False, False]]
    offsets = [packing.document_offsets(*of_sample) for of_sample in zip(real, starts, strict=True)]
    assert [of.tolist() for of in offsets] == [[0, 2], [0, 4], [2]]
    assert {of.dtype for of in offsets} == {np.dtype(np.uint16)}
    assert [packing.offset_dtype(length) for length in (65535, 65536)] == ["uint16", "uint32"]


@given(st.lists(st.integers(1, 60), min_size=1, max_size=80), st.integers(4, 24))
def test_best_fit_places_every_token_once_and_cuts_only_what_is_longer(counts, capacity):
    cuts = [best_fit.cut(count, capacity) for count in counts]
    for count, pieces in zip(counts, cuts, strict=True):
        assert sum(pieces) == count and (len(pieces) == 1) == (count <= capacity)
        assert max(pieces) <= capacity and (len(pieces) == 1 or min(pieces) >= best_fit.SHORTEST)
        assert len(pieces) == -(-count // capacity)
    lengths = np.array([piece for pieces in cuts for piece in pieces])
    samples, positions = best_fit.pack(lengths, capacity)
    used = np.zeros((samples.max() + 1, capacity), int)
    for length, sample, position in zip(lengths, samples, positions, strict=True):
        assert position + length <= capacity
        used[sample, position : position + length] += 1
    assert used.max() == 1 and used.any(axis=1).all()
    assert (np.diff(used, axis=1) <= 0).all()  # padding comes last
    free = capacity - used.sum(axis=1)
    for first in np.flatnonzero(positions == 0):  # a sample is opened for what no earlier one has room for
        assert (free[: samples[first]] < lengths[first]).all()


def test_shards_of_all_splits_are_numbered_through():
    counts = {("a", "train"): 10, ("a", "heldout"): 1, ("b", "train"): 5}
    layout = plan(counts, 10, "uint32", END, 2 * 44 / 2**20)
    assert (layout.samples_per_shard, layout.shards) == (2, 5 + 1 + 3)
    places = [layout.split_of(shard) for shard in range(layout.shards)]
    assert places == [("a", "train", i) for i in range(5)] + [("a", "heldout", 0)] + [
        ("b", "train", i) for i in range(3)
    ]
    assert plan(counts, 10, "uint32", END, 1e-9).samples_per_shard == 1


def test_occurrences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "COUNTED", 7)
    samples = np.array([[5, 7, 2], [7, 7, 0], [0, 2, 9], [4, 2, 8], [1, 8, 8]], np.uint16)
    real = np.ones_like(samples, bool)
    real[-1, 1:] = real[-2, 2] = False
    found, counts = packing.occurrences(samples, real)
    assert dict(zip(found.tolist(), counts.tolist(), strict=True)) == dict(
        sorted(Counter([7, 2, 7, 0, 2, 9, 2]).items())
    )

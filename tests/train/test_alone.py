"""One rank adds nothing up, several do; and afterwards it is as before."""

import pytest
import torch
from composer.utils import dist

from train.alone import alone


def test_one_rank_adds_nothing_up() -> None:
    before, ones = dist.all_reduce, torch.ones(3)
    with alone():
        assert dist.all_reduce is not before
        dist.all_reduce(ones, reduce_operation="SUM")
    assert dist.all_reduce is before and ones.tolist() == [1, 1, 1]


def test_several_ranks_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    before = dist.all_reduce
    with alone():
        assert dist.all_reduce is before

"""The loss of a model that knows how often each token occurs and nothing else."""

import numpy as np
import pytest

from data.prepare import unigram


def test_unigram_loss_by_hand():
    loss = unigram.unigram_loss(np.array([2, 0, 1]), np.array([1, 1, 0]))
    assert loss == pytest.approx(-(np.log(3 / 6) + np.log(1 / 6)) / 2)

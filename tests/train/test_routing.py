"""Routing by domain: summed over steps through checkpoints, as shares, and as W&B's picture."""

import numpy as np
import torch

from train.callbacks.routing import RoutingSum
from train.callbacks.routing_picture import FEW, MANY, cell_colours, routing_picture
from train.routing import on_scale, relative_share


def test_the_sum_goes_on_from_a_checkpoint() -> None:
    first, second = torch.arange(12).view(2, 3, 2), torch.ones(2, 3, 2, dtype=torch.int64)
    whole = RoutingSum()
    whole.add(first)
    resumed = RoutingSum()
    resumed.load(whole.dump())
    for routing in (whole, resumed):
        routing.add(second)
    assert resumed.dump() == whole.dump()
    assert resumed.take() == {"moe/routing_steps": 2, "moe/routing": (first + second).tolist()}
    assert resumed.dump() == RoutingSum().dump()
    resumed.load(RoutingSum().dump())
    resumed.add(second)
    assert resumed.take() == {"moe/routing_steps": 1, "moe/routing": second.tolist()}


def test_a_domain_that_comes_later_had_no_tokens_before() -> None:
    routing = RoutingSum()
    routing.add(torch.ones(1, 1, 2, dtype=torch.int64))
    routing.add(torch.ones(1, 2, 2, dtype=torch.int64))
    assert routing.take()["moe/routing"] == [[[2, 2], [1, 1]]]


def test_shares_and_their_scale() -> None:
    share = relative_share(np.array([[[4, 0, 0, 0], [1, 1, 1, 1], [2, 1, 1, 0], [0, 0, 0, 0]]]))
    assert np.array_equal(share[0, :3], [[4, 0, 0, 0], [1, 1, 1, 1], [2, 1, 1, 0]])
    assert np.isnan(share[0, 3]).all()
    assert on_scale(np.array([0, 1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8])).tolist() == [-1, -1, -1, -0.5, 0, 0.5, 1, 1]


def test_the_picture_has_a_tile_for_each_layer() -> None:
    tokens = np.zeros((40, 20, 16), np.int64)
    tokens[:, :, 3] = 1
    colours = cell_colours(tokens)
    assert (colours[:, :, 3] == MANY).all() and (colours[:, :, 4] == FEW).all()
    assert (cell_colours(np.zeros((1, 1, 2), np.int64)) == 255).all()
    picture = routing_picture(tokens, [f"domain{number}" for number in range(20)])
    across = {x for x in range(picture.width) for y in [30] if picture.getpixel((x, y)) == tuple(MANY)}
    assert len(across) == 12 * 7  # seven tiles side by side, 12 pixels of each
    assert picture.width < 2000 and picture.height < 2000


def test_the_picture_numbers_layers_as_in_the_model() -> None:
    tokens = np.ones((2, 1, 4), np.int64)
    fourth, fifth = (np.array(routing_picture(tokens[:1], ["web"], first))[:16] for first in (3, 4))
    two = np.array(routing_picture(tokens, ["web"], 3))  # one above the other
    assert np.array_equal(two[:16], fourth) and np.array_equal(two[42:58], fifth)
    assert not np.array_equal(fourth, fifth)

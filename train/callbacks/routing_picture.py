"""Routing as a picture for W&B: one tile for each layer, domains down, experts across."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from train.routing import on_scale, relative_share

# Less than an equal share, an equal share, more: the colours of the report's page.
FEW, EQUAL, MANY = (np.array(colour) for colour in ((47, 111, 192), (241, 242, 244), (200, 85, 27)))
UNKNOWN = (255, 255, 255)
CAPTION = (
    "Share of a domain's tokens that each expert was given. Down: domains; across: experts from 0. White: an equal "
    "share; orange: up to four times; blue: down to a quarter."
)
CELL = 12  # pixels
TITLE = 18  # pixels above a tile
GAP = 12


def routing_picture(tokens_LME: NDArray[np.int64], domains: Sequence[str], first_layer: int = 0) -> Image.Image:
    """Each expert's share of each domain's tokens, from blue (a quarter of an equal share) to orange (four times).

    first_layer is the number of the first of these layers in the model.
    """
    layers, rows, experts = tokens_LME.shape
    font = ImageFont.load_default(size=CELL)
    margin = GAP + math.ceil(max(font.getlength(name) for name in domains))
    width, height = experts * CELL + GAP, TITLE + rows * CELL + GAP
    across = max(1, round(math.sqrt(layers * height / width)))
    down = math.ceil(layers / across)
    picture = Image.new("RGB", (margin + across * width + GAP, down * height + GAP), UNKNOWN)
    draw = ImageDraw.Draw(picture)
    for layer, colours in enumerate(cell_colours(tokens_LME)):
        line, column = divmod(layer, across)
        left, top = margin + GAP + column * width, line * height + TITLE
        tile = Image.fromarray(colours).resize((experts * CELL, rows * CELL), Image.Resampling.NEAREST)
        picture.paste(tile, (left, top))
        draw.text((left, top - TITLE + 2), f"layer {first_layer + layer}", fill="black", font=font)
        if column == 0:
            for row, name in enumerate(domains):
                draw.text((GAP, top + row * CELL - 2), name, fill="black", font=font)
    return picture


def cell_colours(tokens_LME: NDArray[np.int64]) -> NDArray[np.uint8]:
    """[L, M, E, 3] RGB."""
    place = on_scale(relative_share(tokens_LME))[..., None]
    colours = EQUAL + np.abs(place) * (np.where(place < 0, FEW, MANY) - EQUAL)
    return np.where(np.isnan(colours), UNKNOWN, colours.round()).astype(np.uint8)

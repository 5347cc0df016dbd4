"""`brickyard card`: the data card of a dataset that is there."""

from __future__ import annotations

from pathlib import Path

from data.errors import DataError
from data.manifest import verify
from data.prepare.card.write import FILES, write_card


def card_command(dataset: Path) -> int:
    """Write the card of the dataset in this folder, which is held to its manifest. Returns the exit code."""
    manifest = verify(dataset)
    try:
        write_card(manifest, dataset, dataset.resolve().name)
    except OSError as error:
        raise DataError(f"can't write the card into {dataset}: {error.strerror}") from None
    for file in FILES:
        print(f"card: wrote {dataset / file}")
    return 0

"""The data card, beside the manifest that it is made of."""

from __future__ import annotations

from pathlib import Path

from data.manifest import Manifest
from data.prepare.card.contents import card_of
from data.prepare.card.markdown import as_markdown
from data.prepare.card.page import as_page

MARKDOWN, PAGE = FILES = ("data_card.md", "data_card.html")


def write_card(manifest: Manifest, folder: Path, name: str) -> None:
    """Writes both of FILES into the folder, each whole or not at all; `name` is what the dataset is called."""
    card = card_of(manifest, name)
    for file, content in ((MARKDOWN, as_markdown(card)), (PAGE, as_page(card))):
        unfinished = folder / f".{file}.new"
        unfinished.write_text(content, encoding="utf-8")
        unfinished.replace(folder / file)

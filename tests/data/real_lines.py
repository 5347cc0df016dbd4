"""Lines of real text that every machine with the locked stack has: the sources and documents of installed packages."""

import site
from collections.abc import Iterator
from functools import cache
from pathlib import Path

PACKAGES = ("arrow", "charset_normalizer", "networkx", "numpy", "pandas", "pygments", "rich", "transformers", "torch")
SUFFIXES = {".py", ".pyi", ".rst", ".md", ".txt"}


@cache
def real_lines(count: int = 10_000) -> list[str]:
    """Different lines, with their ends: a third that leave ASCII, as far as there are so many, then the others."""
    beyond: dict[str, None] = {}
    plain: dict[str, None] = {}
    for text in _texts():
        for line in text.splitlines(keepends=True):
            (plain if line.isascii() else beyond)[line] = None
    lines = [*beyond][: count // 3]
    rest = count - len(lines)
    assert len(plain) >= rest
    return lines + [*plain][:: len(plain) // rest][:rest]


def _texts() -> Iterator[str]:
    root = Path(site.getsitepackages()[0])
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*")):
            if path.suffix in SUFFIXES and path.stat().st_size < 200_000:
                yield path.read_text(encoding="utf-8", errors="ignore")

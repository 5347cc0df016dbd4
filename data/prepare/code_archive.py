"""The code that Spark's tasks run, as one file: python -m data.prepare.code_archive FILE."""

import sys
import zipfile
from pathlib import Path

import data

NAME = "brickyard.zip"
SUFFIXES = (".py", ".html", ".css", ".js")  # the driver finds the pages' parts in it as well
MADE = (1980, 1, 1, 0, 0, 0)  # of every file: equal code gives equal bytes


def write_archive(path: Path) -> None:
    """Writes the package `data`, all that a task imports of ours."""
    package = Path(data.__file__).parent
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(file for file in package.rglob("*") if file.suffix in SUFFIXES):
            name = zipfile.ZipInfo(str(file.relative_to(package.parent)), MADE)
            archive.writestr(name, file.read_bytes(), zipfile.ZIP_DEFLATED)


if __name__ == "__main__":
    write_archive(Path(sys.argv[1]))

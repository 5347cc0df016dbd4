"""Gathers the demo's text: what every machine with our environment has, as JSON lines, one folder per domain.

    code       modules of the standard library
    prose      packages' long descriptions and documents, Python's own manual pages (pydoc topics), licences
    reference  docstrings under their signatures, one document per module or class

Each record is {"text", "origin", "licence"}; the origin is `PACKAGE VERSION/PATH`, never a path of this machine.
Nothing is imported to be read: source goes through `ast`. Same environment, same bytes.
"""

import ast
import email
import email.message
import hashlib
import importlib.metadata
import json
import platform
import re
import shutil
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics

from data.errors import DataError

VERSION = 1  # of what this file gathers: raise it, and every machine gathers anew
STAMP = "gathered.json"
# Caps in bytes. Whole, the standard library is 12 MB and the packages 500 MB; the demo prepares and trains in minutes.
DOMAIN_CAP = 5_000_000
LICENCE_CAP = 300_000  # licences resemble one another: more of them would teach the demo to recite
DOCUMENT_CAP = 200_000
PACKAGE_CAP = 500_000  # of docstrings, so that no package is the whole of `reference`
MIN_DOCSTRINGS = 200  # a document of `reference` shorter than this says next to nothing
# Packages of our lock whose docstrings are documentation, not remarks.
DOCUMENTED = ("composer", "matplotlib", "networkx", "numpy", "pandas", "pyspark", "sympy", "torch", "transformers")
# Tests are no library code, encodings/ are tables, pydoc_data/ is prose, _bundled holds archives.
NOT_CODE = {"test", "tests", "idle_test", "site-packages", "encodings", "pydoc_data", "_bundled", "__pycache__"}
PROSE_NAME = re.compile(r"(readme|change|history|news|contributing|security|notes|authors)|\.(md|rst)$", re.IGNORECASE)
LICENCE_NAME = re.compile(r"licen[cs]e|copying|notice", re.IGNORECASE)


@dataclass(frozen=True)
class Document:
    """One record of the corpus."""

    text: str
    origin: str
    licence: str


@dataclass(frozen=True)
class Gathered:
    """What `gather` left in its folder."""

    documents: dict[str, int]  # domain -> count
    bytes: dict[str, int]  # domain -> UTF-8 bytes of text
    reused: bool  # the folder was there already, of the same environment


def gather(output: Path, progress: Callable[[str], None]) -> Gathered:
    """Writes OUTPUT/DOMAIN/documents.jsonl for the three domains, or keeps what an equal environment wrote before.

    The folder appears whole or not at all: it is written beside its place and renamed. What was gathered before is
    replaced.

    Raises:
        DataError: `output` is there, and holds something else.
    """
    output = Path(output)
    if output.exists() and not (output / STAMP).is_file() and (not output.is_dir() or any(output.iterdir())):
        raise DataError(f"{output} exists and holds no gathered corpus; remove it or choose another folder")
    distributions = _distributions()
    fingerprint = _fingerprint(distributions)
    if (kept := _read_stamp(output, fingerprint)) is not None:
        progress(f"corpus  {output} is up to date: {sum(kept.documents.values()):,} documents")
        return kept
    unfinished = output.parent / f".{output.name}.gathering"
    shutil.rmtree(unfinished, ignore_errors=True)
    domains = {"code": _code, "prose": _prose, "reference": _reference}
    gathered = Gathered({}, {}, reused=False)
    for domain, documents in domains.items():
        kept_documents = sorted(_capped(documents(distributions), DOMAIN_CAP), key=lambda document: document.origin)
        _write(unfinished / domain / "documents.jsonl", kept_documents)
        gathered.documents[domain] = len(kept_documents)
        gathered.bytes[domain] = sum(_size(document) for document in kept_documents)
        progress(
            f"corpus  {domain:<9} {gathered.documents[domain]:>6,} documents  {gathered.bytes[domain] / 1e6:.1f} MB"
        )
    stamp = {"fingerprint": fingerprint, "documents": gathered.documents, "bytes": gathered.bytes}
    (unfinished / STAMP).write_text(json.dumps(stamp, indent=1) + "\n", encoding="utf-8")
    if output.exists():
        shutil.rmtree(output)
    unfinished.rename(output)
    return gathered


def _code(distributions: list[importlib.metadata.Distribution]) -> Iterator[Document]:
    for path, name in _by_hash(_standard_library()):
        text = _read(path)
        if text:
            yield Document(text, f"python {platform.python_version()}/{name}", "PSF-2.0")


def _prose(distributions: list[importlib.metadata.Distribution]) -> Iterator[Document]:
    for distribution in distributions:
        if description := str(_metadata(distribution).get_payload() or ""):
            yield Document(description, f"{_title(distribution)}/DESCRIPTION", _licence(distribution))
    for name in sorted(topics):
        yield Document(topics[name], f"python {platform.python_version()}/pydoc/{name}", "PSF-2.0")
    yield from _packaged_files(distributions, _is_prose)
    yield from _capped(_packaged_files(distributions, _is_licence), LICENCE_CAP)


def _is_licence(path: Path) -> bool:
    return bool(LICENCE_NAME.search(path.name))


def _is_prose(path: Path) -> bool:
    return bool(PROSE_NAME.search(path.name)) and not _is_licence(path)


def _reference(distributions: list[importlib.metadata.Distribution]) -> Iterator[Document]:
    standard = f"python {platform.python_version()}"
    yield from _capped(_documented(_standard_library(), standard, "PSF-2.0"), PACKAGE_CAP)
    for distribution in distributions:
        if _name(distribution) in DOCUMENTED:
            paths = [(path, name) for path, name in _files(distribution) if name.endswith(".py")]
            yield from _capped(_documented(paths, _title(distribution), _licence(distribution)), PACKAGE_CAP)


def _documented(paths: list[tuple[Path, str]], title: str, licence: str) -> Iterator[Document]:
    for path, name in _by_hash(paths):
        if NOT_CODE.isdisjoint(Path(name).parts):
            module = name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
            for part, text in _reference_pages(_read(path), module):
                yield Document(text, f"{title}/{name}{part}", licence)


def _reference_pages(source: str, module: str) -> Iterator[tuple[str, str]]:
    """A page for the module with its functions, and one for each class with its methods: (suffix, text)."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    yield from _page("", f"module {module}", tree, functions)
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            bases = ", ".join(ast.unparse(base) for base in node.bases)
            methods = [item for item in node.body if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef)]
            heading = f"class {module}.{node.name}" + (f"({bases})" if bases else "")
            yield from _page(f"::{node.name}", heading, node, methods)


def _page(
    suffix: str,
    heading: str,
    node: ast.Module | ast.ClassDef,
    functions: Iterable[ast.FunctionDef | ast.AsyncFunctionDef],
) -> Iterator[tuple[str, str]]:
    parts = [docstring] if (docstring := ast.get_docstring(node)) else []
    for function in functions:
        if docstring := ast.get_docstring(function):
            returns = f" -> {ast.unparse(function.returns)}" if function.returns else ""
            parts.append(f"{function.name}({ast.unparse(function.args)}){returns}\n\n{docstring}")
    if sum(map(len, parts)) >= MIN_DOCSTRINGS:
        yield suffix, "\n\n\n".join([heading, *parts]) + "\n"


def _packaged_files(
    distributions: list[importlib.metadata.Distribution], wanted: Callable[[Path], bool]
) -> Iterator[Document]:
    for distribution in distributions:
        for path, name in _files(distribution):
            if path.suffix in (".md", ".rst", ".txt", "") and wanted(path) and (text := _read(path)):
                yield Document(text, f"{_title(distribution)}/{name}", _licence(distribution))


def _capped(documents: Iterable[Document], cap: int) -> Iterator[Document]:
    """Documents in order while they fit into `cap` bytes; one that does not fit, or is too large alone, is left out."""
    total = 0
    for document in documents:
        size = _size(document)
        if size <= DOCUMENT_CAP and total + size <= cap:
            total += size
            yield document
        if total > cap * 0.99:
            return


def _size(document: Document) -> int:
    return len(document.text.encode("utf-8", "surrogatepass"))  # source may spell half a character


def _by_hash(paths: list[tuple[Path, str]]) -> list[tuple[Path, str]]:
    """In an order that is arbitrary and everywhere the same, so that a cap keeps a fair sample."""
    return sorted(paths, key=lambda item: hashlib.sha256(item[1].encode()).digest())


def _standard_library() -> list[tuple[Path, str]]:
    """(path, name relative to the library) of its modules, tests and tables left out."""
    root = Path(sysconfig.get_path("stdlib"))
    names = {path: path.relative_to(root) for path in root.rglob("*.py")}
    return [
        (path, name.as_posix())
        for path, name in sorted(names.items())
        if NOT_CODE.isdisjoint(name.parts) and not name.name.startswith("_sysconfigdata")  # this machine's paths
    ]


def _distributions() -> list[importlib.metadata.Distribution]:
    """The installed packages by name, our own left out: its README changes with every commit."""
    site_packages = sysconfig.get_path("purelib")
    found = {
        _name(distribution): distribution for distribution in importlib.metadata.distributions(path=[site_packages])
    }
    return [found[name] for name in sorted(found) if name != "brickyard"]


def _files(distribution: importlib.metadata.Distribution) -> list[tuple[Path, str]]:
    listed = sorted(str(file) for file in distribution.files or [] if ".." not in file.parts)
    return [(Path(str(distribution.locate_file(name))), name) for name in listed]


def _metadata(distribution: importlib.metadata.Distribution) -> email.message.Message:
    """The package's headers; the long description is the payload."""
    return email.message_from_string(distribution.read_text("METADATA") or "")


def _name(distribution: importlib.metadata.Distribution) -> str:
    return re.sub(r"[-_.]+", "-", distribution.metadata["Name"]).lower()


def _title(distribution: importlib.metadata.Distribution) -> str:
    return f"{_name(distribution)} {distribution.version}"


def _licence(distribution: importlib.metadata.Distribution) -> str:
    """What the package's metadata says, in one line."""
    metadata = _metadata(distribution)
    for key in ("License-Expression", "License"):
        lines = str(metadata.get(key) or "").strip().splitlines()
        if lines and len(lines[0]) <= 80:
            return lines[0]
    classifiers = [line for line in metadata.get_all("Classifier") or [] if line.startswith("License ::")]
    return classifiers[0].rpartition(" :: ")[2] if classifiers else "unknown"


def _read(path: Path) -> str:
    """A file's text, or nothing where it is missing or not UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def _write(path: Path, documents: list[Document]) -> None:
    path.parent.mkdir(parents=True)
    with path.open("w", encoding="utf-8") as file:
        for document in documents:
            json.dump(vars(document), file, ensure_ascii=True)  # ASCII, so lone surrogates in source survive as escapes
            file.write("\n")


def _fingerprint(distributions: list[importlib.metadata.Distribution]) -> str:
    parts = [f"gather {VERSION}", f"python {platform.python_version()}", *map(_title, distributions)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _read_stamp(output: Path, fingerprint: str) -> Gathered | None:
    try:
        stamp = json.loads((output / STAMP).read_text(encoding="utf-8"))
        if stamp["fingerprint"] != fingerprint:
            return None
        whole = all((output / domain / "documents.jsonl").is_file() for domain in stamp["documents"])
        return Gathered(stamp["documents"], stamp["bytes"], reused=True) if whole else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


if __name__ == "__main__":
    try:
        gather(Path(sys.argv[1] if len(sys.argv) > 1 else "corpus/demo"), print)
    except DataError as error:
        print(error, file=sys.stderr)
        sys.exit(2)

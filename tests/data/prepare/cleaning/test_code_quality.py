"""The rules for code, on the standard library's own and on what is hardly code."""

import json
import keyword
import sys
import token
from pathlib import Path

import pytest

from data.prepare.cleaning.code import CodeQuality
from data.prepare.cleaning.verdict import Drop

LIBRARY = Path(json.__file__).parents[1]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("\n".join(["x" * 100] * 5), None),
        ("\n".join(["x" * 100] * 4 + ["x" * 105]), "mean line length 101, above 100"),
        ("\n".join(["x" * 1000] + [""] * 20), None),
        ("\n".join(["x" * 1001] + [""] * 20), "longest line 1,001, above 1,000"),
        ("ab1" + "+" * 9, None),
        ("ab1" + "+" * 10, "alphanumeric characters 0.2308, below 0.25"),
        ("\n\n\n\n# Auto-Generated", "its first lines say 'Auto-Generated'"),
        ("\n\n\n\n\n# Auto-Generated", None),
        ("", "alphanumeric characters 0, below 0.25"),
    ],
)
def test_each_threshold(text, why):
    verdict = CodeQuality().apply(text)
    assert verdict is text if why is None else isinstance(verdict, Drop) and verdict.why == why


def test_the_standard_library_is_code_and_its_generated_modules_are_known():
    sources = {path.name: path.read_text() for path in sorted(LIBRARY.glob("*.py"))[:80]}
    kept = [name for name, text in sources.items() if CodeQuality().apply(text) is text]
    assert len(kept) >= 0.97 * len(sources) and len(sources) == 80
    for module in (token, keyword):
        assert CodeQuality().apply(Path(module.__file__).read_text()).rule == "generated"
    assert CodeQuality(generated_markers=False).apply(text := Path(token.__file__).read_text()) is text


def test_minified_data_is_dropped():
    assert CodeQuality().apply(json.dumps(sorted(sys.stdlib_module_names))).rule == "mean line length"

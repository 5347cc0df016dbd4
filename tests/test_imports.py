"""Imports run one way: launch -> train -> data, model; and data and model never meet."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ALLOWED = {
    "data": {"data"},
    "model": {"model"},
    "train": {"train", "data", "model"},
    "launch": {"launch", "train", "data", "model"},
}


@pytest.mark.parametrize("room", ALLOWED)
def test_a_room_imports_only_what_lies_below_it(room: str) -> None:
    for file in (ROOT / room).rglob("*.py"):
        for module in imported(file):
            top = module.partition(".")[0]
            assert top not in ALLOWED or top in ALLOWED[room], f"{file.relative_to(ROOT)} imports {module}"


@pytest.mark.parametrize("file", ["plan.py", "schedule.py", "order.py", "permutation.py", "times.py"])
def test_the_plan_needs_numpy_alone(file: str) -> None:
    for module in imported(ROOT / "data" / "mixture" / file):
        assert not module.startswith(("torch", "streaming", "composer", "pyspark", "omegaconf"))


def imported(file: Path) -> list[str]:
    modules = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules.append(node.module)
    return modules

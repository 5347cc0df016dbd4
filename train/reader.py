"""Read a recipe: YAML, then `key=value` overrides, then `${...}` interpolation, into a typed dataclass."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from train.errors import RecipeError
from train.schema import Problem, nearest, shape_problems, value_problems

T = TypeVar("T")


@dataclass(frozen=True)
class RecipeSource:
    """Where a recipe came from: its file, and the overrides typed after it."""

    path: Path
    overrides: tuple[str, ...] = ()

    def raise_first(self, problems: Iterable[Problem]) -> None:
        """Raises RecipeError for the first problem, if there is one: file, line, key path, sentence."""
        for key, sentence in problems:
            raise RecipeError(f"{self.where(key)}: {sentence}")

    def where(self, key: str) -> str:
        """`file:line: key`, or the override that set the key, or one above it, or below it if the file lacks it."""
        if not key:
            return str(self.path)
        wrong, (line, there) = parts_of_key(key), find(self.path, key)
        for override in reversed(self.overrides):
            name = parts_of_key(override.partition("=")[0].strip())
            if name == wrong:
                return f"override {override}"
            if wrong[: len(name)] == name or (name[: len(wrong)] == wrong and not there):
                return f"override {override}: {key}"
        return f"{self.path}:{line}: {key}"


def read_recipe(schema: type[T], source: RecipeSource) -> T:
    """The recipe as an instance of the dataclass `schema`.

    Raises:
        RecipeError: one sentence with the file, the line, the key's path, what was expected and the nearest valid name.
    """
    config = load_yaml(source.path)
    for override in source.overrides:
        apply_override(config, override)
    data = resolve(config, source.path)
    source.raise_first(shape_problems(schema, data))
    recipe = to_dataclass(schema, data, source.path)
    source.raise_first(value_problems(recipe))
    return recipe


def load_yaml(path: Path) -> DictConfig:
    if path.is_dir():
        raise RecipeError(f"{path}: is a folder; name a recipe, which is a YAML file")
    try:
        config = OmegaConf.load(path)
    except FileNotFoundError:
        beside = [str(file) for file in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
        raise RecipeError(f"{path}: no such recipe{nearest(path, beside)}") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise RecipeError(f"{path}:{line}: not valid YAML: {error.problem}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read: {error.strerror or first_line(error)}") from None
    except OmegaConfBaseException as error:  # YAML that says more than recipes can
        raise RecipeError(f"{path}: cannot be read: {first_line(error)}") from None
    if not isinstance(config, DictConfig) or not config:
        raise RecipeError(f"{path}: expected `key: value` lines at the top of the recipe")
    return config


def apply_override(config: DictConfig, override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise RecipeError(f"override {override!r}: expected key=value, such as seed=3 or model.d_model=256")
    try:
        value = OmegaConf.from_dotlist([f"value={text}"])["value"]
        OmegaConf.update(config, key.strip(), value, merge=False, force_add=True)
    except yaml.YAMLError:
        raise RecipeError(f"override {override!r}: the value is not valid YAML") from None
    except (OmegaConfBaseException, ValueError, TypeError, IndexError, AttributeError) as error:
        raise RecipeError(f"override {override!r}: cannot be set: {first_line(error)}") from None


def resolve(config: DictConfig, path: Path) -> Any:
    try:
        return OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        raise RecipeError(f"{path}: {getattr(error, 'full_key', None) or 'recipe'}: {first_line(error)}") from None


def to_dataclass(schema: type[T], data: Any, path: Path) -> T:
    try:
        merged = OmegaConf.merge(OmegaConf.structured(schema), OmegaConf.create(data))
        recipe = OmegaConf.to_object(merged)
    except (OmegaConfBaseException, TypeError) as error:  # what shape_problems did not foresee
        raise RecipeError(f"{path}: {getattr(error, 'full_key', None) or 'recipe'}: {first_line(error)}") from None
    assert isinstance(recipe, schema)
    return recipe


def first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def parts_of_key(key: str) -> list[str]:
    return key.replace("[", ".").replace("]", "").split(".")


def find(path: Path, key: str) -> tuple[int, bool]:
    """The line on which the key stands, or its nearest parent that the file has; and whether it is the key's own."""
    node: Any = yaml.compose(path.read_text(), Loader=yaml.SafeLoader)
    line = 1
    for part in parts_of_key(key):
        if isinstance(node, yaml.MappingNode):
            found = next((pair for pair in node.value if pair[0].value == part), None)
        elif isinstance(node, yaml.SequenceNode) and part.isdigit() and int(part) < len(node.value):
            found = (node.value[int(part)], node.value[int(part)])
        else:
            found = None
        if found is None:
            return line, False
        line, node = found[0].start_mark.line + 1, found[1]
    return line, True


def to_yaml(recipe: Any) -> str:
    """The resolved recipe as YAML, every default written out."""
    return OmegaConf.to_yaml(OmegaConf.structured(recipe))

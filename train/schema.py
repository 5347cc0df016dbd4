"""Hold plain YAML data against a dataclass and say in the user's own words what does not fit."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

NAMES = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
Problem = tuple[str, str]  # (key path, sentence)


def shape_problems(hint: Any, value: Any, path: str = "") -> Iterator[Problem]:
    """Where plain data (dicts, lists, scalars) does not have the shape that the type hint asks for."""
    origin = get_origin(hint)
    if is_dataclass(hint):
        yield from dataclass_problems(typing.cast(type, hint), value, path)
    elif origin in (Union, types.UnionType):
        inner = [option for option in get_args(hint) if option is not type(None)]
        if value is not None:
            yield from shape_problems(option_for(value, inner), value, path)
    elif names := choices(hint):
        if value not in names:
            yield path, f"expected {' or '.join(names)}, found {show(value)}{nearest(value, names)}"
    elif origin is list:
        yield from list_problems(get_args(hint)[0], value, path)
    elif origin is tuple:
        yield from tuple_problems(get_args(hint), value, path)
    elif origin is dict:
        key_hint, item_hint = get_args(hint)
        yield from dict_problems(key_hint, item_hint, value, path)
    elif not scalar_fits(hint, value):
        yield path, f"expected {NAMES[hint]}, found {show(value)}"


def option_for(value: Any, options: list[Any]) -> Any:
    """The option that a value is held against: of a number or numbers by name, the latter for a dict."""
    fitting = [option for option in options if isinstance(value, dict) == (get_origin(option) is dict)]
    return (fitting or options)[0]


def dataclass_problems(schema: type, value: Any, path: str) -> Iterator[Problem]:
    if not isinstance(value, dict):
        yield path, f"expected keys ({', '.join(f.name for f in fields(schema)[:4])}, ...), found {show(value)}"
        return
    known = {field.name: field for field in fields(schema)}
    hints = get_type_hints(schema)
    # OmegaConf has no union with a dict: such a field is Any there, and its `shape` says what it takes.
    hints.update({name: field.metadata["shape"] for name, field in known.items() if "shape" in field.metadata})
    for key, item in value.items():
        if key not in known:
            yield join(path, key), f"no such key{nearest(key, known)} (known here: {', '.join(known)})"
        elif "named" in known[key].metadata:
            if item is not None or known[key].default is not None:
                yield from named_problems(known[key].metadata["named"], item, join(path, key))
        else:
            yield from shape_problems(hints[key], item, join(path, key))
    for name, field in known.items():
        if name not in value and field.default is MISSING and field.default_factory is MISSING:
            yield join(path, name), f"this key is required: {describe(hints[name])}"


def list_problems(item_hint: Any, value: Any, path: str) -> Iterator[Problem]:
    if not isinstance(value, list):
        yield path, f"expected a list, found {show(value)}"
        return
    for index, item in enumerate(value):
        yield from shape_problems(item_hint, item, f"{path}[{index}]")


def named_problems(table: dict[str, type], value: Any, path: str) -> Iterator[Problem]:
    """Of a list whose items are names of the table or {name: {option: value}}, the options those of its dataclass."""
    if not isinstance(value, list):
        yield path, f"expected a list of names (of {', '.join(table)}), found {show(value)}"
        return
    for index, item in enumerate(value):
        name, options = next(iter(item.items())) if isinstance(item, dict) and len(item) == 1 else (item, None)
        if not isinstance(name, str):
            yield f"{path}[{index}]", f"expected a name or one {{name: {{option: value}}}}, found {show(item)}"
        elif name not in table:
            yield f"{path}[{index}]", f"no such name: {name}{nearest(name, table)} (known here: {', '.join(table)})"
        elif options is not None:
            yield from dataclass_problems(table[name], options, f"{path}[{index}].{name}")


def tuple_problems(item_hints: tuple, value: Any, path: str) -> Iterator[Problem]:
    if not isinstance(value, list) or len(value) != len(item_hints):
        yield path, f"expected a list of {len(item_hints)}, found {show(value)}"
        return
    for index, (hint, item) in enumerate(zip(item_hints, value, strict=True)):
        yield from shape_problems(hint, item, f"{path}[{index}]")


def dict_problems(key_hint: Any, item_hint: Any, value: Any, path: str) -> Iterator[Problem]:
    if not isinstance(value, dict):
        yield path, f"expected names and values, found {show(value)}"
        return
    for key, item in value.items():
        if key_hint is str and not isinstance(key, str):
            yield join(path, key), f"expected a name, which may need quotes, found {show(key)}"
        yield from shape_problems(item_hint, item, join(path, key))


def scalar_fits(hint: type, value: Any) -> bool:
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is str:
        return isinstance(value, str | int | float) and not isinstance(value, bool)
    return isinstance(value, hint)


def value_problems(value: Any, path: str = "") -> Iterator[Problem]:
    """What the dataclasses say of their own values: each may have `problems()` yielding (relative key, sentence)."""
    if is_dataclass(value):
        if hasattr(value, "problems"):
            for key, sentence in value.problems():
                yield join(path, key) if key else path, sentence
        for field in fields(value):
            yield from value_problems(getattr(value, field.name), join(path, field.name))
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from value_problems(item, join(path, key))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from value_problems(item, f"{path}[{index}]")


def join(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)


def has_key(schema: Any, key: str) -> bool:
    """Whether data of this dataclass may have the key; below a list, or names of the user's own, any counts."""
    for part in key.partition("[")[0].split("."):
        if not is_dataclass(schema):
            return True
        hints = get_type_hints(schema)
        if part not in hints:
            return False
        schema = next((hint for hint in (hints[part], *get_args(hints[part])) if is_dataclass(hint)), None)
    return True


def nearest(word: Any, known: Any) -> str:
    """`; did you mean X?` where a known name is close, or nothing."""
    close = difflib.get_close_matches(str(word), [str(name) for name in known], n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""


def choices(hint: Any) -> tuple[str, ...]:
    """The words that a Literal or an Enum allows; none for other hints."""
    if get_origin(hint) is Literal:
        return get_args(hint)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return tuple(hint.__members__)
    return ()


def show(value: Any) -> str:
    if value is None:
        return "nothing"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def describe(hint: Any) -> str:
    if names := choices(hint):
        return " or ".join(names)
    return {**NAMES, list: "a list", dict: "names and values"}.get(get_origin(hint) or hint, "a group of keys")

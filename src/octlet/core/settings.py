"""Settings as frozen dataclasses, filled from TOML or `--set` by declared type. Nothing is evaluated."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from octlet.core.errors import UsageError

T = TypeVar("T")


def from_mapping(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    """Build the dataclass `cls` from `values`, naming `where` ("train") in every error.

    Raises:
        UsageError: an unknown key (with the nearest known one) or a value of another type or choice.
    """
    hints = get_type_hints(cls)
    for key in values:
        if key not in hints:
            raise UsageError(f"unknown setting '{where}.{key}'", remedy=_did_you_mean(key, hints))
    ready = {key: _typed(value, hints[key], f"{where}.{key}") for key, value in values.items()}
    return cls(**ready)


def _did_you_mean(key: str, known: Iterable[str]) -> str:
    import difflib  # for an error only

    names = sorted(known)
    near = difflib.get_close_matches(key, names, n=1)
    return f"did you mean '{near[0]}'?" if near else f"one of {', '.join(names)}"


def _typed(value: Any, kind: Any, name: str) -> Any:
    if get_origin(kind) is Literal:
        if value in get_args(kind):
            return value
        raise UsageError(f"{name} = {value!r}", remedy=f"one of {', '.join(map(repr, get_args(kind)))}")
    if get_origin(kind) is tuple and isinstance(value, list | tuple):
        return tuple(_typed(each, get_args(kind)[0], name) for each in value)
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:  # exact: a bool is no int
        rule = f"{name} = {value!r} is not of type {getattr(kind, '__name__', kind)}"
        raise UsageError(rule, remedy="see docs/recipes.md")
    return value


def check_ranges(settings: Any, where: str, ranges: Iterable[tuple[str, float, float]]) -> None:
    """Raise UsageError for a field outside its (name, low, high), ends included; NaN is outside."""
    for name, low, high in ranges:
        value = getattr(settings, name)
        if not low <= value <= high:
            raise UsageError(f"{where}.{name} = {value}", remedy=f"from {low} to {high}")


def parse_override(text: str) -> tuple[str, Any]:
    """Split ``key=value`` into the key and a TOML value; a bare word is a string. UsageError without '='."""
    import tomllib  # `octlet predict` overrides nothing

    key, sign, value = text.partition("=")
    if not sign or not key.strip():
        raise UsageError(f"'{text}' is not KEY=VALUE", remedy="for example --set train.lr=1e-3")
    try:
        return key.strip(), tomllib.loads(f"v = {value}")["v"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value.strip()


def as_dict(settings: Any) -> dict[str, Any]:
    """Return a settings dataclass as plain JSON types."""
    plain = dataclasses.asdict(settings)
    return {key: list(value) if isinstance(value, tuple) else value for key, value in plain.items()}

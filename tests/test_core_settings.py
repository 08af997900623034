from dataclasses import dataclass
from typing import Literal

import pytest

from octlet.core.errors import UsageError
from octlet.core.settings import from_mapping, parse_override


@dataclass(frozen=True)
class Oven:
    degrees: float = 180.0
    minutes: int = 10
    mode: Literal["air", "grill"] = "air"
    fast: bool = False
    name: str = ""


def test_values_are_taken_by_type():
    made = from_mapping(Oven, {"degrees": 200, "mode": "grill", "fast": True}, "oven")
    assert made == Oven(200.0, 10, "grill", True)
    assert type(made.degrees) is float


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"minuts": 3}, "did you mean 'minutes'"),
        ({"zzz": 3}, "one of degrees, fast"),
        ({"minutes": 3.5}, "not of type int"),
        ({"minutes": True}, "not of type int"),
        ({"fast": 1}, "not of type bool"),
        ({"mode": "steam"}, "one of 'air', 'grill'"),
    ],
)
def test_the_rest_is_refused_by_name(values, words):
    with pytest.raises(UsageError, match="oven") as caught:
        from_mapping(Oven, values, "oven")
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a=1", 1),
        ("a=1e-3", 1e-3),
        ("a = true", True),
        ("a='x y'", "x y"),
        ("a=resnet18", "resnet18"),
        ("a=", ""),
    ],
)
def test_overrides_are_toml_or_a_bare_word_and_never_code(text, value):
    assert parse_override(text) == ("a", value)


def test_an_override_needs_an_equals_sign():
    with pytest.raises(UsageError, match="KEY=VALUE"):
        parse_override("epochs")

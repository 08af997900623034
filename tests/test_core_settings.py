import json
from dataclasses import dataclass
from typing import Literal

import pytest

from octlet.core.errors import UsageError
from octlet.core.settings import as_dict, from_mapping, parse_override


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


@dataclass(frozen=True)
class Menu:
    dishes: tuple[str, ...] = ()
    prices: tuple[float, ...] = (1.0,)


def test_lists_become_tuples_and_lists_again():
    made = from_mapping(Menu, {"dishes": ["soup", "fish"], "prices": [3, 4.5]}, "menu")
    assert made == Menu(("soup", "fish"), (3.0, 4.5))
    assert [type(price) for price in made.prices] == [float, float]
    assert from_mapping(Menu, {"dishes": ("soup",)}, "menu").dishes == ("soup",)
    plain = as_dict(made)
    assert plain == {"dishes": ["soup", "fish"], "prices": [3.0, 4.5]}
    assert json.loads(json.dumps(plain)) == plain
    assert from_mapping(Menu, plain, "menu") == made
    key, value = parse_override('dishes=["soup", "pie"]')
    assert from_mapping(Menu, {key: value}, "menu").dishes == ("soup", "pie")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"dishes": "soup"}, "menu.dishes = 'soup' is not of type tuple"),
        ({"dishes": ["soup", 3]}, "menu.dishes = 3 is not of type str"),
        ({"dishes": {"soup": 1}}, "not of type tuple"),
        ({"prices": ["free"]}, "menu.prices = 'free' is not of type float"),
    ],
)
def test_a_tuple_takes_no_other_shape_and_no_other_type(values, words):
    with pytest.raises(UsageError, match="menu") as caught:
        from_mapping(Menu, values, "menu")
    assert words in str(caught.value)

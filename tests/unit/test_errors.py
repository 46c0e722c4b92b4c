"""The exception tree: one line each, with what, got, expected, and what to do."""

from __future__ import annotations

import inspect

import pytest

from monoscope import errors
from monoscope.errors import ConfigError, InputError, MonoscopeError, TrainingError, nearest


def classes() -> list[type[MonoscopeError]]:
    found = vars(errors).values()
    return [c for c in found if inspect.isclass(c) and issubclass(c, MonoscopeError)]


def test_message_with_every_part():
    error = ConfigError("k is out of range", got=0, expected="1 … d_sae", hint="Give --k 32.")
    assert str(error) == "k is out of range: got 0; expected 1 … d_sae. Give --k 32."
    assert (error.what, error.got, error.expected) == ("k is out of range", 0, "1 … d_sae")


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({}, "it broke"),
        ({"got": 0}, "it broke: got 0"),
        ({"got": ""}, "it broke: got"),
        ({"expected": "an SAE"}, "it broke: expected an SAE"),
        ({"hint": "Mend it."}, "it broke. Mend it."),
        ({"got": "a\n  b", "hint": "Mend\tit."}, "it broke: got a b. Mend it."),
    ],
)
def test_message_is_one_line_of_the_parts_given(kwargs, message):
    assert str(MonoscopeError("it broke", **kwargs)) == message


def test_exit_codes_tell_user_mistakes_from_the_rest():
    for cls in classes():
        assert cls("x").exit_code == (2 if issubclass(cls, InputError) else 1), cls
    assert TrainingError("x").exit_code == 1


def test_the_docstring_draws_every_class():
    for cls in classes():
        assert f"{cls.__name__} " in (errors.__doc__ or ""), cls


def test_catching_the_root_catches_all():
    for cls in classes():
        with pytest.raises(MonoscopeError, match="x"):
            raise cls("x")


def test_nearest():
    assert nearest("d_sea", ["d_sae", "k", "lr"]) == "d_sae"
    assert nearest("zzz", ["d_sae", "k", "lr"]) is None
    assert nearest("k", []) is None

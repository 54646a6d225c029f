"""Bodies of requests: nothing in them is dropped in silence."""

from __future__ import annotations

import pytest

from nas.core.errors import InvalidData
from predictors.onboarding.tables import read_table
from server.api.limits import json_problem


@pytest.mark.parametrize("body", [b'{"a": 1, "a": 2}', b'[{"b": {"a": 1, "c": 2, "a": 1}}]'])
def test_a_key_given_twice_is_refused(body: bytes) -> None:
    assert json_problem(body) == "expected every key of an object once, got 'a' more than once"


def test_other_bodies_have_no_problem() -> None:
    assert json_problem(b'{"a": {"b": 1}, "b": [{"a": 1}, {"a": 1}]}') is None
    assert json_problem(b"{") is None  # malformed, which the route reports


def test_a_column_given_twice_is_refused() -> None:
    with pytest.raises(InvalidData, match="distinct column names"):
        read_table(b'{"arch": ["0-0-0"], "ms": [1.0], "ms": [2.0]}', "json")

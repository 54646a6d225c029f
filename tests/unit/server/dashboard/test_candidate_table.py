"""The order of the rows of the table of candidates."""

from __future__ import annotations

import pytest

from server.dashboard.search.candidate_table import in_order

ROWS = [
    {"key": "a", "ms": 3.0},
    {"key": "b"},
    {"key": "c", "ms": 1.0},
    {"key": "d", "ms": None},
    {"key": "e", "ms": 2.0},
]


@pytest.mark.parametrize(
    ("column", "descending", "keys"),
    [(None, False, "abcde"), ("ms", False, "ceabd"), ("ms", True, "aecbd"), ("key", True, "edcba")],
)
def test_rows_without_a_value_are_last_in_either_order(column: str | None, descending: bool, keys: str) -> None:
    assert "".join(row["key"] for row in in_order(ROWS, column, descending=descending)) == keys

"""Assertions on errors without a test framework."""

from __future__ import annotations

from collections.abc import Callable


def assert_raises(kind: type[Exception], call: Callable[[], object], containing: str = "") -> None:
    """Assert that ``call`` raises an error of a kind whose message contains a text."""
    try:
        call()
    except kind as error:
        if containing not in str(error):
            raise AssertionError(f"expected {containing!r} in the message, got: {error}") from error
        return
    raise AssertionError(f"expected {kind.__name__}, nothing was raised")

"""Waiting for a condition with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from nas.client import Unreachable

T = TypeVar("T")


def wait_for(poll: Callable[[], T | None], seconds: float) -> T:
    """The first answer that is not None; polls, since another process is waited for."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if (answer := poll()) is not None:
                return answer
        except Unreachable:
            pass
        time.sleep(0.2)
    raise AssertionError(f"nothing happened within {seconds} s")

"""Blocking calls of the service's client from the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from nicegui import run

P = ParamSpec("P")
T = TypeVar("T")


async def call_service(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run ``call`` in a thread, so that no page waits for the answer of another. ``call`` may not return None.

    Raises CancelledError while the server shuts down, which NiceGUI reports as None.
    """
    answer = await run.io_bound(call, *args, **kwargs)
    if answer is None:
        raise asyncio.CancelledError
    return answer

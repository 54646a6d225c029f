"""The clock of the database. Leases and heartbeats are compared by it alone, so hosts need no clocks that agree."""

from __future__ import annotations

import time
from collections.abc import Callable

from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

DatabaseClock = Callable[[Session], float]
"""Seconds since 1970 as the database of the session has them."""


def database_clock(engine: Engine, clock: Callable[[], float] | None = None) -> DatabaseClock:
    """The server's clock for PostgreSQL; for SQLite, which has none, that of this host. ``clock`` replaces both."""
    if clock is None and engine.dialect.name == "postgresql":
        return _server_time
    host_clock = clock or time.time
    return lambda _session: host_clock()


def _server_time(session: Session) -> float:
    return float(session.execute(select(func.extract("epoch", func.clock_timestamp()))).scalar_one())

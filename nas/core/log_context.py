"""The job that the current thread works on, as a field for log records."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

current_job: ContextVar[str | None] = ContextVar("current_job", default=None)


@contextmanager
def job_context(job_id: str) -> Iterator[None]:
    """Attribute log records of this thread to a job while the block runs. A new thread starts without a job."""
    token = current_job.set(job_id)
    try:
        yield
    finally:
        current_job.reset(token)

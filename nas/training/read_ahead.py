"""Batches that threads read before the step that needs them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")
THREADS = 2
_LIMIT = 16  # batches, or their parts, that wait: those of positions that nobody came to are dropped


class ReadAhead(Generic[T]):
    """Results by key, each computed once by a thread, in the order in which they were asked for."""

    def __init__(self) -> None:
        self._pending: OrderedDict[Hashable, Future[T]] = OrderedDict()
        self._pool: ThreadPoolExecutor | None = None

    def begin(self, key: Hashable, read: Callable[[], T]) -> None:
        """Begin to read, unless it was begun."""
        if key in self._pending:
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="read ahead")
        self._pending[key] = self._pool.submit(read)
        while len(self._pending) > _LIMIT:
            _, unneeded = self._pending.popitem(last=False)
            unneeded.cancel()

    def take(self, key: Hashable, read: Callable[[], T]) -> T:
        """What was begun under the key, once it is there, or what is read now. Raises what reading raises."""
        future = self._pending.pop(key, None)
        return read() if future is None else future.result()

    def close(self) -> None:
        """Wait for what is being read, and drop it."""
        self._pending.clear()
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None

"""Checks that may hang: each has a deadline, and one that hangs blocks neither callers nor the end of the process."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as Late
from typing import Generic, TypeVar

from nas.core.errors import HwnasError, StorageError

log = logging.getLogger(__name__)
T = TypeVar("T")


class Probe(Generic[T]):
    """A check in a thread of its own. While an answer is on its way, whoever asks waits for that same one: a check that
    hangs takes one thread, however often it is asked for."""

    def __init__(self, name: str, check: Callable[[], T]) -> None:
        self.name = name
        self._check = check
        self._lock = threading.Lock()
        self._pending: Future[T] | None = None

    def ask(self) -> Future[T]:
        """The answer that is on its way, else a new one; it may hold the check's error."""
        with self._lock:
            if self._pending is None or self._pending.done():
                self._pending = Future()
                # A daemon, since a pool's threads would be waited for when the process ends.
                threading.Thread(
                    target=self._run, args=(self._pending,), name=f"probe {self.name}", daemon=True
                ).start()
            return self._pending

    def _run(self, answer: Future[T]) -> None:
        try:
            answer.set_result(self._check())
        except HwnasError as error:
            answer.set_exception(error)
        except OSError as error:
            answer.set_exception(StorageError(error.strerror or str(error)))
        except Exception as error:
            log.exception("the check of %s failed", self.name)
            answer.set_exception(StorageError(f"{type(error).__name__}: {error}"))


def ask_all(probes: Mapping[str, Probe[T]], seconds: float) -> dict[str, T | HwnasError]:
    """What every check says, or why it failed, within ``seconds`` for all of them together."""
    answers = {name: probe.ask() for name, probe in probes.items()}
    until = time.monotonic() + seconds
    results: dict[str, T | HwnasError] = {}
    for name, answer in answers.items():
        try:
            results[name] = answer.result(max(0.0, until - time.monotonic()))
        except Late:
            results[name] = StorageError(f"no answer within {seconds:g} s")
        except HwnasError as error:
            results[name] = error
    return results

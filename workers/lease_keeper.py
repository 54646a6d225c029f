"""Renew the leases of all jobs that run under one dispatcher, in one transaction, however silent the jobs are."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from nas.core.errors import StorageError
from nas.core.jobs import LeaseToken
from workers.attempt import AttemptRunner

log = logging.getLogger(__name__)

INTERVAL_S = 1.0  # longest time between two renewals: how soon a silent job learns that it was cancelled


class LeaseStore(Protocol):
    """The part of a job store that renews leases."""

    def renew(self, leases: Collection[LeaseToken], seconds: float) -> Sequence[LeaseToken]:
        """Renew leases for so many seconds. Returns those that hold no longer."""


class LeaseKeeper:
    """Renews the leases of registered attempts in a thread of its own, which waits neither for the cluster nor for
    claims. An attempt whose lease is over is aborted. ``clock`` gives monotonic seconds."""

    def __init__(self, store: LeaseStore, lease_seconds: float, clock: Callable[[], float]) -> None:
        self._store = store
        self._lease_seconds = lease_seconds
        self._clock = clock
        self._attempts: dict[LeaseToken, AttemptRunner] = {}
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="leases", daemon=True)

    def start(self) -> None:
        """Begin to renew."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread, once no attempt needs its lease any more."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def add(self, lease: LeaseToken, attempt: AttemptRunner) -> None:
        """Renew a lease from now on."""
        with self._lock:
            self._attempts[lease] = attempt

    def remove(self, lease: LeaseToken) -> None:
        """Renew a lease no longer."""
        with self._lock:
            self._attempts.pop(lease, None)

    def renew(self) -> None:
        """Renew all leases once. Raises StorageError if the database cannot be used."""
        with self._lock:
            attempts = dict(self._attempts)
        if not attempts:
            return
        began = self._clock()
        lost = set(self._store.renew(attempts.keys(), self._lease_seconds))
        for lease, attempt in attempts.items():
            if lease in lost:
                attempt.abort("lost", "its lease is over")
            else:
                attempt.lease_deadline = began + self._lease_seconds

    def _run(self) -> None:
        failed = False
        while not self._stopping.wait(min(INTERVAL_S, self._lease_seconds / 3)):
            try:
                self.renew()
                failed = False
            except StorageError as error:
                if not failed:
                    log.error("leases cannot be renewed, retrying: %s", error)
                failed = True

"""Changes of jobs as they are committed, by any process: nobody has to read the database again and again.

PostgreSQL sends a notification with each transaction that writes events. SQLite has none: one thread in a process looks
at the number that SQLite changes with every commit, and only then at the jobs that somebody follows.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

from nas.core.errors import StorageError
from server.store.database import at_end, translated_errors

log = logging.getLogger(__name__)

CHANNEL = "hwnas_jobs"
POLL_S = 0.1  # between two looks at an SQLite file
RETRY_S = 1.0  # while the database is unavailable
_LISTEN_S = 0.5  # of one wait for notifications; a closing process waits as long at most
_PENDING = "changed jobs"  # in ``Session.info``
_BATCH_SIZE = 500

Notify = Callable[[], None]


def note_change(session: Session, job_id: str) -> None:
    """Tell followers of a job, once this transaction is committed, that its log has grown."""
    session.info.setdefault(_PENDING, set()).add(job_id)
    at_end(session, _send)


def _send(session: Session) -> None:
    changed: set[str] = session.info.pop(_PENDING)
    if session.get_bind().dialect.name == "postgresql":
        for job_id in sorted(changed):
            session.execute(select(func.pg_notify(CHANNEL, job_id)))


class JobChanges:
    """Calls subscribers when their jobs have changed. Its one thread runs while there are subscribers."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._subscribers: dict[str, list[Notify]] = defaultdict(list)
        self._new: set[str] = set()  # jobs that the thread has not looked at yet
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    @contextmanager
    def subscribed(self, job_id: str, notify: Notify) -> Iterator[None]:
        """While the block lasts, call ``notify`` in another thread whenever the job's log grows or the job is deleted,
        and sometimes without a reason. Whoever reads the job after subscribing misses nothing."""
        with self._lock:
            self._subscribers[job_id].append(notify)
            self._new.add(job_id)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="changes of jobs", daemon=True)
                self._thread.start()
        try:
            yield
        finally:
            with self._lock:
                self._subscribers[job_id].remove(notify)
                if not self._subscribers[job_id]:
                    del self._subscribers[job_id]

    def close(self) -> None:
        """End the thread, if any."""
        self._closed.set()
        if (thread := self._thread) is not None:
            thread.join()

    def _run(self) -> None:
        follow = self._listen if self._engine.dialect.name == "postgresql" else self._poll
        failed = False
        while True:
            try:
                with translated_errors():
                    follow()
                return
            except StorageError as error:
                if not failed:
                    log.warning("changes of jobs cannot be followed, retrying: %s", error)
                failed = True
            self._closed.wait(RETRY_S)
            if self._ended():
                return
            self._notify(self._jobs())  # what happened meanwhile is not known

    def _ended(self) -> bool:
        """Whether the thread has to end. If nobody is subscribed, the next subscriber starts another one."""
        with self._lock:
            if not self._subscribers:
                self._thread = None
            return self._closed.is_set() or self._thread is None

    def _listen(self) -> None:
        """Follow PostgreSQL until the thread has to end."""
        import psycopg  # an optional dependency

        with self._own_connection() as connection:
            try:
                connection.autocommit = True
                connection.execute(f"LISTEN {CHANNEL}")
                while not self._ended():
                    self._notify(self._take_new())
                    for notification in connection.notifies(timeout=_LISTEN_S, stop_after=1):
                        self._notify([notification.payload])
            except psycopg.Error as error:
                raise StorageError(f"the database cannot be followed: {error}") from error

    def _poll(self) -> None:
        """Follow an SQLite file until the thread has to end."""
        last_seqs: dict[str, int] = {}
        version = -1
        with self._own_connection() as connection:
            while not self._ended():
                new = self._take_new()
                before, version = version, _data_version(connection)
                if version != before or new:
                    jobs = self._jobs()
                    current = _last_seqs(connection, jobs)
                    self._notify([job for job in jobs if job in new or current.get(job) != last_seqs.get(job)])
                    last_seqs = current
                self._closed.wait(POLL_S)

    @contextmanager
    def _own_connection(self) -> Iterator[Any]:
        """A connection of the driver, outside the pool."""
        pooled = self._engine.raw_connection()
        connection = pooled.driver_connection
        pooled.detach()
        try:
            yield connection
        finally:
            pooled.close()

    def _jobs(self) -> list[str]:
        with self._lock:
            return list(self._subscribers)

    def _take_new(self) -> set[str]:
        with self._lock:
            new, self._new = self._new, set()
            return new

    def _notify(self, jobs: Collection[str]) -> None:
        with self._lock:
            subscribers = [notify for job in jobs for notify in self._subscribers.get(job, ())]
        for notify in subscribers:
            notify()


def _data_version(connection: sqlite3.Connection) -> int:
    """A number that changes with every commit of another connection."""
    try:
        return int(connection.execute("PRAGMA data_version").fetchone()[0])
    except sqlite3.Error as error:
        raise StorageError(f"the database cannot be followed: {error}") from error


def _last_seqs(connection: sqlite3.Connection, jobs: list[str]) -> dict[str, int]:
    """The number of the last event of each job that exists."""
    last_seqs: dict[str, int] = {}
    try:
        for start in range(0, len(jobs), _BATCH_SIZE):
            batch = jobs[start : start + _BATCH_SIZE]
            query = f"SELECT id, last_seq FROM jobs WHERE id IN ({', '.join('?' * len(batch))})"
            last_seqs |= dict(connection.execute(query, batch).fetchall())
    except sqlite3.Error as error:
        raise StorageError(f"the database cannot be followed: {error}") from error
    return last_seqs

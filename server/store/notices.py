"""Which ended searches webhooks are still to be told of. Each is told at least once."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Engine, delete, select

from server.store.clock import DatabaseClock
from server.store.database import writing
from server.store.models import NoticeRow

MOST_ATTEMPTS = 8
FIRST_DELAY_S = 15.0  # doubled with every attempt: the last one is half an hour after the one before
OLDEST_S = 24 * 3600.0  # what ended before is told to nobody, such as to a webhook that is set later


@dataclass(frozen=True)
class Notice:
    """A search has ended with its event ``seq``."""

    search_id: str
    seq: int


class Notices:
    """The notices of one database."""

    def __init__(self, engine: Engine, clock: DatabaseClock) -> None:
        self._engine = engine
        self._clock = clock

    def take(self) -> Notice | None:
        """A notice that is due, None if none is. It is due again later unless it is ``settle``d, so that another
        replica does not send it at the same time, and a receiver that is down is tried again."""
        with writing(self._engine) as session:
            now = self._clock(session)
            session.execute(
                delete(NoticeRow).where((NoticeRow.at < now - OLDEST_S) | (NoticeRow.attempts >= MOST_ATTEMPTS))
            )
            due = select(NoticeRow).where(NoticeRow.next_at <= now).order_by(NoticeRow.next_at).limit(1)
            row = session.scalar(due.with_for_update(skip_locked=True))
            if row is None:
                return None
            row.next_at = now + FIRST_DELAY_S * 2**row.attempts
            row.attempts += 1
            return Notice(row.job_id, row.seq)

    def settle(self, notice: Notice) -> None:
        """Every webhook has been told."""
        with writing(self._engine) as session:
            session.execute(delete(NoticeRow).where(NoticeRow.job_id == notice.search_id, NoticeRow.seq == notice.seq))

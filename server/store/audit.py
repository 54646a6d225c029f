"""The audit trail: who did what. A record is written in the transaction of the action."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from nas.core.access import Principal
from nas.schemas.administration import AuditPage, AuditRecordSchema
from server.store.cursors import read_cursor, utc, write_cursor
from server.store.database import reading
from server.store.models import AuditRow


def record(session: Session, by: Principal, action: str, target: str, now: float, **detail: Any) -> None:
    """Add a record to the current transaction. ``action`` is a verb and its object, such as ``cancel search``."""
    session.add(
        AuditRow(
            at=now,
            owner=by.owner,
            token_id=by.token_id,
            address=by.address,
            action=action,
            target=target,
            detail=detail,
        )
    )


class Audit:
    """Reads the audit trail."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def page(self, limit: int, cursor: str | None = None, owner: str | None = None) -> AuditPage:
        """Return records, newest first; of one owner, if given. Raises InvalidInput for an invalid cursor."""
        query = select(AuditRow).order_by(AuditRow.id.desc())
        if owner is not None:
            query = query.where(AuditRow.owner == owner)
        if cursor is not None:
            query = query.where(AuditRow.id < read_cursor(cursor, int)[0])
        with reading(self._engine) as session:
            rows = session.scalars(query.limit(limit + 1)).all()
        items = [
            AuditRecordSchema(
                id=row.id,
                at=utc(row.at),
                owner=row.owner,
                token=row.token_id,
                address=row.address,
                action=row.action,
                target=row.target,
                detail=row.detail,
            )
            for row in rows[:limit]
        ]
        return AuditPage(items=items, next=write_cursor(items[-1].id) if len(rows) > limit else None)

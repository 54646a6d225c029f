"""Sessions: logins of the dashboard. A session authenticates as its token does, ends with it, and can be ended alone.

The text of a session is ``hwnas_session_<id>_<secret>``; only the sha256 of the secret is stored.
"""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import Callable

from sqlalchemy import Engine, delete
from sqlalchemy.orm import Session

from nas.core.access import Principal
from nas.core.errors import InvalidInput, Unauthorised
from server.store import audit
from server.store.database import reading, writing
from server.store.models import SessionRow, TokenRow
from server.store.tokens import hash_secret, is_valid, principal_of

SESSION_PREFIX = "hwnas_session_"
LIFETIME_S = 30 * 24 * 3600.0
_SESSION = re.compile(rf"{SESSION_PREFIX}([0-9a-f]{{12}})_([A-Za-z0-9_-]{{43}})")


class TokenSessions:
    """Opens, verifies and ends sessions. ``clock`` gives seconds since 1970."""

    def __init__(self, engine: Engine, clock: Callable[[], float]) -> None:
        self._engine = engine
        self._clock = clock

    def open(self, by: Principal) -> tuple[str, float]:
        """Open a session with the token of a caller; return its text, which is not stored, and when it expires.

        Sessions that have expired are removed. Raises InvalidInput for a caller without a token, or with a session.
        """
        if by.token_id is None or by.session_id is not None:
            raise InvalidInput(
                "expected a token to open a session with, got "
                + ("a local caller, who needs none" if by.token_id is None else "a session")
            )
        session_id, secret, now = secrets.token_hex(6), secrets.token_urlsafe(32), self._clock()
        with writing(self._engine) as session:
            session.execute(delete(SessionRow).where(SessionRow.expires_at <= now))
            token = session.get_one(TokenRow, by.token_id)
            expires_at = min(now + LIFETIME_S, token.expires_at or now + LIFETIME_S)
            session.add(
                SessionRow(
                    id=session_id,
                    token_id=by.token_id,
                    secret_hash=hash_secret(secret),
                    created_at=now,
                    expires_at=expires_at,
                )
            )
            audit.record(session, by, "open session", session_id, now)
        return f"{SESSION_PREFIX}{session_id}_{secret}", expires_at

    def authenticate(self, text: str, address: str | None = None) -> Principal:
        """Return the principal of a session. Raises Unauthorised."""
        match = _SESSION.fullmatch(text)
        with reading(self._engine) as session:
            row = session.get(SessionRow, match[1]) if match is not None else None
            token = self._valid_token(session, row)
        expected = row.secret_hash if row is not None else hash_secret("")
        matches = hmac.compare_digest(expected, hash_secret(match[2] if match is not None else text))
        if row is None or token is None or not matches:
            raise Unauthorised("the session has ended: log in again")
        return principal_of(token, address, row.id)

    def holds(self, session_id: str) -> bool:
        """Whether a session has neither ended nor expired, and its token is valid."""
        with reading(self._engine) as session:
            return self._valid_token(session, session.get(SessionRow, session_id)) is not None

    def end(self, by: Principal) -> None:
        """End the session of a caller. Raises InvalidInput for a caller without one."""
        if by.session_id is None:
            raise InvalidInput("expected a session to end, got a caller without one")
        with writing(self._engine) as session:
            session.execute(delete(SessionRow).where(SessionRow.id == by.session_id))
            audit.record(session, by, "end session", by.session_id, self._clock())

    def _valid_token(self, session: Session, row: SessionRow | None) -> TokenRow | None:
        """The token of a session, if both are valid."""
        now = self._clock()
        if row is None or row.expires_at <= now:
            return None
        token = session.get_one(TokenRow, row.token_id)
        return token if is_valid(token, now) else None

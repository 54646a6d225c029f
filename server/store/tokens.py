"""API tokens. The text of a token is ``hwnas_<id>_<secret>``; only the sha256 of the secret is stored."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Callable, Sequence

from sqlalchemy import Engine, and_, or_, select
from sqlalchemy.orm import Session

from nas.core.access import SCOPES, Principal, Scope
from nas.core.errors import InvalidInput, NotFound, Unauthorised
from nas.schemas.administration import TokenSchema
from server.store import audit
from server.store.cursors import utc
from server.store.database import reading, writing
from server.store.models import TokenRow

LAST_USED_RESOLUTION_S = 60.0
_TOKEN = re.compile(r"hwnas_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")
_OWNER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_INVALID = "the token is not valid: unknown, expired or revoked"


class Tokens:
    """Creates, verifies and revokes tokens. ``clock`` gives seconds since 1970."""

    def __init__(self, engine: Engine, clock: Callable[[], float]) -> None:
        self._engine = engine
        self._clock = clock

    def create(
        self,
        owner: str,
        name: str,
        scopes: Sequence[Scope],
        expires_at: float | None,
        by: Principal,
        device: str | None = None,
    ) -> tuple[TokenSchema, str]:
        """Create a token; return it with its text, which is not stored. Raises InvalidInput for an invalid owner,
        missing or unknown scopes, a scope ``agent`` that is not alone with a ``device``, or an expiry in the past."""
        if not _OWNER.fullmatch(owner):
            raise InvalidInput(
                f"expected an owner of up to 64 letters, digits, dots, dashes, underscores or @, got {owner!r}"
            )
        unknown = set(scopes) - set(SCOPES)
        if unknown or not scopes:
            problem = ", ".join(sorted(unknown)) or "none"
            raise InvalidInput(f"expected one or more of the scopes {', '.join(SCOPES)}, got {problem}")
        if ("agent" in scopes) != (device is not None) or (device is not None and set(scopes) != {"agent"}):
            raise InvalidInput(
                "expected the scope 'agent' alone, with the device that the token is for, or other scopes without a "
                f"device; got {', '.join(scopes)} {'without a device' if device is None else f'for device {device!r}'}"
            )
        now = self._clock()
        if expires_at is not None and expires_at <= now:
            raise InvalidInput(f"expected an expiry in the future, got {utc(expires_at):%Y-%m-%d %H:%M} UTC")
        token_id, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
        with writing(self._engine) as session:
            row = TokenRow(
                id=token_id,
                owner=owner,
                name=name,
                secret_hash=hash_secret(secret),
                scopes=sorted(set(scopes)),
                created_at=now,
                expires_at=expires_at,
                device=device,
            )
            session.add(row)
            bound = {"device": device} if device is not None else {}
            audit.record(session, by, "create token", token_id, now, owner=owner, name=name, scopes=row.scopes, **bound)
            session.flush()
            return _view(row), f"hwnas_{token_id}_{secret}"

    def authenticate(self, text: str, address: str | None = None) -> Principal:
        """Return the principal of a token. Raises Unauthorised."""
        match = _TOKEN.fullmatch(text)
        if match is None:
            raise Unauthorised("expected a token such as hwnas_..., as `nas tokens create` prints it")
        with reading(self._engine) as session:
            row = session.get(TokenRow, match[1])
        now = self._clock()
        expected = row.secret_hash if row is not None else hash_secret("")
        if not hmac.compare_digest(expected, hash_secret(match[2])) or row is None or not is_valid(row, now):
            raise Unauthorised(_INVALID)
        if row.last_used_at is None or now - row.last_used_at >= LAST_USED_RESOLUTION_S:
            with writing(self._engine) as session:
                session.get_one(TokenRow, row.id).last_used_at = now
        return principal_of(row, address)

    def holds(self, token_id: str) -> bool:
        """Whether a token is neither revoked nor expired."""
        with reading(self._engine) as session:
            row = session.get(TokenRow, token_id)
            return row is not None and is_valid(row, self._clock())

    def revoke(self, token_id: str, by: Principal) -> None:
        """Revoke a token for good. Raises NotFound."""
        with writing(self._engine) as session:
            row = session.get(TokenRow, token_id, with_for_update=True)
            if row is None:
                raise NotFound(f"no token {token_id!r}")
            if row.revoked_at is None:
                row.revoked_at = self._clock()
                audit.record(session, by, "revoke token", token_id, row.revoked_at, owner=row.owner, name=row.name)

    def list(self) -> list[TokenSchema]:
        """Return all tokens, newest first, including revoked ones."""
        with reading(self._engine) as session:
            return [_view(row) for row in session.scalars(select(TokenRow).order_by(TokenRow.created_at.desc()))]

    def any_valid(self) -> bool:
        """Whether a valid token exists."""
        with reading(self._engine) as session:
            return _any_valid(session, self._clock())


def _any_valid(session: Session, now: float) -> bool:
    valid = and_(TokenRow.revoked_at.is_(None), or_(TokenRow.expires_at.is_(None), TokenRow.expires_at > now))
    return session.scalars(select(TokenRow.id).where(valid).limit(1)).first() is not None


def is_valid(row: TokenRow, now: float) -> bool:
    """Whether a token is neither revoked nor expired."""
    return row.revoked_at is None and (row.expires_at is None or now < row.expires_at)


def principal_of(row: TokenRow, address: str | None, session_id: str | None = None) -> Principal:
    """The caller who has a token, or a session that was opened with it."""
    scopes: frozenset[Scope] = frozenset(s for s in SCOPES if s in row.scopes)
    return Principal(row.owner, scopes, row.id, address, row.device, session_id)


def hash_secret(secret: str) -> str:
    """What is stored of a secret."""
    return hashlib.sha256(secret.encode()).hexdigest()


def _view(row: TokenRow) -> TokenSchema:
    return TokenSchema(
        id=row.id,
        owner=row.owner,
        name=row.name,
        scopes=[s for s in SCOPES if s in row.scopes],
        created_at=utc(row.created_at),
        expires_at=utc(row.expires_at) if row.expires_at is not None else None,
        revoked_at=utc(row.revoked_at) if row.revoked_at is not None else None,
        last_used_at=utc(row.last_used_at) if row.last_used_at is not None else None,
        device=row.device,
    )

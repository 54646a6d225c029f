"""The caller's identity, and what administrators manage: tokens, quotas and the audit log."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Response

from nas.schemas.administration import (
    AuditPage,
    CreatedTokenSchema,
    PrincipalSchema,
    QuotaLimits,
    QuotaSchema,
    SessionSchema,
    TokenBody,
    TokenSchema,
)
from server.api.access import CurrentPrincipal
from server.api.context import CurrentStore
from server.api.errors import responses
from server.api.parameters import Cursor
from server.store.cursors import utc

router = APIRouter(tags=["administration"])


@router.get("/me", summary="The authenticated caller")
def me(store: CurrentStore, principal: CurrentPrincipal) -> PrincipalSchema:
    """Owner, scopes, token and quota of the caller."""
    return PrincipalSchema(
        owner=principal.owner,
        scopes=sorted(principal.scopes),
        token=principal.token_id,
        device=principal.device,
        quota=store.quotas.view(principal.owner),
    )


@router.get("/tokens", summary="List API tokens")
def list_tokens(store: CurrentStore) -> list[TokenSchema]:
    """Newest first, without their secrets."""
    return store.tokens.list()


@router.post("/tokens", status_code=201, summary="Create a token", responses=responses(400, 413, 507))
def create_token(body: TokenBody, store: CurrentStore, principal: CurrentPrincipal) -> CreatedTokenSchema:
    """The only response that ever contains the secret."""
    expires_at = body.expires_at.timestamp() if body.expires_at is not None else None
    token, secret = store.tokens.create(body.owner, body.name, body.scopes, expires_at, principal, body.device)
    return CreatedTokenSchema(**token.model_dump(), secret=secret)


@router.delete("/tokens/{id}", status_code=204, summary="Revoke a token", responses=responses(404, 507))
def revoke_token(id: str, store: CurrentStore, principal: CurrentPrincipal) -> Response:
    """Reject the token from now on."""
    store.tokens.revoke(id, principal)
    return Response(status_code=204)


@router.post("/sessions", status_code=201, summary="Open a session", responses=responses(507))
def open_session(store: CurrentStore, principal: CurrentPrincipal) -> SessionSchema:
    """What the dashboard's login keeps in its cookie in place of the token that opened it."""
    secret, expires_at = store.sessions.open(principal)
    return SessionSchema(secret=secret, expires_at=utc(expires_at))


@router.delete("/sessions/current", status_code=204, summary="End the session", responses=responses(507))
def end_session(store: CurrentStore, principal: CurrentPrincipal) -> Response:
    """Reject the session that this request came with from now on. Its token remains valid."""
    store.sessions.end(principal)
    return Response(status_code=204)


@router.get("/quotas", summary="Limits and use of all owners")
def list_quotas(store: CurrentStore) -> list[QuotaSchema]:
    """The owner `*` holds the default limits, for every owner without limits of their own."""
    return store.quotas.views()


@router.put("/quotas/{owner}", summary="Set an owner's limits", responses=responses(400, 413, 507))
def set_quota(
    owner: Annotated[str, Path(min_length=1, max_length=64)],
    body: QuotaLimits,
    store: CurrentStore,
    principal: CurrentPrincipal,
) -> QuotaSchema:
    """Replace all three limits; null means no limit."""
    return store.quotas.set(owner, body, principal)


@router.get("/audit", summary="The audit log")
def list_audit(
    store: CurrentStore,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
    cursor: Cursor = None,
    owner: str | None = None,
) -> AuditPage:
    """Newest first."""
    return store.audit.page(limit, cursor, owner)

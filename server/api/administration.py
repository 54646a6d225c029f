"""Who am I, and what administrators do: tokens, quotas, the audit trail."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Response

from nas.schemas.administration import (
    AuditPage,
    CreatedTokenSchema,
    PrincipalSchema,
    QuotaBody,
    QuotaSchema,
    TokenBody,
    TokenSchema,
)
from server.api.access import By
from server.api.errors import responses
from server.api.parameters import Cursor
from server.store.store import Store


def routes(store: Store) -> APIRouter:
    """The routes of administration."""
    router = APIRouter(tags=["administration"])

    @router.get("/me", summary="Who am I?")
    def me(by: By) -> PrincipalSchema:
        """Whom the service takes you for, what you may do, and your quota."""
        return PrincipalSchema(
            owner=by.owner, scopes=sorted(by.scopes), token=by.token_id, quota=store.quotas.view(by.owner)
        )

    @router.get("/tokens", summary="All API tokens")
    def tokens() -> list[TokenSchema]:
        """Newest first, without their secrets."""
        return store.tokens.list()

    @router.post("/tokens", status_code=201, summary="Make a token", responses=responses(400, 413, 507))
    def create(body: TokenBody, by: By) -> CreatedTokenSchema:
        """The only answer that ever holds its secret."""
        expires_at = body.expires_at.timestamp() if body.expires_at is not None else None
        view, secret = store.tokens.create(body.owner, body.name, body.scopes, expires_at, by)
        return CreatedTokenSchema(**view.model_dump(), secret=secret)

    @router.delete("/tokens/{id}", status_code=204, summary="Revoke a token", responses=responses(404, 507))
    def revoke(id: str, by: By) -> Response:
        """From now on it lets nobody in."""
        store.tokens.revoke(id, by)
        return Response(status_code=204)

    @router.get("/quotas", summary="Limits and use of all owners")
    def quotas() -> list[QuotaSchema]:
        """The owner `*` holds the limits of everybody who has none of their own."""
        return store.quotas.views()

    @router.put("/quotas/{owner}", summary="Set an owner's limits", responses=responses(400, 413, 507))
    def set_quota(owner: Annotated[str, Path(min_length=1, max_length=64)], body: QuotaBody, by: By) -> QuotaSchema:
        """All three limits; null: none."""
        return store.quotas.set(owner, body, by)

    @router.get("/audit", summary="Who did what")
    def audit(
        limit: Annotated[int, Query(ge=1, le=500)] = 100, cursor: Cursor = None, owner: str | None = None
    ) -> AuditPage:
        """Newest first."""
        return store.audit.page(limit, cursor, owner)

    return router

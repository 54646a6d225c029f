"""REST schemas of the caller, tokens, quotas and the audit log."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import AwareDatetime, BaseModel, Field

from nas.core.access import Scope
from nas.schemas.common import Page


class PrincipalSchema(BaseModel):
    """Who the service takes you for, what you may do, and what is left of your quota."""

    owner: str
    scopes: list[Scope]
    token: str | None
    quota: QuotaSchema


class QuotaSchema(BaseModel):
    """Limits of one owner, None: no limit; and what is used of them."""

    owner: str
    max_queued: int | None
    max_running: int | None
    gpu_hours: float | None
    queued: int = 0
    running: int = 0
    gpu_hours_used: float = 0.0


class QuotaBody(BaseModel):
    """New limits of an owner, all three; None: no limit."""

    model_config = {"extra": "forbid"}
    max_queued: int | None = Field(default=None, ge=0)
    max_running: int | None = Field(default=None, ge=0)
    gpu_hours: float | None = Field(default=None, ge=0, allow_inf_nan=False)


class TokenSchema(BaseModel):
    """An API token, short of its secret."""

    id: str
    owner: str
    name: str
    scopes: list[Scope]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


class TokenBody(BaseModel):
    """A token to make. It acts for ``owner`` within ``scopes`` until ``expires_at`` (None: until it is revoked)."""

    model_config = {"extra": "forbid"}
    owner: str = Field(min_length=1, max_length=120)
    name: str = Field(min_length=1, max_length=120)
    scopes: list[Scope] = Field(min_length=1)
    expires_at: AwareDatetime | None = None


class CreatedTokenSchema(TokenSchema):
    """A token just made, with its secret: the only time that it is shown."""

    secret: str


class AuditRecordSchema(BaseModel):
    """Who did what to what, and from where."""

    id: int
    at: datetime
    owner: str
    token: str | None
    address: str | None
    action: str
    target: str
    detail: dict[str, Any] = {}


class AuditPage(Page):
    """Audit records, newest first."""

    items: list[AuditRecordSchema]

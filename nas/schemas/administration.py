"""REST schemas of the caller, tokens, quotas and the audit log."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from nas.core.access import Scope
from nas.core.spec import Name, NumbersModel
from nas.schemas.common import Page


class PrincipalSchema(BaseModel):
    """The authenticated caller, with scopes and quota. ``device``: the only one that an agent's token is for."""

    owner: str
    scopes: list[Scope]
    token: str | None
    device: str | None = None
    quota: QuotaSchema


class QuotaLimits(NumbersModel):
    """The limits of an owner; None means no limit."""

    model_config = ConfigDict(extra="forbid")
    max_queued: int | None = Field(default=None, ge=0)
    max_running: int | None = Field(default=None, ge=0)
    gpu_hours: float | None = Field(default=None, ge=0, allow_inf_nan=False)


class QuotaSchema(QuotaLimits):
    """The limits of one owner and their use."""

    model_config = ConfigDict(extra="ignore")  # a newer service may say more
    owner: str
    queued: int = 0
    running: int = 0
    gpu_hours_used: float = 0.0


class TokenSchema(BaseModel):
    """An API token, without its secret."""

    id: str
    owner: str
    name: str
    scopes: list[Scope]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    device: str | None = None


class TokenBody(BaseModel):
    """A token to create. It acts for ``owner`` within ``scopes`` until ``expires_at`` (None: until it is revoked).

    The scope ``agent`` stands alone, with the name of the only ``device`` that the token is for.
    """

    model_config = ConfigDict(extra="forbid")
    owner: str = Field(min_length=1, max_length=120)
    name: str = Field(min_length=1, max_length=120)
    scopes: list[Scope] = Field(min_length=1)
    expires_at: AwareDatetime | None = None
    device: Name | None = None


class CreatedTokenSchema(TokenSchema):
    """A created token with its secret, which no other response contains."""

    secret: str


class SessionSchema(BaseModel):
    """A session of the dashboard with its secret, which authenticates like the token it was opened with until
    ``expires_at``, or until it or the token is ended."""

    secret: str
    expires_at: datetime


class AuditRecordSchema(BaseModel):
    """An action of an owner on a target, with the address it came from."""

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

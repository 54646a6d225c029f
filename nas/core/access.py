"""Authenticated callers and their scopes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from nas.core.errors import Forbidden

Scope = Literal["read", "submit", "device", "agent", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
_IMPLIED_BY: Mapping[Scope, frozenset[Scope]] = {
    "read": frozenset({"submit", "device"}),
    "agent": frozenset({"device"}),
}
LOCAL_OWNER = "local"


@dataclass(frozen=True)
class Principal:
    """An authenticated caller. The scope ``admin`` includes all others and shows every owner's searches.

    ``token_id`` is None for a local caller, who needs no token. ``address`` is the client's network address.
    ``device``: the only one that an agent's token is for. ``session_id``: the login of the dashboard, if it is one.
    """

    owner: str
    scopes: frozenset[Scope] = field(default_factory=frozenset)
    token_id: str | None = None
    address: str | None = None
    device: str | None = None
    session_id: str | None = None

    @property
    def is_admin(self) -> bool:
        """Whether the caller has the scope ``admin``."""
        return "admin" in self.scopes

    def has_scope(self, scope: Scope) -> bool:
        """Whether ``scope`` is granted; ``submit`` and ``device`` imply ``read``, and ``device`` implies ``agent``."""
        return self.is_admin or scope in self.scopes or bool(self.scopes & _IMPLIED_BY.get(scope, frozenset()))

    def may_change(self, owner: str) -> bool:
        """Whether the caller may change what belongs to ``owner``."""
        return self.is_admin or self.owner == owner

    def require(self, scope: Scope) -> None:
        """Raises Forbidden without ``scope``."""
        if not self.has_scope(scope):
            raise Forbidden(f"expected a token with the scope {scope!r}, this one has {', '.join(sorted(self.scopes))}")


LOCAL = Principal(LOCAL_OWNER, frozenset({"admin"}))

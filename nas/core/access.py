"""Authenticated callers and their scopes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from nas.core.errors import Forbidden

Scope = Literal["read", "submit", "device", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
LOCAL_OWNER = "local"


@dataclass(frozen=True)
class Principal:
    """An authenticated caller. The scope ``admin`` includes all others and shows every owner's searches.

    ``token_id`` is None for a local caller, who needs no token. ``address`` is the client's network address.
    """

    owner: str
    scopes: frozenset[Scope] = field(default_factory=frozenset)
    token_id: str | None = None
    address: str | None = None

    @property
    def is_admin(self) -> bool:
        """Whether the caller has the scope ``admin``."""
        return "admin" in self.scopes

    def has_scope(self, scope: Scope) -> bool:
        """Whether ``scope`` is granted; ``submit`` and ``device`` imply ``read``."""
        return self.is_admin or scope in self.scopes or (scope == "read" and bool(self.scopes))

    def require(self, scope: Scope) -> None:
        """Raises Forbidden without ``scope``."""
        if not self.has_scope(scope):
            raise Forbidden(f"expected a token with the scope {scope!r}, this one has {', '.join(sorted(self.scopes))}")


LOCAL = Principal(LOCAL_OWNER, frozenset({"admin"}))

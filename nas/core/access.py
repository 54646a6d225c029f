"""Who asks, and what they may do."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from nas.core.errors import Forbidden

Scope = Literal["read", "submit", "device", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
LOCAL_OWNER = "local"


@dataclass(frozen=True)
class Principal:
    """Somebody who was let in. ``admin`` holds every scope and sees every owner's searches.

    ``token_id`` is None for whoever sits at the machine and needs no token. ``address`` is where the request came from.
    """

    owner: str
    scopes: frozenset[Scope] = field(default_factory=frozenset)
    token_id: str | None = None
    address: str | None = None

    @property
    def is_admin(self) -> bool:
        """Whether everything is allowed."""
        return "admin" in self.scopes

    def may(self, scope: Scope) -> bool:
        """Whether ``scope`` is granted; ``submit`` and ``device`` imply ``read``."""
        return self.is_admin or scope in self.scopes or (scope == "read" and bool(self.scopes))

    def require(self, scope: Scope) -> None:
        """Raises Forbidden without ``scope``."""
        if not self.may(scope):
            raise Forbidden(f"expected a token with the scope {scope!r}, this one has {', '.join(sorted(self.scopes))}")


LOCAL = Principal(LOCAL_OWNER, frozenset({"admin"}))

"""What the reader of a page may do."""

from __future__ import annotations

from nas.core.access import Principal
from nas.schemas.administration import PrincipalSchema


def may_submit(principal: PrincipalSchema) -> bool:
    """Whether the reader may change searches."""
    return Principal(principal.owner, frozenset(principal.scopes)).has_scope("submit")

"""Where the commands on API tokens find them: in a running service, or in the database of a home folder, so that the
first token needs no running service."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from nas.client import Client
from nas.core.access import LOCAL, Scope
from nas.schemas.administration import CreatedTokenSchema, TokenSchema
from server.cli.local_store import opened_store
from server.cli.options import Connection
from server.store.tokens import Tokens


class TokenRegistry(Protocol):
    """Creates, lists and revokes API tokens."""

    def create(
        self, owner: str, name: str, scopes: Sequence[Scope], expires_at: datetime | None, device: str | None
    ) -> CreatedTokenSchema:
        """A new token with its secret, which is shown once. Raises InvalidInput for values that do not go together."""

    def list(self) -> list[TokenSchema]:
        """All tokens, newest first."""

    def revoke(self, token_id: str) -> None:
        """Revoke a token at once. Raises NotFound."""


@dataclass(frozen=True)
class ServiceTokens:
    """The tokens of a running service."""

    client: Client

    def create(
        self, owner: str, name: str, scopes: Sequence[Scope], expires_at: datetime | None, device: str | None
    ) -> CreatedTokenSchema:
        return self.client.create_token(owner, name, scopes, expires_at, device)

    def list(self) -> list[TokenSchema]:
        return self.client.tokens()

    def revoke(self, token_id: str) -> None:
        self.client.revoke_token(token_id)


@dataclass(frozen=True)
class StoredTokens:
    """The tokens in the database of a home folder."""

    tokens: Tokens

    def create(
        self, owner: str, name: str, scopes: Sequence[Scope], expires_at: datetime | None, device: str | None
    ) -> CreatedTokenSchema:
        expires_s = expires_at.timestamp() if expires_at is not None else None
        schema, secret = self.tokens.create(owner, name, scopes, expires_s, LOCAL, device)
        return CreatedTokenSchema(**schema.model_dump(), secret=secret)

    def list(self) -> list[TokenSchema]:
        return self.tokens.list()

    def revoke(self, token_id: str) -> None:
        self.tokens.revoke(token_id, LOCAL)


@contextmanager
def open_token_registry(
    home: Path | None, url: str | None, token: str | None, create: bool = False
) -> Iterator[TokenRegistry]:
    """The tokens of the service at ``url``; without an address, or with a ``home``, those of the home folder, which is
    made with ``create``. Raises as ``opened_store``."""
    if url is not None and home is None:
        with Connection(url, token).connect() as client:
            yield ServiceTokens(client)
    else:
        with opened_store(home, create) as store:
            yield StoredTokens(store.tokens)

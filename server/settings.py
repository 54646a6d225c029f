"""Where the service keeps things and how it runs. The environment variable ``HWNAS_<FIELD>`` sets a field."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote

from pydantic import AnyHttpUrl, Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict


def _absolute(folder: Path) -> Path:
    """The same folder for processes that run elsewhere; ValueError for ``~name`` of a user who does not exist."""
    try:
        return folder.expanduser().absolute()
    except RuntimeError as error:
        raise ValueError(f"{folder}: {error}") from error


class Settings(BaseSettings):
    """Defaults are the embedded service: one machine, one folder.

    ``database_url`` and ``blobs_url`` default to an SQLite file and a folder in ``home``; PostgreSQL and any fsspec URL
    serve more than one machine. ``ray_address`` joins a Ray cluster instead of starting a local one. ``dispatch`` runs
    a dispatcher beside the server; a replica that only answers does without. A worker that is silent for
    ``stuck_seconds`` has its stack written to the log, and after ``hang_seconds`` its attempt ended. ``require_tokens``
    asks for tokens on loopback, too, as behind a proxy. Where tokens are needed, data sets of specs may lie below
    ``data_roots`` only (in the environment, separated as in PATH), or at URLs that begin with one of ``data_urls``
    (separated by spaces). Large data sets are prepared in ``data_cache``, a folder of each machine; None:
    ``data-cache`` in ``home``; what was used least recently is deleted where it would take more than
    ``data_cache_gb``. At most ``streams`` event streams are open at a time; where tokens are needed, one client gets an
    eighth of them. The head of a request, and then its body, have to arrive within ``request_seconds``. Each of
    ``webhooks`` (in the environment, separated by spaces) is told of searches that have ended, signed with
    ``webhook_secret`` if there is one; ``public_url`` is the address in its links, without it the one that this machine
    reaches the service by.
    """

    model_config = SettingsConfigDict(env_prefix="HWNAS_", env_ignore_empty=True, extra="forbid", frozen=True)

    home: Path = Field(default_factory=lambda: Path.home() / ".hwnas")
    database_url: str = ""
    blobs_url: str = ""
    host: str = "127.0.0.1"
    port: int = Field(default=8765, ge=0, le=65535)
    ray_address: str | None = None
    lease_seconds: float = Field(default=15.0, gt=0)
    poll_seconds: float = Field(default=0.2, gt=0)
    parallel_jobs: int = Field(default=1, ge=1)
    stuck_seconds: float = Field(default=600.0, gt=0)
    hang_seconds: float = Field(default=3600.0, gt=0)
    dispatch: bool = True
    require_tokens: bool = False
    data_roots: Annotated[tuple[Path, ...], NoDecode] = ()
    data_urls: Annotated[tuple[str, ...], NoDecode] = ()
    data_cache: Path | None = None
    data_cache_gb: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    streams: int = Field(default=512, ge=8)
    request_seconds: float = Field(default=20.0, gt=0)
    webhooks: Annotated[tuple[AnyHttpUrl, ...], NoDecode] = ()
    webhook_secret: SecretStr | None = None
    public_url: AnyHttpUrl | None = None
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["text", "json"] = "text"

    @field_validator("data_roots", mode="before")
    @classmethod
    def _folders(cls, value: Any) -> Any:
        return tuple(part for part in value.split(os.pathsep) if part) if isinstance(value, str) else value

    @field_validator("data_urls", "webhooks", mode="before")
    @classmethod
    def _urls(cls, value: Any) -> Any:
        return tuple(value.split()) if isinstance(value, str) else value

    @field_validator("home")
    @classmethod
    def _expand_home(cls, folder: Path) -> Path:
        return _absolute(folder)

    @field_validator("data_roots")
    @classmethod
    def _expand_data_roots(cls, folders: tuple[Path, ...]) -> tuple[Path, ...]:
        return tuple(map(_absolute, folders))

    @property
    def database(self) -> str:
        """The database to use."""
        return self.database_url or f"sqlite:///{quote((self.home / 'hwnas.db').as_posix())}"

    @property
    def uploads(self) -> Path:
        """The folder of the data sets that were uploaded."""
        return self.home / "uploads"

    @property
    def blobs(self) -> str:
        """The blob store to use."""
        return self.blobs_url or str(self.home / "blobs")

    def as_environment(self) -> dict[str, str]:
        """The environment variables that make another process have these settings."""
        fields = self.model_dump(mode="json", exclude_none=True)
        fields["data_roots"] = os.pathsep.join(fields["data_roots"])
        fields["data_urls"] = " ".join(fields["data_urls"])
        fields["webhooks"] = " ".join(fields["webhooks"])
        if self.webhook_secret is not None:
            fields["webhook_secret"] = self.webhook_secret.get_secret_value()
        return {
            f"{self.model_config['env_prefix']}{name.upper()}": value if isinstance(value, str) else json.dumps(value)
            for name, value in fields.items()
        }

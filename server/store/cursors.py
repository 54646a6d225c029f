"""Cursors of pages, and times as views show them."""

from __future__ import annotations

import base64
import binascii
import json
from datetime import UTC, datetime
from typing import Any

from nas.core.errors import InvalidInput


def write_cursor(*parts: object) -> str:
    """The place behind a row, as opaque text."""
    return base64.urlsafe_b64encode(json.dumps(parts).encode()).decode()


def read_cursor(text: str, *types: Any) -> list[Any]:
    """Inverse of ``write_cursor`` for parts of these types. Raises InvalidInput."""
    try:
        parts = json.loads(base64.urlsafe_b64decode(text.encode()))
    except (binascii.Error, ValueError) as error:
        raise InvalidInput(f"not a cursor: {text!r}") from error
    if not isinstance(parts, list) or len(parts) != len(types):
        raise InvalidInput(f"not a cursor: {text!r}")
    if not all(isinstance(part, kind) for part, kind in zip(parts, types, strict=True)):
        raise InvalidInput(f"not a cursor: {text!r}")
    return parts


def utc(seconds: float) -> datetime:
    """A time of the database as a view shows it."""
    return datetime.fromtimestamp(seconds, UTC)

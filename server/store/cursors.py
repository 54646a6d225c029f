"""Page cursors, and times of the database as datetimes."""

from __future__ import annotations

import base64
import binascii
import json
from datetime import UTC, datetime
from typing import Any

from nas.core.errors import InvalidInput


def write_cursor(*parts: object) -> str:
    """Encode a position in a page order as opaque text."""
    return base64.urlsafe_b64encode(json.dumps(parts).encode()).decode()


def read_cursor(text: str, *types: Any) -> list[Any]:
    """Decode a cursor with parts of these types. Raises InvalidInput."""
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
    """Convert seconds since 1970 to a datetime in UTC."""
    return datetime.fromtimestamp(seconds, UTC)

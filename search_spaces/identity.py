"""By what predictors and supernets know a space again."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def space_id(name: str, *changes: Any) -> str:
    """A name plus a hash over all that changes the networks, in plain values."""
    return f"{name}-{hashlib.sha256(json.dumps(changes, sort_keys=True).encode()).hexdigest()[:8]}"

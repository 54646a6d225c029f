"""JSON of any content, where it enters or leaves; between modules travel values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

JsonObject = Mapping[str, Any]

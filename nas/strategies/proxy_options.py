"""Options on zero-cost proxies, which several strategies have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

ProxyName = Literal[
    "grad_norm",
    "snip",
    "synflow",
    "jacob_cov",
    "naswot",
    "zen",
    "near",
    "expressivity",
    "progressivity",
    "trainability",
    "fisher_spectrum",
    "params",
    "macs",
]


def check_proxies(names: Sequence[str]) -> None:
    """Raises ValueError for a proxy that comes twice."""
    if len(set(names)) != len(names):
        raise ValueError(f"proxies: expected each once, got {', '.join(names)}")

"""Lists of names in messages and tables."""

from __future__ import annotations

from collections.abc import Sequence


def first_names(names: Sequence[str], limit: int) -> str:
    """The first names, and how many more there are: ``a, b and 3 more``."""
    further = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {further} more" if further > 0 else "")

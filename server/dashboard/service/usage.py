"""How much of a limited resource is used."""

from __future__ import annotations

from server.dashboard.elements import div, progress_bar, text


def draw_usage(name: str, used: float | None, limit: float | None, unit: str = "") -> None:
    """The amount in use as a bar. ``used`` None: not known, the limit alone is shown; ``limit`` None: no limit."""
    with div("amount"):
        text(name, "small muted")
        if used is None:
            amount = _short(limit or 0.0)
        elif limit is None:
            amount = f"{_short(used)}, no limit"
        else:
            progress_bar(used / limit if limit else 1.0, "full" if used >= limit else "")
            amount = f"{_short(used)} of {_short(limit)}"
        text(f"{amount} {unit}".strip(), "small num")


def _short(amount: float) -> str:
    return f"{amount:.0f}" if amount == round(amount) else f"{amount:.1f}"

"""REST schema of a network that was scaled to another bound."""

from __future__ import annotations

from pydantic import BaseModel


class ScaledNetworkSchema(BaseModel):
    """A network of a search's space that is a candidate scaled up or down.

    ``factor`` of the MACs was aimed at, ``macs_factor`` is what rounding to the choices of the space made of it;
    ``at_end``: decisions of which the space has no larger, or smaller, choice. ``predicted_ms`` with its 95 %
    ``upper_ms`` where the device has a predictor for the space; ``extrapolated``: no network like it was measured. Its
    quality is not known: ``reference`` is an entry of a spec's references, by which it is scored and measured.
    """

    arch: str
    genes: list[int]
    choices: dict[str, int | float | str]
    alpha: float
    bound: str
    limit: float
    cost: float
    factor: float
    macs_factor: float
    at_end: list[str]
    params: float
    macs: float
    device: str
    predicted_ms: float | None = None
    upper_ms: float | None = None
    extrapolated: bool | None = None
    reference: str

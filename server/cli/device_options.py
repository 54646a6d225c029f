"""The options that name devices, a fleet and a latency bound, and the fields of a spec that they set."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from nas.core.errors import InvalidSpec
from nas.core.spec import FleetSpec, SearchSpec

SearchId = Annotated[
    str, typer.Argument(help="The search: its id or the beginning of it, or a name of it.", metavar="SEARCH")
]
BoundMs = Annotated[float | None, typer.Option("--bound-ms", min=1e-6, help="Latency bound in milliseconds.")]
DeviceOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--device",
        help="Device to search for; several make a fleet. NAME=MS bounds latency on one of several.",
        show_default="this-machine",
    ),
]
FrontKind = Literal["worst_case", "each"]
FleetFront = Annotated[
    FrontKind | None,
    typer.Option("--fleet", help="Of several devices: one front for the worst of them, or a front for each."),
]


def device_fields(devices: list[str] | None, front: FrontKind | None, fleet: FleetSpec | None) -> dict[str, object]:
    """``device`` or ``fleet`` of a spec from options; empty without options.

    ``fleet`` is the present fleet, whose front ``--fleet`` alone changes. Raises InvalidSpec.
    """
    if not devices:
        if front is None:
            return {}
        if fleet is None:
            raise InvalidSpec("--fleet needs two devices or more: name each with --device")
        return {"fleet": fleet.model_copy(update={"front": front}).model_dump(mode="json")}
    names = [text.partition("=")[0] for text in devices]
    bounds_ms = _bounds_ms(devices)
    if len(names) > 1:
        return {"fleet": {"devices": names, "front": front or "worst_case", "bounds_ms": bounds_ms}}
    if front is not None:
        raise InvalidSpec("--fleet needs two devices or more: name each with --device")
    if bounds_ms:
        raise InvalidSpec(f"--device {devices[0]}: of a single device, give the bound with --bound-ms")
    return {"device": devices[0]}


def _bounds_ms(devices: list[str]) -> dict[str, float]:
    bounds_ms: dict[str, float] = {}
    for text in devices:
        name, equals, bound = text.partition("=")
        if equals:
            try:
                bounds_ms[name] = float(bound)
            except ValueError:
                raise InvalidSpec(f"--device {name}: expected a bound in milliseconds, got {bound!r}") from None
    return bounds_ms


def with_latency_bound(spec: SearchSpec, bound_ms: float) -> dict[str, object]:
    """``objectives`` of a spec with another latency bound. Raises InvalidSpec if latency is not an objective."""
    if all(objective.name != "latency" for objective in spec.objectives):
        raise InvalidSpec("--bound-ms needs latency among the objectives of the spec")
    return {
        "objectives": [
            {**o.model_dump(mode="json"), **({"bound": bound_ms} if o.name == "latency" else {})}
            for o in spec.objectives
        ]
    }

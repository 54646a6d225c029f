"""Specs of searches on the trained supernet of a parent: extensions and forks."""

from __future__ import annotations

from collections.abc import Sequence

from nas.core.errors import InvalidSpec, UnknownName
from nas.core.spec import BudgetSpec, SearchSpec, parse_spec
from nas.schemas.searches import ExtendBody, ForkBody

EXTENSION = BudgetSpec(evaluations=24, verified=12)


def extended_spec(parent_id: str, spec: SearchSpec, body: ExtendBody) -> SearchSpec:
    """The spec of an extension. Raises UnknownName for a bound on an unknown objective, InvalidSpec otherwise."""
    record = spec.model_dump(mode="json")
    bounds = body.bounds or {}
    objectives: list[str] = [o.name for o in spec.objectives]
    for name in bounds:
        if name not in objectives:
            raise UnknownName("objective", name, objectives)
    record["supernet"] = parent_id
    record["retrain"] = None  # an extension trains nothing
    record["name"] = body.name if body.name is not None else f"{spec.name[:109]}, extended"
    record["objectives"] = [{**o, "bound": bounds.get(o["name"], o["bound"])} for o in record["objectives"]]
    # Inherited estimates count too, so a child that only changes a bound needs few more and ends within seconds.
    budget = record["budget"]
    budget["evaluations"] = body.evaluations or min(EXTENSION.evaluations, budget["evaluations"])
    budget["verified"] = min(EXTENSION.verified, budget["verified"])
    record |= {"seed": body.seed} if body.seed is not None else {}
    return parse_spec(SearchSpec, record | _device_fields(body, spec, bound_changed="latency" in bounds))


def forked_spec(parent_id: str, spec: SearchSpec, body: ForkBody) -> SearchSpec:
    """The spec of a fork. Raises InvalidSpec."""
    old_bound = spec.bound("latency")
    bounds = {o.name: o.bound for o in body.objectives} if body.objectives is not None else {"latency": old_bound}
    bound_changed = bounds.get("latency", 0.0) not in (old_bound, None)  # or latency is no longer an objective
    changes = body.model_dump(mode="json", exclude_none=True) | _device_fields(body, spec, bound_changed)
    defaults = {**spec.model_dump(mode="json"), "name": f"{spec.name[:111]}, forked"}
    return parse_spec(SearchSpec, {**defaults, **changes, "supernet": parent_id})


def evaluation_spec(parent_id: str, spec: SearchSpec, body: ForkBody, genes: Sequence[Sequence[int]]) -> SearchSpec:
    """The spec of a fork that trains networks of the parent's front, ``genes``, in another space, under the bounds of
    the body alone. Raises InvalidSpec for a parent without a front."""
    if not genes:
        raise InvalidSpec("space: expected a search with networks on its front to train in it, its front is empty")
    forked = forked_spec(parent_id, spec, body.model_copy(update={"space": None})).model_dump(mode="json")
    if body.objectives is None:  # bounds of a small network say nothing of a large one
        forked["objectives"] = [{**objective, "bound": None} for objective in forked["objectives"]]
    if forked["fleet"] is not None and body.fleet is None:
        forked["fleet"]["bounds_ms"] = {}
    networks = [",".join(map(str, network)) for network in genes]
    name = body.name if body.name is not None else f"{spec.name[:107]}, evaluated"
    assert body.space is not None
    own: dict[str, object] = {
        "name": name,
        "space": body.space.model_dump(mode="json"),
        "supernet": None,
        "references": [],
        "strategy": {"name": "zero_cost", "params": {"networks": networks}},
    }
    return parse_spec(SearchSpec, {**forked, **own})


def _device_fields(body: ExtendBody | ForkBody, spec: SearchSpec, bound_changed: bool) -> dict[str, object]:
    """``device`` and ``fleet`` of a child: from the body, or else from its parent.

    A changed latency bound replaces all bounds of the parent's fleet.
    """
    if body.device is not None and body.fleet is not None:
        raise InvalidSpec("expected device or fleet, got both")
    if body.device is not None:
        return {"device": body.device, "fleet": None}
    fleet = body.fleet or spec.fleet
    if fleet is None:
        return {}
    if body.fleet is None and bound_changed:
        fleet = fleet.model_copy(update={"bounds_ms": {}})
    return {"device": fleet.devices[0], "fleet": fleet.model_dump(mode="json")}

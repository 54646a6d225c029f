"""A candidate scaled up or down to another bound."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from fastapi import APIRouter, Query

from nas.core.arch import Arch, Floats, Genes
from nas.core.errors import NotFound
from nas.core.events import Origin
from nas.core.ports import LatencyPredictor, SearchSpace, predict_latency
from nas.explorers.compound_scaling import FAST, ScaledNetwork, scale_to
from nas.schemas.scaling import ScaledNetworkSchema
from server.api import validate
from server.api.context import CurrentStore
from server.api.errors import responses

router = APIRouter(tags=["searches"])
ScalingBound = Literal["latency", "macs", "params"]


@router.get("/searches/{id}/candidates/{arch}/scaled", summary="Scale to another bound", responses=responses(400, 404))
def get_scaled(
    id: str,
    arch: str,
    store: CurrentStore,
    limit: Annotated[float, Query(gt=0, description="At most this cost: ms, MACs or parameters")],
    bound: Annotated[ScalingBound, Query(description="The cost that is bounded")] = "latency",
    alpha: Annotated[float, Query(ge=0, le=1, description="How much of it is width; 1/3: all alike")] = FAST,
    origin: Origin = "search",
    device: Annotated[str | None, Query(description="A device of the search; by default its first")] = None,
) -> ScaledNetworkSchema:
    """The network of the space that fast compound scaling makes of a candidate, as large as the bound allows. For
    latency, the predicted upper bound keeps the limit. What it costs comes with its uncertainty; its quality is not
    known before it is trained."""
    candidate = store.queries.candidate(id, arch, origin)
    spec = store.queries.search(id).spec
    space = validate.space_of(spec.space, spec.data, spec.precision, store)
    name = device or spec.devices[0]
    predictor = validate.predictor_for(name, space, store)
    if bound == "latency" and predictor is None:
        raise NotFound(
            f"device {name!r} has no predictor for the space {space.id!r}: expected a bound on macs or params"
        )

    def cost_of(genes_NG: Genes) -> Floats:
        if bound == "latency" and predictor is not None:
            return predict_latency(predictor, space, genes_NG).upper_ms
        return space.costs(genes_NG)[bound]

    network = scale_to(space, candidate.genes, cost_of, limit, alpha)
    return _schema(network, space, predictor, bound=bound, limit=limit, alpha=alpha, device=name)


def _schema(
    network: ScaledNetwork,
    space: SearchSpace,
    predictor: LatencyPredictor | None,
    *,
    bound: ScalingBound,
    limit: float,
    alpha: float,
    device: str,
) -> ScaledNetworkSchema:
    genes_1G = np.array([network.genes], dtype=np.int64)
    costs, arch = space.costs(genes_1G), Arch(space.id, network.genes)
    latency = None if predictor is None else predict_latency(predictor, space, genes_1G)
    outside = None if predictor is None else predictor.extrapolations(space, genes_1G)
    return ScaledNetworkSchema(
        arch=arch.id,
        genes=list(network.genes),
        choices={d.name: d.choices[g] for d, g in zip(space.decisions, network.genes, strict=True)},
        alpha=alpha,
        bound=bound,
        limit=limit,
        cost=network.cost,
        factor=network.factor,
        macs_factor=network.macs_factor,
        at_end=list(network.at_end),
        params=float(costs["params"][0]),
        macs=float(costs["macs"][0]),
        device=device,
        predicted_ms=None if latency is None else float(latency.mean_ms[0]),
        upper_ms=None if latency is None else float(latency.upper_ms[0]),
        extrapolated=None if outside is None else bool(outside[0]),
        reference=f"{{name: scaled {arch.id}, genes: {list(network.genes)}}}",
    )

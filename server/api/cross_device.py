"""The candidates of a search with the latencies that another device's predictor gives them."""

from __future__ import annotations

import numpy as np

from nas.core.candidates import CandidateTable
from nas.core.errors import NotFound
from nas.core.fronts import FrontContext
from nas.core.ports import predict_latency
from nas.core.spec import SearchSpec
from server.api import validate
from server.store.store import Store


def predict_for_device(
    device: str, spec: SearchSpec, table: CandidateTable, context: FrontContext, store: Store
) -> tuple[SearchSpec, CandidateTable, FrontContext]:
    """Spec, candidates and front context with latencies predicted for ``device``, and without measurements.

    The search's own latency bound does not apply to another device, and the reference latency becomes that of the
    slowest candidate. Raises NotFound if the device has no predictor for the space.
    """
    space = validate.space_of(spec.space, spec.data, spec.precision, store)
    predictor = validate.predictor_for(device, space, store)
    if predictor is None:
        store.queries.device(device)  # raises NotFound for an unknown device
        added = store.queries.added_device(device)
        command = validate.add_device_command(spec.model_copy(update={"device": device}), added)
        raise NotFound(f"device {device!r} has no latency predictor for {space.id}. To fit one, run: {command}")
    unbounded = tuple(o.model_copy(update={"bound": None}) if o.name == "latency" else o for o in spec.objectives)
    spec = spec.model_copy(update={"objectives": unbounded, "device": device, "fleet": None})
    if len(table) == 0:
        return spec, table, context
    latency = predict_latency(predictor, space, table.genes_NG.astype(np.int64))
    reference = context.reference
    if reference is not None:
        reference = {**reference, "latency": float(latency.mean_ms.max())}
    context = FrontContext(reference, context.guiding_metric)
    return spec, table.with_latency(latency), context

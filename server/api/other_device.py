"""A search as another device would see it: the same networks with the latencies its predictor gives."""

from __future__ import annotations

import numpy as np

from nas.core.candidates import CandidateTable
from nas.core.errors import NotFound
from nas.core.fronts import Finished
from nas.core.ports import predict_latency
from nas.core.spec import SearchSpec
from server.api import validate
from server.store.store import Store


def seen_from(
    device: str, spec: SearchSpec, table: CandidateTable, finished: Finished, store: Store
) -> tuple[SearchSpec, CandidateTable, Finished]:
    """Spec, networks and results with latencies predicted for ``device`` and nothing measured, since nothing was
    measured there.

    The search's own bound on latency does not hold there, and the reference becomes the slowest network's.
    Raises NotFound if the device has no predictor for the space.
    """
    space = validate.space_of(spec.space, spec.data)
    predictor = validate.predictor_for(device, space, store)
    if predictor is None:
        store.queries.device(device)  # says so if there is no such device at all
        command = validate.add_device_command(spec.model_copy(update={"device": device}))
        raise NotFound(f"device {device!r} has no latency predictor for {space.id}. To fit one, run: {command}")
    free = tuple(o.model_copy(update={"bound": None}) if o.name == "latency" else o for o in spec.objectives)
    spec = spec.model_copy(update={"objectives": free, "device": device, "fleet": None})
    if len(table) == 0:
        return spec, table, finished
    latency = predict_latency(predictor, space, table.genes_NG.astype(np.int64))
    finished = {stage: result for stage, result in finished.items() if stage != "verify"}
    if "estimate" in finished:
        reference = {**finished["estimate"]["reference"], "latency": float(latency.mean_ms.max())}
        finished["estimate"] = {**finished["estimate"], "reference": reference}
    return spec, table.with_latency(latency), finished

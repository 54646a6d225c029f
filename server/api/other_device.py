"""A search as another device would see it: the same networks with the latencies its predictor gives."""

from __future__ import annotations

from dataclasses import replace

from nas.core.arch import as_genes
from nas.core.errors import NotFound
from nas.core.events import SearchState
from nas.core.spec import SearchSpec
from server.api import validate
from server.store.store import Store


def seen_from(device: str, spec: SearchSpec, state: SearchState, store: Store) -> tuple[SearchSpec, SearchState]:
    """Spec and state with latencies predicted for ``device`` and nothing measured, since nothing was measured there.

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
    spec = spec.model_copy(update={"objectives": free})
    points = list(state.points.values())
    if not points:
        return spec, state
    latency = validate.predict(predictor, space, as_genes([p.arch for p in points]))
    seen = [
        replace(
            point,
            metrics={
                **{k: v for k, v in point.metrics.items() if k != "measured_ms"},
                "predicted_ms": float(mean_ms),
                "upper_ms": float(upper_ms),
            },
            status="unverified",
            claim_ms=None,
            measurement=None,
        )
        for point, mean_ms, upper_ms in zip(points, latency.mean_ms, latency.upper_ms, strict=True)
    ]
    finished = {stage: result for stage, result in state.finished.items() if stage != "verify"}
    if "estimate" in finished:
        reference = {**finished["estimate"]["reference"], "latency": float(latency.mean_ms.max())}
        finished["estimate"] = {**finished["estimate"], "reference": reference}
    return spec, replace(state, points={p.key: p for p in seen}, finished=finished)

"""The waterline report: which layers of a candidate a device computes at its peak, and which wait for memory."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from fastapi import APIRouter, Query

from nas.core.arch import Arch
from nas.core.errors import InvalidInput, NotFound
from nas.core.events import Origin
from nas.core.network import LayerSummary, summarise
from nas.core.ports import SearchSpace
from nas.core.waterline import FittedRates, MachineRates, fit_rates, waterline
from nas.schemas.waterlines import WaterlineSchema
from server.api import validate
from server.api.context import CurrentStore
from server.api.device_comparison import measured_latencies
from server.api.errors import responses
from server.store.readers.predictors import OnboardedDevice
from server.store.store import Store

router = APIRouter(tags=["searches"])
MOST_NETWORKS = 200  # to which the figures of a machine are fitted


@router.get(
    "/searches/{id}/candidates/{arch}/waterline", summary="Layers bound by memory", responses=responses(400, 404)
)
def get_waterline(
    id: str,
    arch: str,
    store: CurrentStore,
    origin: Origin = "search",
    device: Annotated[str | None, Query(description="A device of the search; by default its first")] = None,
    flops_per_s: Annotated[float | None, Query(gt=0, description="Peak operations per second; two to a MAC")] = None,
    bytes_per_s: Annotated[float | None, Query(gt=0, description="Bandwidth of the memory")] = None,
) -> WaterlineSchema:
    """Which layers are bound by computing and which by memory, and what fusing each block would save at best. By given
    figures of the machine, by those that the device is known by, or by figures fitted to what was measured on it."""
    candidate = store.queries.candidate(id, arch, origin)
    spec = store.queries.search(id).spec
    space = validate.space_of(spec.space, spec.data, spec.precision, store)
    layers = [summarise(layer) for layer in space.layers(Arch(space.id, tuple(candidate.genes)))]
    name = device or spec.devices[0]
    if flops_per_s is not None or bytes_per_s is not None:
        if flops_per_s is None or bytes_per_s is None:
            raise InvalidInput("waterline: expected both flops_per_s and bytes_per_s, or neither, got one")
        return WaterlineSchema.of(waterline(layers, MachineRates(flops_per_s, bytes_per_s)), name, "given")
    return _of_device(layers, name, space, store)


def _of_device(layers: list[LayerSummary], name: str, space: SearchSpace, store: Store) -> WaterlineSchema:
    onboarded = store.queries.onboarded_device(name, space.id)
    if onboarded is None:
        raise NotFound(f"device {name!r} has no predictor for the space {space.id!r}: give flops_per_s and bytes_per_s")
    peak = onboarded.spec.roofline
    if peak is not None:
        rates = MachineRates(peak.flops_per_s, peak.bytes_per_s)
        return WaterlineSchema.of(waterline(layers, rates), name, "peak figures")
    fitted = _fitted(onboarded, space, store)
    line = waterline(layers, fitted.rates)
    return WaterlineSchema.of(line, name, "fitted", fitted.networks, fitted.error_percent)


def _fitted(onboarded: OnboardedDevice, space: SearchSpace, store: Store) -> FittedRates:
    measured = list(measured_latencies(onboarded, space, store).items())[:MOST_NETWORKS]
    networks = [[summarise(layer) for layer in space.layers(Arch(space.id, genes))] for genes, _ in measured]
    return fit_rates(networks, np.array([ms for _, ms in measured]))

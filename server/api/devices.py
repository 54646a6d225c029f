"""Devices and their latency predictors."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body, Query, Response
from fastapi.sse import EventSourceResponse

from nas.core.drift import Drift
from nas.core.spec import DeviceSpec
from nas.schemas.devices import DeviceComparisonSchema, DeviceSchema, OwnerBody, RenameBody
from nas.schemas.jobs import EventPage
from nas.schemas.predictors import PredictorCardSchema, PredictorVersionSchema
from server.api.access import CurrentPrincipal
from server.api.context import Context, CurrentStore
from server.api.data_paths import check_data_path
from server.api.device_check import check_device
from server.api.device_comparison import compare_devices
from server.api.errors import responses
from server.api.event_log import EventLog
from server.api.named_data import resolve
from server.api.parameters import EVENT_RESPONSES, IdempotencyKey

TABLE_STAGES = ("profile", "fit")
MEASURED_STAGES = ("profile", "measure", "fit")
_EXAMPLE = {"name": "this-machine", "samples": 96}

router = APIRouter(tags=["devices"])


@router.get("/devices", summary="List devices")
def list_devices(store: CurrentStore) -> list[DeviceSchema]:
    """All devices by name, each with its latest onboarding and its predictors."""
    return store.queries.devices()


@router.post(
    "/devices",
    status_code=201,
    summary="Add a device",
    responses={
        200: {"model": DeviceSchema, "description": "The idempotency key exists"},
        **responses(400, 409, 413, 429, 507),
    },
)
def add_device(
    spec: Annotated[DeviceSpec, Body(examples=[_EXAMPLE])],
    response: Response,
    context: Context,
    principal: CurrentPrincipal,
    idempotency_key: IdempotencyKey = None,
) -> DeviceSchema:
    """Profile the device, measure networks of the space on it and fit a latency predictor. With the source `table`,
    uploaded before, or `roofline`, nothing is measured.

    An existing device of yours is measured again, which makes a new version of its predictor, or gets one for another
    space, also while the first onboarding runs.
    """
    store = context.store
    spec = spec.model_copy(update={"data": resolve(spec.data, store, principal)})
    if idempotency_key is not None and store.jobs.find(spec, idempotency_key, principal.owner) is not None:
        response.status_code = 200
    else:
        check_data_path(spec.data, context.settings)
        check_device(spec, store, principal)
        stages = TABLE_STAGES if spec.source in ("table", "roofline") else MEASURED_STAGES
        store.jobs.submit(spec, idempotency_key, stages=stages, by=principal)
    return store.queries.device(spec.name)


@router.get("/devices/{name}", summary="Get a device", responses=responses(404))
def get_device(name: str, store: CurrentStore) -> DeviceSchema:
    """A device with its profile, its latest onboarding and its predictors."""
    return store.queries.device(name)


@router.delete("/devices/{name}", status_code=204, summary="Delete a device", responses=responses(404, 409, 507))
def delete_device(name: str, store: CurrentStore, principal: CurrentPrincipal) -> Response:
    """Delete a device of yours with its onboardings and predictors. Searches that have ended keep their results."""
    store.devices.delete(name, principal)
    return Response(status_code=204)


@router.put("/devices/{name}/name", summary="Rename a device", responses=responses(404, 409, 413, 507))
def rename_device(name: str, body: RenameBody, store: CurrentStore, principal: CurrentPrincipal) -> DeviceSchema:
    """Rename a device of yours. Searches that have ended keep the name that they were run with."""
    store.devices.rename(name, body.name, principal)
    return store.queries.device(body.name)


@router.put("/devices/{name}/owner", summary="Give a device away", responses=responses(404, 409, 413, 507))
def transfer_device(name: str, body: OwnerBody, store: CurrentStore, principal: CurrentPrincipal) -> DeviceSchema:
    """Give a device of yours, and its agent, to another owner."""
    store.devices.transfer(name, body.owner, principal)
    return store.queries.device(name)


@router.get(
    "/devices/{name}/events",
    summary="The events of a device's onboarding",
    response_model=EventPage,
    responses=EVENT_RESPONSES,
)
def list_device_events(
    name: str,
    log: EventLog,
    store: CurrentStore,
) -> EventPage | EventSourceResponse:
    """The log of the latest onboarding, oldest first."""
    return log.answer(store.queries.device_job(name))


@router.get("/devices/{name}/versions", summary="List the versions of a device's predictors", responses=responses(404))
def list_predictor_versions(
    name: str, store: CurrentStore, principal: CurrentPrincipal
) -> list[PredictorVersionSchema]:
    """All versions, newest first, with those of your searches that used them. Each onboarding makes a version, and so
    does each search that fed its measurements back."""
    return store.queries.versions(name, None if principal.is_admin else principal.owner)


@router.get("/devices/{name}/drift", summary="Drift of a device over time", responses=responses(404))
def get_drift(name: str, store: CurrentStore) -> Drift:
    """The ratio of measured to predicted latency in searches since the device was profiled, and whether its predictor
    still holds."""
    return store.queries.drift(name)


@router.get("/devices/{name}/comparison", summary="Compare two devices", responses=responses(404, 507))
def get_comparison(
    name: str,
    store: CurrentStore,
    principal: CurrentPrincipal,
    other: Annotated[str, Query(description="The name of another device", max_length=64)],
    space: Annotated[
        str | None,
        Query(description="Id of a space; default: the first that both share", max_length=120),
    ] = None,
) -> DeviceComparisonSchema:
    """Latencies of the same architectures on both devices: measured where available, else predicted."""
    return compare_devices(name, other, space, store, None if principal.is_admin else principal.owner)


@router.get("/predictors", summary="List predictor cards", responses=responses(404))
def list_predictors(store: CurrentStore, device: str | None = None) -> list[PredictorCardSchema]:
    """All cards, newest first; with `device`, of that device only."""
    return store.queries.predictors(device)


@router.get("/predictors/{id}", summary="Get a predictor card", responses=responses(404))
def get_predictor(id: str, store: CurrentStore) -> PredictorCardSchema:
    """The predictor's accuracy on held-out networks, as predicted by a fit without them."""
    return store.queries.predictor(id)

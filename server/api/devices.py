"""Devices and their latency predictors."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body, Query, Response

from nas.core.spec import DeviceSpec
from nas.schemas.devices import DeviceComparisonSchema, DeviceSchema, DriftSchema
from nas.schemas.jobs import EventPage
from nas.schemas.predictors import PredictorCardSchema, PredictorVersionSchema
from server.api import sse, validate
from server.api.access import By
from server.api.comparing import compare
from server.api.errors import responses
from server.api.parameters import EVENT_RESPONSES, Accept, After, IdempotencyKey, LastEventId
from server.settings import Settings
from server.store.store import Store

FIGURES_STAGES = ("profile", "fit")
STAGES = ("profile", "measure", "fit")
_EXAMPLE = {"name": "this-machine", "samples": 96}


def routes(settings: Settings, store: Store, streams: sse.Streams) -> APIRouter:
    """The routes of devices and predictors."""
    router = APIRouter(tags=["devices"])

    @router.get("/devices", summary="All devices")
    def devices() -> list[DeviceSchema]:
        """All devices by name, each with its latest onboarding and its predictors."""
        return store.queries.devices()

    @router.post(
        "/devices",
        status_code=201,
        summary="Add a device",
        responses={200: {"model": DeviceSchema, "description": "The key was known"}, **responses(400, 409, 413, 507)},
    )
    def add(
        spec: Annotated[DeviceSpec, Body(examples=[_EXAMPLE])],
        response: Response,
        by: By,
        idempotency_key: IdempotencyKey = None,
    ) -> DeviceSchema:
        """Profiles the device, measures networks of the space on it and fits a latency predictor. Where the source is a
        `table`, uploaded before, or a `roofline`, nothing is measured.

        A device that exists is measured again, or gets a predictor for a further space.
        """
        record = spec.model_dump(mode="json")
        if idempotency_key is not None and store.jobs.find("device", record, idempotency_key, by.owner) is not None:
            response.status_code = 200
        else:
            validate.check_data_path(spec.data, settings)
            validate.check_device(spec, store)
            stages = FIGURES_STAGES if spec.source in ("table", "roofline") else STAGES
            store.jobs.submit("device", record, idempotency_key, stages=stages, by=by)
        return store.queries.device(spec.name)

    @router.get("/devices/{name}", summary="One device", responses=responses(404))
    def device(name: str) -> DeviceSchema:
        """A device with its profile, its latest onboarding and its predictors."""
        return store.queries.device(name)

    @router.get(
        "/devices/{name}/events",
        summary="The events of a device's onboarding",
        response_model=EventPage,
        responses=EVENT_RESPONSES,
    )
    def events(
        name: str,
        by: By,
        after: After = 0,
        limit: Annotated[int, Query(ge=1, le=1000)] = 500,
        accept: Accept = "",
        last_event_id: LastEventId = None,
    ) -> Any:
        """The log of the latest onboarding, oldest first."""
        job = store.queries.device_job(name)
        start = after if last_event_id is None else last_event_id
        return sse.events(streams, lambda n, size: store.queries.events(job, n, size), accept, start, limit, by)

    @router.get("/devices/{name}/versions", summary="The versions of a device's predictors", responses=responses(404))
    def versions(name: str, by: By) -> list[PredictorVersionSchema]:
        """All versions, newest first: one after each onboarding, and one after each search that fed back what it had
        measured; and which of your searches have used them."""
        return store.queries.versions(name, None if by.is_admin else by.owner)

    @router.get("/devices/{name}/drift", summary="How a device was over time", responses=responses(404))
    def drift(name: str) -> DriftSchema:
        """What searches have measured since the device was profiled, over what was predicted, and whether the device
        is still what its predictor says."""
        return store.queries.drift(name)

    @router.get("/devices/{name}/comparison", summary="Two devices side by side", responses=responses(404, 507))
    def comparison(
        name: str,
        by: By,
        other: Annotated[str, Query(description="The name of another device", max_length=64)],
        space: Annotated[
            str | None, Query(description="Id of a space; without, the first that both know", max_length=120)
        ] = None,
    ) -> DeviceComparisonSchema:
        """Latencies of the same networks on both, measured where they are known, else predicted."""
        return compare(name, other, space, store, None if by.is_admin else by.owner)

    @router.get("/predictors", summary="The cards of latency predictors", responses=responses(404))
    def predictors(device: str | None = None) -> list[PredictorCardSchema]:
        """All cards, newest first; with `device`, of that device only."""
        return store.queries.predictors(device)

    @router.get("/predictors/{id}", summary="One predictor's card", responses=responses(404))
    def predictor(id: str) -> PredictorCardSchema:
        """How good the predictor was on networks that took no part in fitting or calibrating it."""
        return store.queries.predictor(id)

    return router

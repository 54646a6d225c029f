"""Onboardings of devices: follow and control them. `POST /devices` starts one."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response
from fastapi.sse import EventSourceResponse

from nas.core.lifecycle import JobStatus
from nas.schemas.devices import OnboardingPage, OnboardingSchema
from nas.schemas.jobs import EventPage
from nas.schemas.searches import PriorityBody
from server.api.access import CurrentPrincipal
from server.api.context import CurrentStore
from server.api.errors import responses
from server.api.event_log import EventLog
from server.api.parameters import EVENT_RESPONSES, Cursor

router = APIRouter(tags=["onboardings"])


@router.get("/onboardings", summary="List onboardings")
def list_onboardings(
    store: CurrentStore,
    device: Annotated[str | None, Query(description="Only of this device", max_length=64)] = None,
    status: JobStatus | None = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Cursor = None,
) -> OnboardingPage:
    """The onboardings of all devices, newest first."""
    return store.queries.onboardings(device, status, limit, cursor)


@router.get("/onboardings/{id}", summary="Get an onboarding", responses=responses(404))
def get_onboarding(id: str, store: CurrentStore) -> OnboardingSchema:
    """An onboarding with its stages."""
    return store.queries.onboarding(id)


@router.get(
    "/onboardings/{id}/events",
    summary="The events of an onboarding",
    response_model=EventPage,
    responses=EVENT_RESPONSES,
)
def list_onboarding_events(
    id: str,
    log: EventLog,
    store: CurrentStore,
) -> EventPage | EventSourceResponse:
    """The log, oldest first."""
    return log.answer(store.queries.onboarding_job(id))


@router.post("/onboardings/{id}/pause", summary="Pause an onboarding", responses=responses(404, 409, 507))
def pause_onboarding(id: str, store: CurrentStore, principal: CurrentPrincipal) -> OnboardingSchema:
    """Pause a queued onboarding at once, and a running one after its next stored result, which frees its worker."""
    store.jobs.pause(store.queries.onboarding_job(id), principal)
    return store.queries.onboarding(id)


@router.post("/onboardings/{id}/resume", summary="Resume an onboarding", responses=responses(404, 409, 507))
def resume_onboarding(id: str, store: CurrentStore, principal: CurrentPrincipal) -> OnboardingSchema:
    """Continue a paused onboarding where it was paused."""
    store.jobs.resume(store.queries.onboarding_job(id), principal)
    return store.queries.onboarding(id)


@router.post("/onboardings/{id}/cancel", summary="Cancel an onboarding", responses=responses(404, 409, 507))
def cancel_onboarding(id: str, store: CurrentStore, principal: CurrentPrincipal) -> OnboardingSchema:
    """Stop an onboarding now. The predictors of earlier ones remain in use."""
    store.jobs.cancel(store.queries.onboarding_job(id), principal)
    return store.queries.onboarding(id)


@router.post("/onboardings/{id}/retry", summary="Retry an onboarding", responses=responses(404, 409, 429, 507))
def retry_onboarding(id: str, store: CurrentStore, principal: CurrentPrincipal) -> OnboardingSchema:
    """Continue a failed, cancelled or quarantined onboarding from its last stored result."""
    store.jobs.retry(store.queries.onboarding_job(id), principal)
    return store.queries.onboarding(id)


@router.put(
    "/onboardings/{id}/priority", summary="Set an onboarding's priority", responses=responses(404, 409, 413, 507)
)
def set_onboarding_priority(
    id: str, body: PriorityBody, store: CurrentStore, principal: CurrentPrincipal
) -> OnboardingSchema:
    """Higher runs first among the jobs of one owner; between owners the queue is fair."""
    store.jobs.set_priority(store.queries.onboarding_job(id), body.priority, principal)
    return store.queries.onboarding(id)


@router.delete("/onboardings/{id}", status_code=204, summary="Delete an onboarding", responses=responses(404, 409, 507))
def delete_onboarding(id: str, store: CurrentStore, principal: CurrentPrincipal) -> Response:
    """Delete an onboarding that is paused or has ended and made no predictor; with a device's only one, the device."""
    store.jobs.delete(store.queries.onboarding_job(id), principal)
    return Response(status_code=204)

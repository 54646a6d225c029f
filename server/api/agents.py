"""The protocol of device agents: register, claim a task, download its model, renew its lease, send the result."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body, Path, Query, Response

from nas.core.device import DeviceProfile, MeasurementProtocol
from nas.core.errors import InvalidInput
from nas.core.jobs import MeasurementFailure
from nas.core.spec import Name
from nas.core.timing import check_visit
from nas.schemas.administration import CreatedTokenSchema
from nas.schemas.agents import (
    AgentBody,
    AgentRegistrationSchema,
    AgentSchema,
    ClaimBody,
    ClaimSchema,
    LeaseBody,
    LeaseSchema,
    ProfileBody,
    ResultBody,
)
from predictors.measurement.judging import judge
from server.api.access import CurrentPrincipal
from server.api.context import CurrentStore
from server.api.errors import responses

MAX_CHUNKS = 50_000  # of one network
AgentName = Annotated[Name, Path(description="Name of the agent, which is also the name of its device")]
TaskId = Annotated[str, Path(max_length=64)]
LeaseId = Annotated[str, Query(min_length=1, max_length=64)]

router = APIRouter(tags=["agents"])


@router.get("/agents", summary="List agents")
def list_agents(store: CurrentStore) -> list[AgentSchema]:
    """All agents that ever registered, by name, with the time of their last request."""
    return store.queries.agents()


@router.put("/agents/{name}", summary="Register an agent", responses=responses(409))
def register_agent(
    name: AgentName, body: AgentBody, store: CurrentStore, principal: CurrentPrincipal
) -> AgentRegistrationSchema:
    """Report the agent's machine. `nas devices add NAME --agent` then makes it a device of the same name."""
    profile = store.measurements.register(name, body.instance, _profile(name, body.profile), body.versions, principal)
    return AgentRegistrationSchema(profile=profile)


@router.post(
    "/agents/{name}/token", status_code=201, summary="Create a token for an agent", responses=responses(403, 507)
)
def create_agent_token(name: AgentName, store: CurrentStore, principal: CurrentPrincipal) -> CreatedTokenSchema:
    """A token of yours that measures on this device and does nothing else. Only this response contains its secret."""
    token, secret = store.tokens.create(principal.owner, f"agent {name}", ["agent"], None, principal, name)
    return CreatedTokenSchema(**token.model_dump(), secret=secret)


@router.post("/agents/{name}/claim", summary="Claim the next task", responses=responses(404, 409))
def claim_task(name: AgentName, body: ClaimBody, store: CurrentStore, principal: CurrentPrincipal) -> ClaimSchema:
    """Lease a network to measure, for as long as the lease is renewed. One task at a time."""
    return ClaimSchema(task=store.measurements.claim(name, body.instance, principal))


@router.get(
    "/agents/{name}/tasks/{id}/model",
    summary="Download the model of a task",
    response_class=Response,
    responses={200: {"content": {"application/octet-stream": {}}}, **responses(404, 409, 507)},
)
def download_task_model(
    name: AgentName, id: TaskId, store: CurrentStore, principal: CurrentPrincipal, lease: LeaseId
) -> Response:
    """The ONNX model, whose sha256 the task contains."""
    data = store.blobs.get(store.measurements.model(name, id, lease, principal))
    return Response(data, media_type="application/octet-stream")


@router.post("/agents/{name}/tasks/{id}/beat", summary="Renew a lease", responses=responses(404))
def renew_lease(
    name: AgentName, id: TaskId, body: LeaseBody, store: CurrentStore, principal: CurrentPrincipal
) -> LeaseSchema:
    """Report that the agent is still measuring."""
    return LeaseSchema(held=store.measurements.renew(name, id, body.lease, principal))


@router.post("/agents/{name}/tasks/{id}/release", summary="Give a task back", responses=responses(404))
def release_task(
    name: AgentName, id: TaskId, body: LeaseBody, store: CurrentStore, principal: CurrentPrincipal
) -> LeaseSchema:
    """Return the task to the queue, because the agent stops."""
    store.measurements.release(name, id, body.lease, principal)
    return LeaseSchema(held=False)


@router.post("/agents/{name}/tasks/{id}/result", summary="Send a result", responses=responses(404, 409))
def send_result(
    name: AgentName, id: TaskId, body: Annotated[ResultBody, Body()], store: CurrentStore, principal: CurrentPrincipal
) -> LeaseSchema:
    """Raw times, which this service judges by the measurement protocol; or an error. Sending it again has no effect."""
    if (body.timing is None) == (body.error is None):
        raise InvalidInput("expected either `timing` or `error`")
    if body.timing is None:
        store.measurements.finish(name, id, body.lease, MeasurementFailure(str(body.error)), None, principal)
        return LeaseSchema(held=False)
    profile = store.measurements.profile_of(name, id)
    sittings = len(body.timing.sittings)
    chunks = sum(len(v.network_ms) + len(v.interrupted_ms) for s in body.timing.sittings for v in s.visits)
    if sittings < profile.protocol.sittings or chunks > MAX_CHUNKS:
        raise InvalidInput(
            f"expected at least {profile.protocol.sittings} sittings and at most {MAX_CHUNKS} times, "
            f"got {sittings} and {chunks}"
        )
    for sitting in body.timing.sittings:
        for visit in sitting.visits:
            check_visit(visit)
    store.measurements.finish(name, id, body.lease, judge(body.timing, profile), body.timing, principal)
    return LeaseSchema(held=False)


def _profile(name: str, body: ProfileBody) -> DeviceProfile:
    """The profile with this service's measurement protocol, of which threads, batch and precision come from the
    agent."""
    return DeviceProfile(
        name=name,
        protocol=MeasurementProtocol(threads=body.threads, batch=body.batch, precision=body.precision),
        source="agent",
        machine=body.machine,
        processor=body.processor,
        cores=body.cores,
        runtime=body.runtime,
        runtime_version=body.runtime_version,
        os=body.os,
        driver=body.driver,
        affinity=tuple(body.affinity),
        canary_ms=body.canary_ms,
        noise=body.noise,
    )

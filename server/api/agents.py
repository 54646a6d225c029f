"""What device agents ask: who they are, the next task, its model, and where to put what they measured."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Body, Path, Query, Response

from nas.core.device import DeviceProfile, MeasurementProtocol
from nas.core.errors import InvalidInput
from nas.core.spec import Name
from nas.schemas.agents import (
    AgentBody,
    AgentRegistrationSchema,
    AgentSchema,
    ClaimBody,
    ClaimSchema,
    LeaseBody,
    LeaseSchema,
    MeasurementTaskSchema,
    ProfileBody,
    ResultBody,
)
from predictors.measurement.protocol import Timing, judge
from server.api.access import By
from server.api.errors import responses
from server.store.store import Store

MAX_CHUNKS = 50_000  # of one network
AgentName = Annotated[Name, Path(description="Name of the agent, which is that of its device")]
TaskId = Annotated[str, Path(max_length=64)]


def routes(store: Store) -> APIRouter:
    """The routes of agents."""
    router = APIRouter(tags=["agents"])

    @router.get("/agents", summary="All agents")
    def agents() -> list[AgentSchema]:
        """The agents that have ever registered, by name, and when they were last heard of."""
        return store.queries.agents()

    @router.put("/agents/{name}", summary="Register an agent", responses=responses(409))
    def register(name: AgentName, body: AgentBody, by: By) -> AgentRegistrationSchema:
        """An agent says what its machine is. The name becomes that of a device once `nas devices add NAME --agent` is
        asked for."""
        profile = store.measurements.register(name, body.instance, _profile(name, body.profile), body.versions, by)
        return AgentRegistrationSchema(profile=profile.as_json() if profile is not None else None)

    @router.post("/agents/{name}/claim", summary="The next task", responses=responses(404, 409))
    def claim(name: AgentName, body: ClaimBody, by: By) -> ClaimSchema:
        """A network to measure, for as long as its lease is renewed. One task at a time."""
        task = store.measurements.claim(name, body.instance, by)
        if task is None:
            return ClaimSchema(task=None)
        return ClaimSchema(
            task=MeasurementTaskSchema(
                id=task.id,
                lease=task.lease,
                network=task.network,
                sha256=task.blob,
                profile=dict(task.profile),
                seconds=task.seconds,
            )
        )

    @router.get(
        "/agents/{name}/tasks/{id}/model",
        summary="The model of a task",
        response_class=Response,
        responses={200: {"content": {"application/octet-stream": {}}}, **responses(404, 409, 507)},
    )
    def model(
        name: AgentName, id: TaskId, by: By, lease: Annotated[str, Query(min_length=1, max_length=64)]
    ) -> Response:
        """The ONNX model, whose sha256 came with the task."""
        data = store.blobs.get(store.measurements.model(name, id, lease, by))
        return Response(data, media_type="application/octet-stream")

    @router.post("/agents/{name}/tasks/{id}/beat", summary="Renew a lease", responses=responses(404))
    def beat(name: AgentName, id: TaskId, body: LeaseBody, by: By) -> LeaseSchema:
        """The agent is still at it."""
        return LeaseSchema(held=store.measurements.beat(name, id, body.lease, by))

    @router.post("/agents/{name}/tasks/{id}/release", summary="Give a task back", responses=responses(404))
    def release(name: AgentName, id: TaskId, body: LeaseBody, by: By) -> LeaseSchema:
        """The agent stops; somebody else may measure this network, or the same agent later."""
        store.measurements.release(name, id, body.lease, by)
        return LeaseSchema(held=False)

    @router.post("/agents/{name}/tasks/{id}/result", summary="Send a result", responses=responses(404, 409))
    def result(name: AgentName, id: TaskId, body: Annotated[ResultBody, Body()], by: By) -> LeaseSchema:
        """Raw times, which are judged here by the measuring protocol; or an error. Sent again, it changes nothing."""
        if (body.timing is None) == (body.error is None):
            raise InvalidInput("expected either `timing` or `error`")
        if body.timing is None:
            store.measurements.finish(name, id, body.lease, str(body.error), None, by)
            return LeaseSchema(held=False)
        profile = store.measurements.profile_of(name, id)
        rounds, chunks = len(body.timing.blocks_ms), sum(map(len, body.timing.blocks_ms))
        if rounds != profile.protocol.rounds or chunks > MAX_CHUNKS:
            raise InvalidInput(
                f"expected {profile.protocol.rounds} rounds and at most {MAX_CHUNKS} times, got {rounds} and {chunks}"
            )
        raw = body.timing.model_dump()
        store.measurements.finish(name, id, body.lease, judge(Timing.from_json(raw), profile), raw, by)
        return LeaseSchema(held=False)

    return router


def _profile(name: str, body: ProfileBody) -> DeviceProfile:
    """The protocol is this service's own; only the number of threads is the agent's."""
    given = body.model_dump(exclude={"threads"})
    protocol = MeasurementProtocol(threads=body.threads)
    profile = DeviceProfile(name=name, protocol=protocol, source="agent", **given)
    return replace(profile, affinity=tuple(body.affinity))

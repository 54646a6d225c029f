"""Tables of latencies: uploaded first, and then named by a device that is added."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool

from nas.core.errors import InvalidInput
from nas.schemas.predictors import LatencyTableSchema
from predictors.onboarding.tables import Kind, read_table
from server.api.errors import responses
from server.store.store import Store

KINDS: dict[str, Kind] = {
    "text/csv": "csv",
    "application/json": "json",
    "application/vnd.apache.parquet": "parquet",
}
_FILES = {
    "requestBody": {
        "required": True,
        "content": {
            "text/csv": {"schema": {"type": "string"}},
            "application/json": {
                "schema": {"anyOf": [{"type": "object"}, {"type": "array", "items": {"type": "object"}}]},
                "example": [{"arch": "0-1-2", "ms": 1.25}, {"arch": "0-0-0", "ms": 0.75}],
            },
            "application/vnd.apache.parquet": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}


def routes(store: Store) -> APIRouter:
    """The route of tables."""
    router = APIRouter(tags=["devices"])

    @router.post(
        "/tables",
        status_code=201,
        summary="Upload a table of latencies",
        openapi_extra=_FILES,
        responses=responses(408, 413, 415, 507),
    )
    async def upload(request: Request) -> LatencyTableSchema:
        """Rows of architectures with `ms`, or `ms.NAME` for each of several devices. The answer's `blob` is what a
        device with the source `table` names; a table that no device names within a day is forgotten."""
        media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media not in KINDS:
            raise InvalidInput(f"expected a Content-Type of {', '.join(KINDS)}, got {media[:100]!r}")
        return await run_in_threadpool(_keep, await request.body(), KINDS[media], store)

    return router


def _keep(data: bytes, kind: Kind, store: Store) -> LatencyTableSchema:
    table = read_table(data, kind)
    return LatencyTableSchema(
        blob=store.blobs.put(table.dump()), rows=len(table), devices=[d for d in table.devices if d]
    )

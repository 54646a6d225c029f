"""Upload of latency tables, which devices with the source ``table`` refer to."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool

from nas.core.errors import InvalidInput
from nas.schemas.predictors import LatencyTableSchema
from predictors.onboarding.table_child import read_isolated
from predictors.onboarding.tables import Kind
from server.api.context import CurrentStore
from server.api.errors import responses
from server.store.store import Store

KIND_BY_MEDIA_TYPE: dict[str, Kind] = {
    "text/csv": "csv",
    "application/json": "json",
    "application/vnd.apache.parquet": "parquet",
}
_REQUEST_BODY = {
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

router = APIRouter(tags=["devices"])


@router.post(
    "/tables",
    status_code=201,
    summary="Upload a latency table",
    openapi_extra=_REQUEST_BODY,
    responses=responses(408, 413, 415, 507),
)
async def upload_table(request: Request, store: CurrentStore) -> LatencyTableSchema:
    """Rows of architectures with `ms`, or `ms.NAME` for each of several devices. A device with the source `table` names
    the `blob` of the response; a table without such a device is deleted after a day."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in KIND_BY_MEDIA_TYPE:
        raise InvalidInput(f"expected a Content-Type of {', '.join(KIND_BY_MEDIA_TYPE)}, got {media_type[:100]!r}")
    return await run_in_threadpool(_store_table, await request.body(), KIND_BY_MEDIA_TYPE[media_type], store)


def _store_table(data: bytes, kind: Kind, store: Store) -> LatencyTableSchema:
    table = read_isolated(data, kind)
    devices = [name for name in table.devices if name]
    return LatencyTableSchema(blob=store.blobs.put(table.dump()), rows=len(table), devices=devices)

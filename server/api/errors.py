"""Error responses: one table from error classes to HTTP statuses, one schema for all of them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from nas.core.errors import (
    Conflict,
    Forbidden,
    HwnasError,
    InvalidInput,
    InvalidSpec,
    MeasurementRefused,
    NotFound,
    QuotaExceeded,
    StorageBusy,
    StorageError,
    Unauthorised,
)
from nas.core.spec import parse_spec
from nas.schemas.common import ErrorSchema

log = logging.getLogger(__name__)

STATUSES: dict[type[HwnasError], int] = {
    InvalidInput: 422,  # and its subclasses: invalid_spec, invalid_data, unknown_name, infeasible_bound
    Unauthorised: 401,
    Forbidden: 403,
    NotFound: 404,
    QuotaExceeded: 429,
    Conflict: 409,
    MeasurementRefused: 503,
    StorageBusy: 503,
    StorageError: 507,
    HwnasError: 500,
}
_CODES = {
    400: "invalid_input",
    404: "not_found",
    405: "method_not_allowed",
    408: "too_slow",
    413: "too_large",
    414: "too_large",
    415: "unsupported",
    422: "invalid_input",
    429: "too_many_streams",
    431: "too_large",
}
OpenApiResponses = dict[int | str, dict[str, Any]]  # descriptions by status, as FastAPI takes them
RETRY_AFTER_S = 2  # for a database that is busy
MAX_MESSAGE = 2_000  # characters of a message that repeats an invalid value


def responses(*statuses: int) -> OpenApiResponses:
    """The error responses of a route, for OpenAPI."""
    return {s: {"model": ErrorSchema, "description": HTTPStatus(s).phrase} for s in statuses}


def install(app: FastAPI) -> None:
    """Make every error of ``app`` an ``ErrorSchema``."""
    app.add_exception_handler(HwnasError, _hwnas)
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _unexpected)


def error_response(error: HwnasError) -> JSONResponse:
    """The response for an error of ``nas.core.errors``; its class, or its nearest base, sets the status."""
    status = next(STATUSES[c] for c in type(error).__mro__ if c in STATUSES)
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
    if isinstance(error, StorageBusy):
        headers = {"Retry-After": str(RETRY_AFTER_S)}
    return _response(status, error.code, str(error), headers)


def refusal(status: int, message: str) -> JSONResponse:
    """The response for a request that middleware refuses."""
    return _response(status, _CODES.get(status, "error"), message)


def _response(status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    text = message.encode(errors="replace").decode()  # a lone surrogate in the request cannot be encoded
    return JSONResponse(ErrorSchema(code=code, message=text).model_dump(), status, headers)


async def _hwnas(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HwnasError)
    return error_response(error)


async def _validation(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    field = request.scope["route"].body_field
    if field is not None and isinstance(error.body, dict):
        try:
            parse_spec(field.field_info.annotation, error.body)  # its message also lists the valid keys
        except InvalidSpec as spec_error:
            return error_response(InvalidSpec(_short(str(spec_error))))
    lines = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}, got {_short(repr(e.get('input')))}" for e in error.errors()]
    return error_response(InvalidInput("; ".join(lines)))


async def _http(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    code = _CODES.get(error.status_code, "error")
    return _response(error.status_code, code, str(error.detail), error.headers)


async def _unexpected(request: Request, error: Exception) -> JSONResponse:
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return _response(500, "error", f"internal error: {type(error).__name__}; see the log of the service")


def _short(text: str) -> str:
    return text if len(text) <= MAX_MESSAGE else text[:MAX_MESSAGE] + " ..."

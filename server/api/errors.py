"""Errors as answers: one table from error classes to statuses, one shape for all of them."""

from __future__ import annotations

import logging
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
    StorageError,
    Unauthorised,
)
from nas.core.spec import parse_spec
from nas.schemas.common import ErrorSchema

log = logging.getLogger(__name__)

STATUSES: dict[type[HwnasError], int] = {
    InvalidInput: 422,  # and all its kinds: invalid_spec, invalid_data, unknown_name, infeasible_bound
    Unauthorised: 401,
    Forbidden: 403,
    NotFound: 404,
    QuotaExceeded: 429,
    Conflict: 409,
    MeasurementRefused: 503,
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
_SHOWN = 200  # characters of a wrong value that are repeated in a message


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The error answers of a route, for OpenAPI."""
    return {s: {"model": ErrorSchema, "description": HTTPStatus(s).phrase} for s in statuses}


def install(app: FastAPI) -> None:
    """Every error leaves as a ``ErrorSchema``."""
    app.add_exception_handler(HwnasError, _hwnas)
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _unexpected)


def problem(error: HwnasError) -> JSONResponse:
    """The answer for an error of ours; its class, or the nearest base in the table, gives the status."""
    status = next(STATUSES[c] for c in type(error).__mro__ if c in STATUSES)
    return _answer(status, error.code, str(error), {"WWW-Authenticate": "Bearer"} if status == 401 else None)


def answer(status: int, message: str) -> JSONResponse:
    """The answer for a request that is refused before it reaches a route."""
    return _answer(status, _CODES.get(status, "error"), message)


def _answer(status: int, code: str, message: str, headers: Any = None) -> JSONResponse:
    text = message.encode(errors="replace").decode()  # a lone surrogate of the request cannot be sent back
    return JSONResponse(ErrorSchema(code=code, message=text).model_dump(), status, headers)


async def _hwnas(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HwnasError)
    return problem(error)


async def _validation(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    field = request.scope["route"].body_field
    if field is not None and isinstance(error.body, dict):
        try:
            parse_spec(field.field_info.annotation, error.body)  # says it better: the known keys, what came instead
        except InvalidSpec as spec_error:
            return problem(InvalidSpec(_short(str(spec_error))))
    lines = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}, got {_short(repr(e.get('input')))}" for e in error.errors()]
    return problem(InvalidInput("; ".join(lines)))


async def _http(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    code = _CODES.get(error.status_code, "error")
    return _answer(error.status_code, code, str(error.detail), error.headers)


async def _unexpected(request: Request, error: Exception) -> JSONResponse:
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return _answer(500, "error", f"an error inside the service: {type(error).__name__}; its log says more")


def _short(text: str) -> str:
    return text if len(text) <= 10 * _SHOWN else text[: 10 * _SHOWN] + " ..."

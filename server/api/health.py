"""Liveness, readiness and metrics: for load balancers, supervisors and Prometheus.

Liveness and readiness need no token; metrics are for administrators.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from fastapi import APIRouter, Request, Response

from nas.core.errors import HwnasError
from nas.schemas.service import HealthCheckSchema, ReadinessSchema
from server.api.context import CheckResult, Context
from server.logs import redact
from server.probes import Probe, ask_all
from server.settings import Settings
from server.store.store import Store

log = logging.getLogger(__name__)

CHECKS_TIMEOUT_S = 3.0  # for all checks together; a check without an answer by then has failed
MIN_FREE_SHARE = 0.02  # of the disk that holds the home folder
_OPTIONAL = "dispatcher"  # without one, requests are served and searches wait

router = APIRouter(tags=["health"])


@router.get("/healthz", summary="Is the process alive?")
async def healthz() -> dict[str, str]:
    """Answer without any check."""
    return {"status": "ok"}


@router.get("/readyz", summary="Can it serve?", responses={503: {"model": ReadinessSchema}})
def readyz(context: Context, response: Response) -> ReadinessSchema:
    """Database, schema, storage, disk and dispatcher; 503 if one of the first four fails.

    Where tokens are required, the reasons of failures go to the log only.
    """
    readiness = check_readiness(context.probes, private=context.authorizer.tokens_required)
    response.status_code = 200 if readiness.ready else 503
    return readiness


@router.get("/metrics", summary="Prometheus metrics", response_class=Response, include_in_schema=False)
def metrics(request: Request, context: Context) -> Response:
    """Text in Prometheus's format, for administrators."""
    context.authorizer.authenticate(request).require("admin")
    return Response(context.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def readiness_checks(settings: Settings, store: Store) -> dict[str, Callable[[], CheckResult]]:
    """The checks of everything that serving needs, by name."""

    def database() -> CheckResult:
        store.queries.counts(1.0)
        return CheckResult(store.queries.database, ok=True)

    def schema() -> CheckResult:
        current, expected = store.queries.revision(), store.queries.expected_revision
        detail = f"revision {current}" if current == expected else f"revision {current}, expected {expected}"
        return CheckResult(detail, ok=current == expected)

    def storage() -> CheckResult:
        content = b"ready?"
        return CheckResult("written and read", ok=store.blobs.get(store.blobs.put(content)) == content)

    def disk() -> CheckResult:
        return _check_disk(settings.home)

    def dispatcher() -> CheckResult:
        connected = store.queries.counts(2 * settings.lease_seconds)[0]
        return CheckResult(f"{connected} connected", ok=connected > 0)

    return {"database": database, "schema": schema, "storage": storage, "disk": disk, _OPTIONAL: dispatcher}


def check_readiness(
    probes: Mapping[str, Probe[CheckResult]], *, private: bool, timeout_s: float = CHECKS_TIMEOUT_S
) -> ReadinessSchema:
    """Run all checks in parallel. ``private``: report errors, which may name hosts and users, to the log only."""
    checks = [_check_schema(name, result, private) for name, result in ask_all(probes, timeout_s).items()]
    return ReadinessSchema(ready=all(check.status != "failed" for check in checks), checks=checks)


def _check_schema(name: str, result: CheckResult | HwnasError, private: bool) -> HealthCheckSchema:
    if isinstance(result, HwnasError):
        log.warning("not ready: %s: %s", name, result)
        result = CheckResult("failed; see the log" if private else redact(str(result)), ok=False)
    status = "ok" if result.ok else "warning" if name == _OPTIONAL else "failed"
    return HealthCheckSchema(name=name, status=status, detail=result.detail)


def _check_disk(home: Path) -> CheckResult:
    usage = shutil.disk_usage(home)
    return CheckResult(
        f"{usage.free / 1e9:.1f} of {usage.total / 1e9:.1f} GB free", ok=usage.free > MIN_FREE_SHARE * usage.total
    )

"""Is it alive, is it ready, and how does it do: for load balancers, supervisors and Prometheus. No token is asked of
the first two; the figures are for administrators."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from nas.core.errors import HwnasError
from nas.schemas.service import HealthCheckSchema, ReadinessSchema
from server.api.access import Guard
from server.api.figures import Figures
from server.logs import redact
from server.probes import Probe, ask_all
from server.settings import Settings
from server.store.store import Store

log = logging.getLogger(__name__)

CHECK_S = 3.0  # for all checks together; what has not answered by then has failed
LEAST_FREE = 0.02  # of the disk that the home folder is on
_MAY_FAIL = "dispatcher"  # requests are served all the same; searches wait


def routes(settings: Settings, store: Store, guard: Guard, figures: Figures) -> APIRouter:
    """The routes outside of ``/v1``."""
    router = APIRouter(tags=["health"])
    probes = {name: Probe(name, check) for name, check in checks(settings, store).items()}

    @router.get("/healthz", summary="Is the process alive?")
    async def healthz() -> dict[str, str]:
        """Answers without a look at anything else."""
        return {"status": "ok"}

    @router.get(
        "/readyz", summary="Can it serve?", response_model=ReadinessSchema, responses={503: {"model": ReadinessSchema}}
    )
    def readyz() -> Any:
        """Database, schema, storage, disk and dispatcher; 503 when one of the first four fails.

        Where tokens are needed, what went wrong is said in the log only.
        """
        view = ready(probes, private=guard.closed)
        return JSONResponse(view.model_dump(), 200 if view.ready else 503)

    @router.get("/metrics", summary="Figures for Prometheus", response_class=Response, include_in_schema=False)
    def metrics(request: Request) -> Response:
        """Text in Prometheus's format, for administrators."""
        guard.principal(request).require("admin")
        return Response(figures.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return router


Check = Callable[[], tuple[str, bool]]


def checks(settings: Settings, store: Store) -> dict[str, Check]:
    """What serving needs: each says what it found, and whether that is good."""

    def database() -> tuple[str, bool]:
        store.queries.counts(1.0)
        return store.queries.database, True

    def schema() -> tuple[str, bool]:
        found, newest = store.queries.revision(), store.queries.newest
        return f"revision {found}" if found == newest else f"revision {found}, expected {newest}", found == newest

    def storage() -> tuple[str, bool]:
        probe = b"ready?"
        return "written and read", store.blobs.get(store.blobs.put(probe)) == probe

    def disk() -> tuple[str, bool]:
        return _disk(settings.home)

    def dispatcher() -> tuple[str, bool]:
        connected = store.queries.counts(2 * settings.lease_seconds)[0]
        return f"{connected} connected", connected > 0

    return {"database": database, "schema": schema, "storage": storage, "disk": disk, _MAY_FAIL: dispatcher}


def ready(probes: dict[str, Probe[tuple[str, bool]]], *, private: bool, seconds: float = CHECK_S) -> ReadinessSchema:
    """Makes every check at once. ``private`` keeps errors, which may name hosts and users, to the log."""
    views = [_view(name, found, private) for name, found in ask_all(probes, seconds).items()]
    return ReadinessSchema(ready=all(view.status != "failed" for view in views), checks=views)


def _view(name: str, found: tuple[str, bool] | HwnasError, private: bool) -> HealthCheckSchema:
    if isinstance(found, HwnasError):
        log.warning("not ready: %s: %s", name, found)
        detail, good = "failed; the log says why" if private else redact(str(found)), False
    else:
        detail, good = found
    return HealthCheckSchema(
        name=name, status="ok" if good else "warning" if name == _MAY_FAIL else "failed", detail=detail
    )


def _disk(home: Path) -> tuple[str, bool]:
    usage = shutil.disk_usage(home)
    return f"{usage.free / 1e9:.1f} of {usage.total / 1e9:.1f} GB free", usage.free > LEAST_FREE * usage.total

"""Dry runs: a worker runs and times a few steps of each stage, while the request waits."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
from starlette.concurrency import run_in_threadpool

from nas.core.access import Principal
from nas.core.cost_estimate import COST_STAGE
from nas.core.errors import InvalidSpec
from nas.core.lifecycle import ENDED
from nas.core.spec import SearchSpec
from nas.schemas.dry_runs import DryRunSchema
from server.api.validate import SubmissionReport
from server.store.store import Store

POLL_S = 0.25


async def time_on_worker(
    spec: SearchSpec,
    report: SubmissionReport,
    store: Store,
    principal: Principal,
    wait_s: float,
    heartbeat_limit_s: float,
    is_disconnected: Callable[[], Awaitable[bool]],
) -> DryRunSchema:
    """The report's schema with the cost that a worker estimates within ``wait_s``, or with the reason for none.

    Returns at once if nothing can be timed: no worker sent a heartbeat within ``heartbeat_limit_s``, or the search is
    infeasible. The job is always removed, also when ``is_disconnected`` reports that the client has gone.
    """
    dry_run = report.dry_run
    if not dry_run.feasible:
        return _without_cost(dry_run, "the search is infeasible")
    workers, _, _ = await run_in_threadpool(store.queries.counts, heartbeat_limit_s)
    if workers == 0:
        return _without_cost(dry_run, "no worker is connected that could time it")

    def submit() -> str:
        return store.jobs.submit(spec, None, dry_run=True, space_id=report.space.id, stages=(COST_STAGE,), by=principal)

    try:
        job_id = await run_in_threadpool(submit)
    except InvalidSpec as error:  # it requires more than any node has
        infeasible = dry_run.model_copy(update={"feasible": False, "problems": [str(error)]})
        return _without_cost(infeasible, "the search is infeasible")
    try:
        return await _wait(dry_run, job_id, store, wait_s, is_disconnected)
    finally:
        with anyio.CancelScope(shield=True):
            await run_in_threadpool(store.jobs.discard, job_id)


async def _wait(
    dry_run: DryRunSchema,
    job_id: str,
    store: Store,
    wait_s: float,
    is_disconnected: Callable[[], Awaitable[bool]],
) -> DryRunSchema:
    deadline = anyio.current_time() + wait_s
    while True:
        progress = await run_in_threadpool(store.queries.dry_run, job_id)
        if progress.cost is not None:
            return dry_run.model_copy(update={"cost": progress.cost})
        if progress.status in ENDED:
            return _without_cost(dry_run, f"the worker could not time it: {progress.error or progress.status}")
        if await is_disconnected():
            return _without_cost(dry_run, "the client disconnected")
        if anyio.current_time() >= deadline:
            if progress.status == "queued":
                return _without_cost(dry_run, f"no worker was free within {wait_s:g} s: {progress.waiting}")
            return _without_cost(dry_run, f"not done within {wait_s:g} s ({progress.doing}); allow it more time")
        await anyio.sleep(min(POLL_S, max(0.0, deadline - anyio.current_time())))


def _without_cost(dry_run: DryRunSchema, reason: str) -> DryRunSchema:
    return dry_run.model_copy(update={"cost": None, "cost_missing": reason})

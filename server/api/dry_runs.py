"""Dry runs: a worker really runs a few steps of each stage, while the request waits."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
from starlette.concurrency import run_in_threadpool

from nas.core.access import Principal
from nas.core.errors import InvalidSpec
from nas.core.lifecycle import ENDED
from nas.core.spec import SearchSpec
from nas.engine import COST_STAGE
from nas.schemas.dry_runs import DryRunSchema
from server.api.validate import Report
from server.store.store import Store

POLL_S = 0.25


async def time_on_worker(
    spec: SearchSpec,
    report: Report,
    store: Store,
    by: Principal,
    wait_s: float,
    heard_s: float,
    gone: Callable[[], Awaitable[bool]],
) -> DryRunSchema:
    """The report's view with the cost that a worker found within ``wait_s``, or with why there is none.

    Answers at once where nothing can be timed: no worker was heard of within ``heard_s``, or the search cannot run.
    Whatever happens, and also when ``gone`` says that nobody waits for the answer any more, no job is left behind.
    """
    view = report.view
    if not view.feasible:
        return _without_cost(view, "the search cannot run as it is written")
    workers, _, _ = await run_in_threadpool(store.queries.counts, heard_s)
    if workers == 0:
        return _without_cost(view, "no worker is connected that could time it")

    def submit() -> str:
        record = spec.model_dump(mode="json")
        return store.jobs.submit("dry_run", record, None, space_id=report.space.id, stages=(COST_STAGE,), by=by)

    try:
        job_id = await run_in_threadpool(submit)
    except InvalidSpec as error:  # it asks for more than any node has
        refused = view.model_copy(update={"feasible": False, "problems": [str(error)]})
        return _without_cost(refused, "the search cannot run as it is written")
    try:
        return await _wait(view, job_id, store, wait_s, gone)
    finally:
        with anyio.CancelScope(shield=True):
            await run_in_threadpool(store.jobs.discard, job_id)


async def _wait(
    view: DryRunSchema, job_id: str, store: Store, wait_s: float, gone: Callable[[], Awaitable[bool]]
) -> DryRunSchema:
    deadline = anyio.current_time() + wait_s
    while True:
        found = await run_in_threadpool(store.queries.dry_run, job_id)
        if found.cost is not None:
            return view.model_copy(update={"cost": found.cost})
        if found.status in ENDED:
            return _without_cost(view, f"the worker could not time it: {found.error or found.status}")
        if await gone():
            return _without_cost(view, "nobody waits for it any more")
        if anyio.current_time() >= deadline:
            if found.status == "queued":
                return _without_cost(view, f"no worker was free within {wait_s:g} s: {found.waiting}")
            return _without_cost(view, f"not done within {wait_s:g} s ({found.doing}); allow it more time")
        await anyio.sleep(min(POLL_S, max(0.0, deadline - anyio.current_time())))


def _without_cost(view: DryRunSchema, why: str) -> DryRunSchema:
    return view.model_copy(update={"cost": None, "cost_missing": why})

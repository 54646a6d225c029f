"""What the stages of a search will take: as a dry run of the same work timed them, or as an earlier search took.

Two searches are the same work if their specs differ in name and seed alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from pydantic import JsonValue
from sqlalchemy import delete
from sqlalchemy.orm import Session

from nas.schemas.dry_runs import read_cost_estimate
from server.store.database import upsert
from server.store.models import Base, Job, StagePricesRow

_LIFETIME_S = 90 * 24 * 3600.0
_prices = Base.metadata.tables["stage_prices"]


def keep_dry_run(session: Session, job: Job, cost: Mapping[str, object], now: float) -> None:
    """Keep the prices that a dry run has found, of all stages that could be timed."""
    stages = read_cost_estimate(cost).stages
    _keep(session, job, {s.stage: s.seconds for s in stages if s.seconds is not None}, now)


def keep_finished_search(session: Session, job: Job, now: float) -> None:
    """Keep what the stages of a search took, unless it was interrupted, when no stage's time is that of the whole."""
    if job.attempts == 1:
        _keep(session, job, job.state.seconds, now)


def known_prices(session: Session, owner: str, spec: Mapping[str, JsonValue]) -> Mapping[str, float]:
    """Seconds by stage, of the owner's last dry run or search of the same work; empty without either."""
    row = session.get(StagePricesRow, (owner, _work(spec)))
    return row.seconds if row is not None else {}


def _keep(session: Session, job: Job, seconds: Mapping[str, float], now: float) -> None:
    session.execute(delete(StagePricesRow).where(StagePricesRow.at < now - _LIFETIME_S))
    upsert(session, _prices, {"owner": job.owner, "work": _work(job.spec), "seconds": dict(seconds), "at": now})


def _work(spec: Mapping[str, JsonValue]) -> str:
    """The sha256 of all of a spec that its cost depends on."""
    work = {key: entry for key, entry in spec.items() if key not in ("name", "seed")}
    return hashlib.sha256(json.dumps(work, sort_keys=True).encode()).hexdigest()

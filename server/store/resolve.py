"""What a worker needs beside the spec, looked up when a job is claimed, so that a worker needs no database."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from nas.core.device import DeviceProfile
from nas.core.errors import InvalidSpec
from nas.core.metrics import METRICS
from nas.core.spec import DeviceSpec, SearchSpec
from server.store.measurements import results
from server.store.models import AgentRow, DeviceRow, Job, PointRow, PredictorRow, ReadingRow


def resolve(session: Session, job: Job) -> dict[str, Any]:
    """Profile, predictor, trained supernet and inherited points of a search; nothing for a device.

    A search keeps the version of the predictor that it got first, which is written down in ``job``. Over a fleet,
    ``fleet`` has profile and predictor of every device; those of the first stand beside it.

    Raises InvalidSpec for what is not there (any more).
    """
    measured = {"measurements": results(session, job.id)}
    if job.kind == "device":
        spec = DeviceSpec.model_validate(job.spec)
        kin = {"relatives": [blob for _, blob, _ in relatives_of(session, spec)]}
        if spec.source != "agent":
            return kin
        agent = session.get(AgentRow, job.name)
        if agent is None:
            raise InvalidSpec(f"no agent has registered as {job.name!r}")
        started = job.state.get("finished", {}).get("profile")
        return {"profile": started["profile"] if started else agent.profile, **measured, **kin}
    search = SearchSpec.model_validate(job.spec)
    devices = [_device(session, job, name) for name in search.devices]
    first = session.get_one(PredictorRow, devices[0]["predictor"]["id"])
    job.predictor_id = first.id
    return {
        **measured,
        "profile": devices[0]["profile"],
        "energy": devices[0]["energy"] if search.fleet is None else None,  # it is not told by device
        "predictor": devices[0]["predictor"],
        "learning": _learning(session, job, first) if search.fleet is None else None,
        "fleet": devices if search.fleet is not None else [],
        "supernet": _required_supernet(session, search.supernet) if search.supernet is not None else None,
        "inherited": _estimates(session, search.supernet) if search.supernet is not None else [],
    }


def _device(session: Session, job: Job, name: str) -> dict[str, Any]:
    """Profile and predictor of a device: the version of when the search began, whatever came later."""
    found = session.get(PredictorRow, job.predictor_id) if job.predictor_id is not None else None
    if found is None or found.device != name:
        found = find_predictor(session, name, job.space_id, until=job.started_at)
    if found is None:
        raise InvalidSpec(f"device {name!r} has no latency predictor for the space {job.space_id}")
    predictor = {"blob": found.blob, "family": found.family, "id": found.id}
    return {"name": name, "profile": found.profile, "predictor": predictor, "energy": energy_of(session, found)}


def relatives_of(session: Session, spec: DeviceSpec) -> list[tuple[str, str, int]]:
    """The other devices for the same space and data of which something is known: name, blob and number of networks, by
    name; the newest of each."""
    if not spec.beside_relatives:
        return []
    query = select(PredictorRow.device, Job.spec, Job.state).join(Job, Job.id == PredictorRow.id)
    rows = session.execute(query.where(PredictorRow.device != spec.name).order_by(PredictorRow.created_at))
    found: dict[str, tuple[str, str, int]] = {}
    for device, record, state in rows:
        other, fit = DeviceSpec.model_validate(record), state.get("finished", {}).get("fit", {})
        if (other.space, other.data) == (spec.space, spec.data) and "known" in fit:
            found[device] = (device, fit["known"], fit["networks"])
    return [found[name] for name in sorted(found)]


def find_predictor(
    session: Session, device: str, space_id: str | None, until: float | None = None
) -> PredictorRow | None:
    """The newest version of a device's predictor for a space that is none the worse for what it learned, preferring
    those of the device's present profile; of those made ``until`` a time, if given."""
    current = select(DeviceRow.profile_id).where(DeviceRow.name == device).scalar_subquery()
    return session.scalars(
        select(PredictorRow)
        .where(PredictorRow.device == device, PredictorRow.space_id == space_id, PredictorRow.better)
        .where(PredictorRow.created_at <= (until if until is not None else math.inf))
        .order_by((PredictorRow.profile_id == current).desc(), PredictorRow.number.desc())
        .limit(1)
    ).first()


def versions_before(session: Session, predictor: PredictorRow) -> list[PredictorRow]:
    """The versions that one grew from, itself first and that of the onboarding last."""
    chain = [predictor]
    while (before := chain[-1].before) is not None:
        chain.append(session.get_one(PredictorRow, before))
    return chain


def _learning(session: Session, job: Job, predictor: PredictorRow) -> dict[str, Any] | None:
    """What a search may feed back to: all that the predictor knows, and what else was measured alike on the device
    before the search began; None where nothing was ever measured."""
    if predictor.known is None:
        return None
    onboarding = session.get(Job, versions_before(session, predictor)[-1].id)
    found = onboarding.state.get("finished", {}).get("profile", {}) if onboarding is not None else {}
    protocol = DeviceProfile.from_json(predictor.profile).protocol.id
    readings = session.execute(
        select(ReadingRow.genes, ReadingRow.measured_ms)
        .where(ReadingRow.device == predictor.device, ReadingRow.space_id == predictor.space_id)
        .where(ReadingRow.profile_id == predictor.profile_id, ReadingRow.protocol == protocol)
        .where(ReadingRow.job_id != job.id, ReadingRow.measured_ms.is_not(None))
        .where(ReadingRow.at < (job.started_at if job.started_at is not None else math.inf))
        .order_by(ReadingRow.at, ReadingRow.id)
    ).all()
    return {
        "known": predictor.known,
        "relatives": [*found.get("relatives", ())],
        "genes": [row.genes for row in readings],
        "latency_ms": [row.measured_ms for row in readings],
    }


def energy_of(session: Session, predictor: PredictorRow) -> dict[str, str] | None:
    """Family and blob of what predicts energy where ``predictor`` predicts latency; None where nobody knows any."""
    fit = session.get_one(Job, versions_before(session, predictor)[-1].id).state.get("finished", {}).get("fit", {})
    found: dict[str, Any] | None = fit.get("energy")
    return None if found is None else {"family": found["family"], "blob": found["blob"]}


def supernet_of(session: Session, search_id: str) -> str | None:
    """The blob with the trained supernet of a search, or of the search that it reused; None while there is none."""
    job: Job | None = session.get(Job, search_id)
    while job is not None and job.kind == "search":
        trained: Mapping[str, Any] | None = job.state.get("finished", {}).get("train")
        if trained is not None and trained.get("supernet"):
            return str(trained["supernet"])
        if job.spec["supernet"] is None:
            checkpoint = job.state.get("checkpoints", {}).get("train")
            return str(checkpoint["blob"]) if trained is not None and checkpoint is not None else None
        job = session.get(Job, job.spec["supernet"])
    return None


def _required_supernet(session: Session, search_id: str) -> str:
    blob = supernet_of(session, search_id)
    if blob is None:
        raise InvalidSpec(f"search {search_id!r} has no trained supernet")
    return blob


def _estimates(session: Session, search_id: str) -> list[dict[str, Any]]:
    """The points of a search as JSON, with their estimated metrics only: all else belongs to its device and bounds."""
    rows = session.scalars(select(PointRow).where(PointRow.job_id == search_id).order_by(PointRow.position))
    return [
        {
            "arch": {"space": row.space, "genes": row.genes},
            "origin": row.origin,
            "metrics": {k: v for k, v in row.metrics.items() if METRICS[k].kind == "estimated"},
            "status": "unverified",
            "claim_ms": None,
            "measurement": None,
        }
        for row in rows
    ]

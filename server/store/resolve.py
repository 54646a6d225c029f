"""What a worker needs beside the spec, looked up when a job is claimed, so that a worker needs no database."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from nas.core.errors import InvalidSpec
from nas.core.metrics import METRICS
from nas.core.spec import DeviceSpec, SearchSpec
from server.store.measurements import results
from server.store.models import AgentRow, DeviceRow, Job, PointRow, PredictorRow


def resolve(session: Session, job: Job) -> dict[str, Any]:
    """Profile, predictor, trained supernet and inherited points of a search; nothing for a device.

    Over a fleet, ``fleet`` has profile and predictor of every device; those of the first stand beside it.

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
    devices = [_device(session, name, job.space_id) for name in search.devices]
    return {
        **measured,
        "profile": devices[0]["profile"],
        "energy": devices[0]["energy"] if search.fleet is None else None,  # it is not told by device
        "predictor": devices[0]["predictor"],
        "fleet": devices if search.fleet is not None else [],
        "supernet": _required_supernet(session, search.supernet) if search.supernet is not None else None,
        "inherited": _estimates(session, search.supernet) if search.supernet is not None else [],
    }


def _device(session: Session, name: str, space_id: str | None) -> dict[str, Any]:
    found = find_predictor(session, name, space_id)
    if found is None:
        raise InvalidSpec(f"device {name!r} has no latency predictor for the space {space_id}")
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


def find_predictor(session: Session, device: str, space_id: str | None) -> PredictorRow | None:
    """The newest predictor of a device for a space, preferring those of the device's present profile."""
    current = select(DeviceRow.profile_id).where(DeviceRow.name == device).scalar_subquery()
    return session.scalars(
        select(PredictorRow)
        .where(PredictorRow.device == device, PredictorRow.space_id == space_id)
        .order_by((PredictorRow.profile_id == current).desc(), PredictorRow.created_at.desc())
        .limit(1)
    ).first()


def energy_of(session: Session, predictor: PredictorRow) -> dict[str, str] | None:
    """Family and blob of what predicts energy where ``predictor`` predicts latency; None where nobody knows any."""
    fit = session.get_one(Job, predictor.id).state.get("finished", {}).get("fit", {})
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

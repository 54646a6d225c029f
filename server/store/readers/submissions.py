"""What the check of a new search or device needs from the store, read in one transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from nas.core.device import DeviceProfile
from nas.core.lifecycle import ENDED
from nas.core.runtimes import Precision
from nas.core.spec import DeviceSpec, SearchSpec
from server.store.database import reading
from server.store.job_payload import data_hash_of, supernet_of
from server.store.models import AgentRow, DeviceRow, Job, PointRow, PredictorRow
from server.store.onboardings import agent_of
from server.store.predictor_lookup import energy_of, find_predictor, relatives_of
from server.store.readers.base import Reader
from server.store.teachers import TeacherSearch, teacher_of, teacher_search


@dataclass(frozen=True)
class StoredPredictor:
    """A predictor in the blob store."""

    family: str
    blob: str


@dataclass(frozen=True)
class ParentSearch:
    """The search whose supernet another one reuses. ``supernet`` is the blob, None until training has finished;
    ``data_hash`` the content hash of its data, None where it is not recorded.

    ``inherited`` counts the candidates of the origin that has most of them.
    """

    owner: str
    spec: SearchSpec
    space_id: str | None
    supernet: str | None
    inherited: int
    data_hash: str | None = None


@dataclass(frozen=True)
class SubmissionContext:
    """The state of the service that decides whether a search can run.

    ``predictors`` holds the present predictor of each device of the search that has one; ``onboarding`` the devices of
    the search whose onboarding has not ended; ``precisions``: of those with a predictor; ``added`` how each known
    device of it was added last. ``energy`` is the energy predictor of a single device. ``teacher``: the search whose
    model ``retrain.teacher`` names.
    """

    device_names: tuple[str, ...]
    added: Mapping[str, DeviceSpec]
    onboarding: frozenset[str]
    predictors: Mapping[str, StoredPredictor]
    precisions: Mapping[str, Precision]
    energy: StoredPredictor | None
    parent: ParentSearch | None
    teacher: TeacherSearch | None = None


@dataclass(frozen=True)
class OnboardingContext:
    """The state of the service that decides whether a device can be added.

    ``owner`` is that of the device, ``agent_owner`` that of the agent of its name, None without one. ``source`` is that
    of the device's present profile, None without one. ``agent_profile`` is what the agent reports. ``relatives`` holds
    the number of measured networks of each other device that the new one could be fitted with; ``elsewhere``: whether
    the device itself was measured in another space.
    """

    agent_names: tuple[str, ...]
    owner: str | None
    agent_owner: str | None
    source: str | None
    agent_profile: DeviceProfile | None
    relatives: Mapping[str, int]
    measured_in_other_spaces: bool


class SubmissionReader(Reader):
    """Reads what submissions are checked against."""

    def submission_context(self, spec: SearchSpec, space_id: str) -> SubmissionContext:
        """The context of a search over the space ``space_id``."""
        with reading(self._engine) as session:
            rows = {name: find_predictor(session, name, space_id) for name in spec.devices}
            predictors = {name: row for name, row in rows.items() if row is not None}
            single = predictors.get(spec.device) if spec.fleet is None else None
            return SubmissionContext(
                device_names=tuple(session.scalars(select(DeviceRow.name).order_by(DeviceRow.name))),
                added={name: added for name in spec.devices if (added := _added(session, name)) is not None},
                onboarding=_onboarding(session, [name for name in spec.devices if name not in predictors]),
                predictors={name: StoredPredictor(row.family, row.blob) for name, row in predictors.items()},
                precisions={name: row.profile.protocol.precision for name, row in predictors.items()},
                energy=_energy(session, single) if single is not None else None,
                parent=_parent(session, spec.supernet) if spec.supernet is not None else None,
                teacher=teacher_search(session, teacher.search) if (teacher := teacher_of(spec)) is not None else None,
            )

    def added_device(self, device: str) -> DeviceSpec | None:
        """How a device was added last; None for an unknown one."""
        with reading(self._engine) as session:
            return _added(session, device)

    def onboarding_context(self, spec: DeviceSpec) -> OnboardingContext:
        """The context of an onboarding."""
        with reading(self._engine) as session:
            device = session.get(DeviceRow, spec.name)
            agent = agent_of(session, spec.name)
            relatives = relatives_of(session, spec)
            return OnboardingContext(
                agent_names=tuple(session.scalars(select(AgentRow.name).order_by(AgentRow.name))),
                owner=device.owner if device is not None else None,
                agent_owner=agent.owner if agent is not None else None,
                source=device.profile.source if device is not None and device.profile is not None else None,
                agent_profile=agent.profile if agent is not None else None,
                relatives={r.device: r.networks for r in relatives if not r.other_space},
                measured_in_other_spaces=any(r.other_space for r in relatives),
            )


def _added(session: Session, device: str) -> DeviceSpec | None:
    latest = select(Job.spec).where(Job.kind == "device", Job.name == device).order_by(Job.created_at.desc()).limit(1)
    record = session.scalar(latest)
    return None if record is None else DeviceSpec.model_validate(record)


def _onboarding(session: Session, devices: Sequence[str]) -> frozenset[str]:
    if not devices:
        return frozenset()
    active = select(Job.name).where(Job.kind == "device", Job.name.in_(devices), Job.status.not_in(ENDED))
    return frozenset(session.scalars(active))


def _energy(session: Session, predictor: PredictorRow) -> StoredPredictor | None:
    energy = energy_of(session, predictor)
    return StoredPredictor(energy.family, energy.blob) if energy is not None else None


def _parent(session: Session, search_id: str) -> ParentSearch | None:
    job = session.get(Job, search_id)
    if job is None or job.kind != "search":
        return None
    counts = select(func.count()).where(PointRow.job_id == search_id).group_by(PointRow.origin)
    return ParentSearch(
        owner=job.owner,
        spec=SearchSpec.model_validate(job.spec),
        space_id=job.space_id,
        supernet=supernet_of(session, search_id),
        data_hash=data_hash_of(session, search_id),
        inherited=max(session.scalars(counts), default=0),
    )

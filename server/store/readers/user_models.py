"""Models of users."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from nas.core.access import Principal
from nas.core.model_spec import ModelSpec
from nas.models.stored import latency_of, quality_of
from nas.schemas.user_models import ModelUserSchema, UserModelSchema
from server.store.database import reading
from server.store.mapping import job_schema
from server.store.models import Job, UserModelRow
from server.store.queue import wait_reasons
from server.store.readers.base import Reader
from server.store.user_models import UsableModel, preprocessing_of, require_model, require_usable, users_of


class UserModelReader(Reader):
    """Reads models of users."""

    def user_models(self, by: Principal) -> list[UserModelSchema]:
        """The models of a caller by name; for an administrator, those of all owners."""
        query = select(UserModelRow).order_by(UserModelRow.name)
        with reading(self._engine) as session:
            rows = session.scalars(query if by.is_admin else query.where(UserModelRow.owner == by.owner)).all()
            return [self._user_model_schema(session, row) for row in rows]

    def user_model(self, name: str, by: Principal) -> UserModelSchema:
        """One model. Raises NotFound, also for another owner's."""
        with reading(self._engine) as session:
            return self._user_model_schema(session, require_model(session, name, by))

    def model_users(self, name: str) -> list[ModelUserSchema]:
        """What needs a model, so that it cannot be deleted."""
        with reading(self._engine) as session:
            return [ModelUserSchema(kind=user.kind, name=user.name) for user in users_of(session, name)]

    def intake_job(self, name: str, by: Principal) -> str:
        """The id of the latest intake of a model. Raises NotFound, also for another owner's."""
        with reading(self._engine) as session:
            return require_model(session, name, by).job_id

    def stored_model(self, name: str, by: Principal | None = None) -> UsableModel:
        """A model that spaces can start from; of the caller, if one is given. Raises InvalidSpec if there is none of
        the name, or none that was read."""
        with reading(self._engine) as session:
            return require_usable(session, name, by)

    def _user_model_schema(self, session: Session, row: UserModelRow) -> UserModelSchema:
        job = session.get_one(Job, row.job_id)
        now = self._clock(session)
        waiting = wait_reasons(session, [job], now).get(job.id)
        return UserModelSchema(
            **{**vars(job_schema(job, job.state, waiting, now)), "owner": row.owner},
            name=row.name,
            spec=ModelSpec.model_validate(job.spec),
            summary=row.summary,
            graph=row.graph,
            weights=row.weights,
            report_blob=row.report,
            preprocessing=preprocessing_of(job),
            quality=quality_of(job.state.finished),
            latency=latency_of(job.state.finished),
            refused=job.state.refused,
        )

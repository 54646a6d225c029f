"""Migrate a database to the current schema. Runs at every start and does nothing if the schema is current."""

from __future__ import annotations

import logging
from functools import lru_cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, inspect, select, text
from sqlalchemy.orm import Session

from nas.core.errors import HwnasError, StorageError
from server.store.database import connect, require_own_tables, translated_errors
from server.store.fronts import rebuild_fronts
from server.store.models import FrontRow, Job

log = logging.getLogger(__name__)

_LOCK = 0x6877_6E61  # any number, the same in every process


def migrate(url: str) -> None:
    """Upgrade the database at ``url`` to the newest schema. Raises StorageError if its schema is newer than this
    version or the database cannot be used."""
    engine = connect(url)
    try:
        migrate_engine(engine)
    finally:
        engine.dispose()


def migrate_engine(engine: Engine) -> None:
    """As ``migrate``, for an engine. Concurrent processes are serialised, so that the first one upgrades."""
    with translated_errors(), engine.execution_options(hwnas_write=True).begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        require_own_tables(inspect(connection).get_table_names(), engine.url.render_as_string())
        before = MigrationContext.configure(connection).get_current_revision()
        if before == head():
            return
        try:
            command.upgrade(alembic_config(connection), "head")
        except CommandError as error:
            raise StorageError(f"this version of hwnas does not know the database's schema: {error}") from error
        _project_missing_fronts(connection)
        log.info("migrated the database schema from %s to %s", before or "nothing", head())


def _project_missing_fronts(connection: Connection) -> None:
    """Compute the fronts of searches of before fronts were stored."""
    with Session(connection, join_transaction_mode="rollback_only") as session, session.begin():
        missing = (Job.kind == "search", Job.point_count > 0, Job.id.not_in(select(FrontRow.job_id)))
        for job_id in session.scalars(select(Job.id).where(*missing)).all():
            try:
                rebuild_fronts(session, session.get_one(Job, job_id))
            except HwnasError as error:
                log.error("the front of search %s cannot be computed: %s", job_id, error)
            session.flush()
            session.expunge_all()


@lru_cache
def head() -> str:
    """Return the newest revision of this version."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")))
    config.set_main_option("path_separator", "os")
    return str(ScriptDirectory.from_config(config).get_current_head())


def alembic_config(connection: Connection) -> Config:
    """Return Alembic's configuration for an open connection."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config

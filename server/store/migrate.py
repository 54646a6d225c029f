"""Brings a database to the present schema. Runs at every start; does nothing when there is nothing to do."""

from __future__ import annotations

import logging
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, text

from nas.core.errors import StorageError
from server.store.database import connect, errors_as_ours

log = logging.getLogger(__name__)

_LOCK = 0x6877_6E61  # any number, the same in every process


def migrate(url: str) -> None:
    """Upgrades the database at ``url`` to the newest schema. Raises StorageError when it is newer than this version
    or cannot be used."""
    engine = connect(url)
    try:
        migrate_engine(engine)
    finally:
        engine.dispose()


def migrate_engine(engine: Engine) -> None:
    """As ``migrate``. Processes that start at once take turns: the first upgrades, the others find it done."""
    with errors_as_ours(), engine.execution_options(hwnas_write=True).begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        before = MigrationContext.configure(connection).get_current_revision()
        if before == head():
            return
        try:
            command.upgrade(alembic_config(connection), "head")
        except CommandError as error:
            raise StorageError(f"the database's schema is not known to this version of hwnas: {error}") from error
        log.info("the database's schema went from %s to %s", before or "nothing", head())


def head() -> str:
    """The newest revision that this version knows."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")))
    config.set_main_option("path_separator", "os")
    return str(ScriptDirectory.from_config(config).get_current_head())


def alembic_config(connection: Connection) -> Config:
    """Alembic's settings over an open connection."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config

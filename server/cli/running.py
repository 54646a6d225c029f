"""A file in the home folder that says where its service listens, for as long as the service runs."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ValidationError

from nas.core.errors import StorageError
from workers.processes import is_alive, own_process_name


class ServiceRecord(BaseModel):
    """Address of a service, and the process that serves it (``workers.processes.own_process_name``)."""

    url: str
    process: str


@contextmanager
def recorded(home: Path, url: str) -> Iterator[None]:
    """Record in ``home`` that this process serves ``url``, until the block ends. Raises StorageError."""
    path = _path(home)
    text = ServiceRecord(url=url, process=own_process_name()).model_dump_json()
    fresh = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    try:
        fresh.write_text(text)
        fresh.replace(path)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}") from error
    try:
        yield
    finally:
        record = read_record(home)
        if (
            record is not None and record.process == own_process_name()
        ):  # another service of the same home may have started
            path.unlink(missing_ok=True)


def read_record(home: Path) -> ServiceRecord | None:
    """The record of the service that runs on ``home`` in a process of this host; None if there is none.

    Raises StorageError for a file that cannot be read.
    """
    path = _path(home)
    try:
        record = ServiceRecord.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise StorageError(f"cannot read {path}: {error}. Delete it if no service runs on {home}") from error
    return record if is_alive(record.process) else None


def _path(home: Path) -> Path:
    return home / "service.json"

"""What a worker cannot store or read is no fault of its job."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nas.core.errors import DamagedBlob, HwnasError, InvalidSpec, StorageError
from workers import ray_cluster
from workers.attempt import AttemptOutcome
from workers.stream import stream_job


def run_failing_job(payload: Any, _blobs_url: str, _events: Any) -> Iterator[list[Any]]:
    """A job that raises its payload."""
    yield []
    raise payload


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (StorageError("the disk is full"), "unstored"),
        (DamagedBlob("blob 42 is damaged"), "unstored"),
        (InvalidSpec("no such thing"), "failed"),
    ],
)
def test_outcome_of_an_error_in_a_worker(error: HwnasError, status: Any) -> None:
    payload: Any = error
    messages = list(stream_job(f"{__name__}:run_failing_job", payload, "blobs", []))
    assert messages[-1] == AttemptOutcome(status, str(error))


def test_processes_of_a_local_ray_do_not_inherit_secrets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    inherited: list[dict[str, str]] = []
    monkeypatch.setenv("HWNAS_DATABASE_URL", "postgresql://me:s3cr3t@host/db")
    monkeypatch.setenv("HWNAS_TOKEN", "hwnas_s3cr3t")
    monkeypatch.setattr(ray_cluster, "_start_local", lambda *_: inherited.append(dict(os.environ)))
    with ray_cluster.ray_cluster(None, tmp_path, blobs_url=str(tmp_path)):
        pass
    [environment] = inherited
    assert "PATH" in environment
    assert not [name for name, value in environment.items() if "s3cr3t" in value]

"""Fixtures that several files of tests share: databases, and a browser."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# Several test processes share the cores, and threads that wait for each other there take many times as long. Set before
# any library that reads them is imported; child processes inherit them.
for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

from tests.support.browsing import ServedDashboard, browsing, served, watched  # noqa: E402
from tests.support.databases import migrated_once, postgres_missing, postgres_server, postgres_url  # noqa: E402

pytest.register_assert_rewrite("nas.testing")
settings.register_profile("shared cores", deadline=None)  # other processes may take the core at any time
settings.load_profile("shared cores")


@pytest.fixture(scope="session", autouse=True)
def _schema() -> Iterator[None]:
    """New SQLite databases are copies of one that was migrated."""
    with migrated_once():
        yield


@pytest.fixture(scope="session", autouse=True)
def _data_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Prepared data lie in a folder of the tests, also those of the processes that they start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HWNAS_DATA_CACHE", str(tmp_path_factory.mktemp("data-cache")))
        yield


@pytest.fixture
def one_thread() -> None:
    """Torch computes on one thread, whatever ran in this process before."""
    import torch  # most tests need none

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The folder of a PostgreSQL server."""
    if reason := postgres_missing():
        pytest.skip(reason)
    with postgres_server() as folder:
        yield folder


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of either kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'test.db'}"
    return postgres_url(request.getfixturevalue("postgres"), uuid.uuid4().hex)


@pytest.fixture(scope="module")
def dashboard() -> Iterator[ServedDashboard]:
    """A dashboard that shows searches and devices of every kind."""
    with served("full") as dashboard:
        yield dashboard


@pytest.fixture
def full(dashboard: ServedDashboard) -> str:
    """The address of that dashboard."""
    return dashboard.url


@pytest.fixture(scope="module")
def context() -> Iterator[Any]:
    """A browser."""
    with browsing() as context:
        yield context


@pytest.fixture
def page(context: Any) -> Iterator[Any]:
    """A page of it that is watched."""
    with watched(context) as page:
        yield page


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test below ``tests/acceptance``."""
    for item in items:
        if "acceptance" in item.path.parts:
            item.add_marker("acceptance")

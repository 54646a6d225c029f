"""A service in this process that takes in models: its API, its store, and a worker that runs what is queued."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from fastapi.testclient import TestClient

from nas.client import Client
from nas.core.access import LOCAL, Scope
from nas.core.errors import HwnasError
from nas.core.model_spec import FileSource, ModelSpec
from nas.schemas.user_models import UserModelDetailSchema
from server.api.app import create_app
from server.settings import Settings
from server.store.store import Store, open_store
from tests.support import fakes
from workers.runner import run_job


@dataclass(frozen=True)
class IntakeService:
    """``url`` is that of the blob store."""

    app: TestClient
    store: Store
    url: str
    clock: fakes.Clock

    @property
    def transport(self) -> httpx.BaseTransport:
        """What clients reach the API by."""
        transport: httpx.BaseTransport = self.app._transport
        return transport

    def client(self, owner: str = "ada", *scopes: Scope) -> Client:
        """A client with a token of its own."""
        _, token = self.store.tokens.create(owner, "test", scopes or ("submit", "device"), None, LOCAL)
        return Client(token=token, transport=self.transport)

    def work(self) -> None:
        """Run the oldest job to its end, as a worker does."""
        run_oldest_job(self.store, self.url)

    def add(self, client: Client, name: str, path: Path) -> UserModelDetailSchema:
        """Upload a file, take it in, and return the model as it is then."""
        source = FileSource(**client.upload_model_file(path).model_dump())
        client.add_model(ModelSpec(name=name, source=source))
        self.work()
        return client.model(name)


def run_oldest_job(store: Store, blobs_url: str) -> None:
    """Claim the oldest job and run it to its end, as a worker does."""
    lease = store.jobs.claim("tests", 600.0)
    assert lease is not None
    try:
        for number, batch in enumerate(run_job(lease.payload, blobs_url, lease.events), start=1):
            if store.jobs.append(lease, number, batch, 600.0) != "continue":
                return
    except HwnasError as error:
        store.jobs.finish(lease, "failed", str(error))
    else:
        store.jobs.finish(lease, "succeeded")


@contextmanager
def intake_service(folder: Path) -> Iterator[IntakeService]:
    """A service without models, which requires tokens."""
    clock, url = fakes.Clock(), str(folder / "blobs")
    with open_store(f"sqlite:///{folder}/db", url, clock) as store:
        app = create_app(Settings(home=folder, require_tokens=True), store)
        yield IntakeService(TestClient(app, "http://127.0.0.1", raise_server_exceptions=False), store, url, clock)

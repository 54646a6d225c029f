"""Uploading latency tables to an API in this process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from nas.core.arch import Arch, Decision, Floats, Genes, one_hot
from nas.core.layers import CustomLayer, Layer
from nas.core.plugins import SearchSpaceType
from nas.core.ports import ImageShape
from predictors.families.auto import AutoPredictor
from predictors.families.bayesian_linear import BayesianLinear
from predictors.families.transfer import Transfer
from server.api.app import create_app
from server.settings import Settings
from server.store.store import Store, open_store
from tests.support import fakes


class Layers(fakes.TinySpace):
    """A space that nobody has seen: 22 layers with 9 operations each."""

    name = "layers"

    def __init__(self, params: Mapping[str, Any], shape: ImageShape) -> None:
        super().__init__(params, shape)
        self.decisions = tuple(Decision(f"layer{i}", tuple(f"op{k}" for k in range(9))) for i in range(22))

    @property
    def id(self) -> str:
        return "layers-1"

    def canonical(self, genes_NG: Genes) -> Genes:
        return genes_NG

    def features(self, genes_NG: Genes) -> Floats:
        return one_hot(self.decisions, genes_NG)

    def costs(self, genes_NG: Genes) -> dict[str, Floats]:
        return {"params": 1.0 + genes_NG.sum(1), "macs": 1e4 * (1.0 + genes_NG.sum(1))}

    def layers(self, arch: Arch) -> list[Layer]:
        return [CustomLayer("l", (), (1, 8, 8), (4, 8, 8), "conv", 10 * (1 + g), 1000 * (1 + g)) for g in arch.genes]


@pytest.fixture(name="plugins")
def table_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    fakes.use_plugins(monkeypatch)
    monkeypatch.setitem(
        fakes.PLUGINS["nas.search_spaces"], "layers", SearchSpaceType("layers", "Layers with operations.", Layers)
    )
    monkeypatch.setitem(fakes.PLUGINS["nas.predictors"], "bayesian_linear", BayesianLinear)
    monkeypatch.setitem(fakes.PLUGINS["nas.predictors"], "auto", AutoPredictor)
    monkeypatch.setitem(fakes.PLUGINS["nas.predictors"], "transfer", Transfer)


@pytest.fixture(name="store")
def table_store(tmp_path: Path, plugins: None) -> Iterator[Store]:
    with open_store(f"sqlite:///{tmp_path}/db", str(tmp_path / "blobs"), fakes.Clock()) as opened:
        fakes.add_device(opened)
        yield opened


@pytest.fixture(name="api")
def table_api(store: Store, tmp_path: Path) -> TestClient:
    return TestClient(create_app(Settings(home=tmp_path), store), "http://127.0.0.1", raise_server_exceptions=False)


def csv_of(rows: Sequence[Sequence[object]]) -> bytes:
    return "\n".join(",".join(map(str, row)) for row in rows).encode()


def upload(api: TestClient, data: bytes, media: str = "text/csv") -> httpx.Response:
    response: httpx.Response = api.post("/v1/tables", content=data, headers={"Content-Type": media})
    return response

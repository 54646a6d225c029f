"""From a file to smaller models that run without this project: stored, priced for a device, searched, exported."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from nas.client import Client
from nas.core.errors import Conflict, InvalidSpec
from nas.core.spec import (
    BudgetSpec,
    DataSpec,
    DeviceSpec,
    ExportSpec,
    ObjectiveSpec,
    RooflineSpec,
    SearchSpec,
    SpaceSpec,
    StrategySpec,
)
from nas.schemas.searches import ExtendBody
from tests.support.intake import IntakeService, intake_service
from tests.support.models import ResNetBlock, conv_bn

SPACE = SpaceSpec(name="own_model", model="digits", params={"width_multiple": 4, "levels": 3})
DATA = DataSpec(params={"max_train": 160, "max_val": 120, "max_test": 120})
CHIP = DeviceSpec(
    name="chip",
    source="roofline",
    roofline=RooflineSpec(flops_per_s=1e9, bytes_per_s=1e9),
    space=SPACE,
    data=DATA,
    samples=48,
)
SEARCH = SearchSpec(
    name="digits, faster",
    space=SPACE,
    data=DATA,
    device="chip",
    strategy=StrategySpec(params={"epochs": 1, "batch_size": 40}),
    objectives=(ObjectiveSpec(name="accuracy"), ObjectiveSpec(name="latency")),
    budget=BudgetSpec(evaluations=8, verified=2, reexplore=0),
    export=ExportSpec(count=1, int8=False),
)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[IntakeService]:
    torch.set_num_threads(1)
    with intake_service(tmp_path_factory.mktemp("home")) as service:
        yield service


@pytest.fixture(scope="module")
def client(service: IntakeService, tmp_path_factory: pytest.TempPathFactory) -> Client:
    """A client whose owner has added the model and the device."""
    torch.manual_seed(0)
    blocks = (ResNetBlock(16, 16), ResNetBlock(16, 32, 2), ResNetBlock(32, 32))
    layers = (conv_bn(1, 16), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))
    program = torch.export.export(
        nn.Sequential(*layers).train(),
        (torch.randn(2, 1, 8, 8),),
        dynamic_shapes=({0: torch.export.Dim("images")},),
    )
    path = tmp_path_factory.mktemp("exported") / "digits.pt2"
    torch.export.save(program, path)
    client = service.client()
    assert service.add(client, "digits", path).status == "succeeded"
    client.add_device(CHIP)
    service.work()
    assert client.device("chip").status == "succeeded", client.device("chip").error
    return client


@pytest.fixture(scope="module")
def search(service: IntakeService, client: Client) -> str:
    """A finished search; its id."""
    search = client.submit(SEARCH)
    service.work()
    assert client.search(search.id).status == "succeeded", client.search(search.id).error
    return search.id


def test_a_dry_run_says_what_can_be_reached(client: Client) -> None:
    report = client.dry_run(SEARCH, measure=False)
    assert report.feasible, report.problems
    assert report.ranges["macs"][0] < report.ranges["macs"][1]


def test_an_exported_smaller_model_runs_without_this_project(client: Client, search: str, tmp_path: Path) -> None:
    [package] = [a for a in client.artifacts(search) if a.name.endswith(".zip")]
    with zipfile.ZipFile(io.BytesIO(client.download(package, tmp_path / "best.zip").read_bytes())) as archive:
        session = onnxruntime.InferenceSession(archive.read("model.onnx"))
    images = np.zeros((3, 1, 8, 8), dtype=np.float32)
    assert session.run(None, {"image": images})[0].shape == (3, 10)


def test_a_candidate_shows_its_widths_and_layers(client: Client, search: str) -> None:
    candidate = client.candidates(search, origin="search").items[0]
    detail = client.candidate(search, candidate.arch)
    assert len(detail.choices) > 0
    assert [layer.name for layer in detail.layers if layer.macs]


def test_a_search_goes_on_from_its_supernet(service: IntakeService, client: Client, search: str) -> None:
    child = client.extend(search, ExtendBody(evaluations=8))
    service.work()
    assert client.search(child.id).status == "succeeded", client.search(child.id).error


def test_what_does_not_fit_is_refused_at_submission(client: Client) -> None:
    with pytest.raises(InvalidSpec, match=r"space\.model: no model 'none'"):
        client.submit(SEARCH.model_copy(update={"space": SpaceSpec(name="own_model", model="none", params={})}))
    with pytest.raises(InvalidSpec, match=r"expects the name of a stored model"):
        client.submit(SEARCH.model_copy(update={"space": SpaceSpec(name="own_model", params={})}))


def test_a_model_in_use_stays(client: Client, search: str) -> None:
    with pytest.raises(Conflict, match=f"search {search}"):
        client.delete_model("digits")

"""A device that is learned layer by layer (``layer_lut``) serves a user's model from its file to its front."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from zlib import crc32

import pytest
import torch
from torch import nn

from nas.core.device import DeviceProfile, MachineNoise, Measurement
from nas.core.spec import BudgetSpec, DataSpec, DeviceSpec, ExportSpec, SearchSpec, SpaceSpec, StrategySpec
from predictors.measurement.machine import describe_machine
from predictors.measurement.onnx_macs import count_macs
from predictors.onboarding.profiling import protocol_of
from tests.support.intake import intake_service
from tests.support.models import ResNetBlock, conv_bn
from workers import runner

SPACE = SpaceSpec(name="own_model", model="digits", params={"width_multiple": 2, "levels": 3})
DATA = DataSpec(params={"max_train": 160, "max_val": 120, "max_test": 120})
DEVICE = DeviceSpec(name="layered", predictor="layer_lut", space=SPACE, data=DATA, samples=32)
SEARCH = SearchSpec(
    space=SPACE,
    data=DATA,
    device="layered",
    strategy=StrategySpec(name="compress", params={"preset": "no_training", "images": 16}),
    budget=BudgetSpec(evaluations=8, verified=2, reexplore=0),
    export=ExportSpec(count=1, int8=False),
)


def measure(
    models: Sequence[bytes],
    profile: DeviceProfile,
    networks: Sequence[str],
    promised_ms: Sequence[float] | None = None,
) -> Iterator[Measurement]:
    """A machine on which time is a start and the multiplications, up to 1 % more or less by model."""
    for model in models:
        ms = (0.01 + 1e-7 * count_macs(model)) * (0.99 + 0.02 * (crc32(model) % 1000) / 1000)
        yield Measurement(profile.protocol.id, profile.id, ms, 0.9999 * ms, 1.0001 * ms, 100, 0.001, 1.0)


def steady_profile(spec: DeviceSpec) -> DeviceProfile:
    described = describe_machine(spec.name, protocol_of(spec))
    return replace(described, canary_ms=0.05, noise=MachineNoise(0.002, (1.0,), 1.0))


def exported_resnet(path: Path) -> Path:
    torch.manual_seed(0)
    layers = (conv_bn(1, 8), ResNetBlock(8, 8), conv_bn(8, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
    images = torch.export.Dim("images")
    example = torch.randn(2, 1, 8, 8)
    program = torch.export.export(nn.Sequential(*layers).train(), (example,), dynamic_shapes=({0: images},))
    torch.export.save(program, path)
    return path


@pytest.mark.slow
def test_layers_of_a_model_are_measured_alone_and_make_its_front(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr(runner, "measure_isolated", measure)
    monkeypatch.setattr(runner, "profile_for", steady_profile)
    with intake_service(tmp_path / "home") as service:
        client = service.client()
        assert service.add(client, "digits", exported_resnet(tmp_path / "digits.pt2")).status == "succeeded"
        client.add_device(DEVICE)
        service.work()
        device = client.device("layered")
        assert device.status == "succeeded", device.error
        [card] = device.predictors
        assert card.family == "layer_lut"
        assert card.mape < 2.0

        search = client.submit(SEARCH)
        service.work()
        assert client.search(search.id).status == "succeeded", client.search(search.id).error
        front = client.front(search.id)
        verified = [member for member in front.members if member.status == "verified"]
        assert 1 <= len(verified) <= SEARCH.budget.verified
        for member in verified:
            assert member.metrics["predicted_ms"].value == pytest.approx(member.metrics["measured_ms"].value, rel=0.05)
        detail = client.candidate(search.id, verified[0].arch)
        assert {layer.name for layer in detail.layers} >= {"0.0", "5"}

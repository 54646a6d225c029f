"""Trying a space's operators on a device, and searching without those that it does not run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nas.blobs import open_blobs
from nas.core import registry
from nas.core.arch import Arch, every, sample
from nas.core.device import DeviceProfile, Measurement
from nas.core.errors import MeasurementRefused
from nas.core.events import SearchState, Warned, fold_all
from nas.core.placement import Placement
from nas.core.ports import ImageShape, SearchSpace
from nas.core.spec import DeviceSpec
from nas.core.unsupported import ExcludedChoice
from nas.spaces.restricted import restricted
from predictors.onboarding.measured import onboard
from predictors.onboarding.results import FitResult, ProfileResult
from predictors.onboarding.trial import NAME, covering_networks, try_operators

NPU = DeviceProfile("npu", "m", "p", 2, "onnxruntime QNNExecutionProvider", "1", "os", canary_ms=0.2)
EDGES, POOLING = 6, 4  # of NAS-Bench-201, and the index of an operation


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return registry.load_space("nas_bench_201").build({}, ImageShape(3, 32, 32, 10))


class PlantedDevice:
    """Does not run one choice: it falls back, or the model cannot be loaded."""

    def __init__(self, refused: set[tuple[int, int]], loads: bool = True) -> None:
        self.refused = refused
        self.loads = loads
        self.names: list[str] = []

    def __call__(
        self, models: Sequence[bytes], device: DeviceProfile, networks: Sequence[str], promised_ms: Any = None
    ) -> Iterator[Measurement]:
        self.names += networks
        for model in models:
            genes = [int(g) for g in model.decode().split()]
            falls_back = any((g, c) in self.refused for g, c in enumerate(genes))
            if falls_back and not self.loads:
                raise MeasurementRefused("no kernel for AveragePool")
            placement = Placement("QNN", {"QNN": 5}, {}, ("AveragePool",) if falls_back else ())
            ms = 1.0 + sum(genes) / 10
            yield Measurement(device.protocol.id, device.id, ms, ms, ms, 9, 0.0, 1.0, placement=placement)


def export(arch: Arch) -> bytes:
    return " ".join(map(str, arch.genes)).encode()


@pytest.mark.parametrize("loads", [True, False], ids=["falls back", "cannot be loaded"])
def test_choices_that_a_device_does_not_run_are_told_from_the_others(space: SearchSpace, loads: bool) -> None:
    planted = {(1, POOLING), (5, POOLING)}
    trial = try_operators(space, NPU, export, PlantedDevice(planted, loads), 0)
    names = [d.name for d in space.decisions]
    assert {(names.index(e.decision), e.choice) for e in trial.excluded} == planted
    assert all("AveragePool" in e.reason for e in trial.excluded)


def test_networks_hold_every_choice_that_there_is(space: SearchSpace) -> None:
    genes_NG = covering_networks(space, 0)
    possible = space.canonical(sample(space.decisions, np.random.default_rng(1), 2000))
    for gene in range(EDGES):
        assert set(genes_NG[:, gene]) == set(possible[:, gene])
    assert len(genes_NG) <= 1 + EDGES * 4


def test_a_device_that_runs_no_network_alone_excludes_nothing(space: SearchSpace) -> None:
    smallest = space.canonical(np.zeros((1, EDGES), dtype=np.int64))[0]
    trial = try_operators(space, NPU, export, PlantedDevice({(0, int(smallest[0]))}), 0)
    assert trial.excluded == ()
    assert trial.nothing_runs is not None
    assert "AveragePool" in trial.nothing_runs


def test_a_restricted_space_has_no_network_with_an_excluded_choice(space: SearchSpace) -> None:
    excluded = tuple(ExcludedChoice(d.name, POOLING, "falls back") for d in space.decisions)
    smaller = restricted(space, excluded)
    genes_NG = smaller.canonical(every(space.decisions)[::7])
    assert POOLING not in genes_NG
    assert (smaller.canonical(genes_NG) == genes_NG).all()
    assert smaller.id == space.id  # its predictors and supernets are those of the whole space
    assert smaller.unrestricted is space
    assert restricted(space, ()) is space


@pytest.mark.parametrize("unsupported", ["exclude", "price"])
def test_onboarding_tries_operators_and_leaves_out_or_prices_what_falls_back(
    space: SearchSpace, tmp_path: Path, unsupported: str
) -> None:
    device = PlantedDevice({(1, POOLING)})
    spec = DeviceSpec(name="npu", samples=40, predictor="bayesian_linear", unsupported=unsupported)
    blobs, clock = open_blobs(str(tmp_path)), iter(np.arange(1e6)).__next__
    events = [*onboard(spec, space, export, device, lambda *_: NPU, blobs, SearchState(), clock)]
    state = fold_all(events)
    expected = 1 if unsupported == "exclude" else 0
    assert len(ProfileResult.require(state.finished).excluded) == expected
    assert len(FitResult.require(state.finished).card.excluded) == expected
    [warning] = [e.message for e in events if isinstance(e, Warned) and "AveragePool" in e.message]
    assert ("left out of searches" in warning) == (unsupported == "exclude")
    measured = [name for name in device.names if not name.endswith(NAME.format(""))]
    assert len(measured) == 40

"""Whole searches and an onboarding in the space of a user's model, in one process on a device that follows a rule."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import numpy as np
import pytest

from nas.blobs import FolderBlobs, open_blobs
from nas.core.arch import Arch
from nas.core.device import DeviceProfile
from nas.core.events import SearchState, fold_all
from nas.core.parent import Preprocessing
from nas.core.ports import Dataset, ImageShape, Problem, Resources, Split
from nas.core.spec import (
    BudgetSpec,
    DataSpec,
    DeviceSpec,
    ExportSpec,
    ObjectiveSpec,
    RetrainSpec,
    SearchSpec,
    SpaceSpec,
    StrategySpec,
)
from nas.engine import run_search, stage_names, stages_of
from nas.export import to_onnx_for_timing
from nas.stages.fronts import front_of
from predictors.onboarding.measured import onboard
from predictors.onboarding.results import FitResult
from search_spaces.own_model.space import OwnModel, build
from tests.support.engine import RuleDevice, RulePredictor
from tests.support.parents import FINE, parent_of

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPE = ImageShape(3, 16, 16, 5)
PROFILE = DeviceProfile("rule", "m", "p", 1, "onnxruntime", "1", "os")
PREPROCESSING = Preprocessing((100.0, 110.0, 120.0), (50.0, 60.0, 70.0))
SMALL = {"budget": BudgetSpec(evaluations=8, verified=2), "export": ExportSpec(count=1, int8=False)}


def own(name: str) -> OwnModel:
    return build({**FINE, "resolutions": [12, 16]}, SHAPE, parent_of(name, PREPROCESSING))


def data() -> Dataset:
    """Images whose class is the position of a bright stripe."""
    rng = np.random.default_rng(0)

    def split(n: int) -> Split:
        labels = rng.integers(0, SHAPE.classes, size=n)
        images = rng.integers(0, 100, size=(n, 3, 16, 16))
        images[np.arange(n), :, 3 * labels] += 150
        return Split(images.astype(np.uint8), labels)

    return Dataset("stripes", SHAPE, split(96), split(48), split(48), tuple("abcde"), "hash")


def spec_of(strategy: StrategySpec, **fields: object) -> SearchSpec:
    space = SpaceSpec(name="own_model", model="net", params={})
    return SearchSpec(space=space, data=DataSpec(), strategy=strategy, **{**SMALL, **fields})  # type: ignore[arg-type]


def search(space: OwnModel, spec: SearchSpec, folder: Path) -> SearchState:
    problem = Problem(spec, space, data(), PROFILE, RulePredictor())  # type: ignore[arg-type]
    ticks = count()
    resources = Resources(FolderBlobs(folder), RuleDevice(), lambda: float(next(ticks)))
    return fold_all(run_search(problem, stages_of(problem), resources, SearchState()))


@pytest.mark.long
@pytest.mark.parametrize("schedule", ["progressive", "sandwich"])
def test_a_supernet_is_trained_from_the_parent_and_searched(schedule: str, tmp_path: Path) -> None:
    params = {"schedule": schedule, "epochs": 2, "batch_size": 32, "lr": 0.02}
    objectives = tuple(ObjectiveSpec(name=name) for name in ("accuracy", "latency", "params"))
    spec = spec_of(StrategySpec(name="once_for_all", params=params), objectives=objectives)
    state = search(own("mobilenet_v2"), spec, tmp_path)
    assert tuple(state.finished) == stage_names(spec)
    front = front_of(spec, state)
    assert front.members
    assert all("measured_ms" in member.metrics for member in front.members)
    assert state.exports


def test_networks_are_scored_by_proxies_and_retrained(tmp_path: Path) -> None:
    strategy = StrategySpec(name="zero_cost", params={"sampled": 8, "images": 8})
    retrain = RetrainSpec(networks=1, epochs=1, batch_size=32, trials=1)
    spec = spec_of(strategy, retrain=retrain)
    state = search(own("resnet"), spec, tmp_path)
    assert tuple(state.finished) == stage_names(spec)
    assert all({"trained_accuracy", "measured_ms"} <= m.metrics.keys() for m in front_of(spec, state).members)


def test_a_device_is_onboarded(tmp_path: Path) -> None:
    space = own("mobilenet_v2")
    net = space.supernet(0).eval()

    def export(arch: Arch) -> bytes:
        return to_onnx_for_timing(net.subnet(arch), space.input_shape(arch))

    spec = DeviceSpec(samples=32, predictor="bayesian_linear")
    blobs, clock = open_blobs(str(tmp_path)), iter(np.arange(1e6)).__next__
    events = onboard(spec, space, export, RuleDevice(), lambda *_: PROFILE, blobs, SearchState(), clock)
    state = fold_all(events)
    fitted = FitResult.read(state.finished)
    assert fitted is not None
    assert fitted.card.space == space.id

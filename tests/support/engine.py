"""Small whole searches in one process, on a device whose latency follows a rule."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from nas.blobs import FolderBlobs
from nas.core import registry
from nas.core.arch import Floats, Genes, as_archs, sample
from nas.core.cost_estimate import CostEstimate
from nas.core.device import DeviceProfile, Latency, Measurement
from nas.core.events import (
    Candidate,
    Evaluated,
    Event,
    HypervolumeAt,
    Origin,
    Progress,
    SearchState,
    StageFinished,
    decode,
    encode,
    fold_all,
)
from nas.core.ports import PredictorDefaults, Problem, Refit, Refitter, Resources, Stage
from nas.core.spec import BudgetSpec, DataSpec, ExportSpec, SearchSpec, SpaceSpec, StrategySpec
from nas.engine import estimate_search_cost, run_search, stages_of
from nas.mixed_precision import in_precision_of
from nas.objectives import cheap_metrics
from nas.schemas.dry_runs import read_cost_estimate
from nas.strategies.once_for_all import ONCE_FOR_ALL

SPACE = {"preset": "digits", "resolutions": [4, 6], "depths": [1, 2], "final": 32, "hidden": 32}


SPEC = SearchSpec(
    space=SpaceSpec(params=SPACE),
    data=DataSpec(params={"max_train": 160, "max_val": 120, "max_test": 120}),
    strategy=StrategySpec(params={"epochs": 2, "batch_size": 40, "checkpoint_s": 1e-9}),
    budget=BudgetSpec(evaluations=16, verified=4),
    export=ExportSpec(count=2, int8=False),
)


PROFILE = DeviceProfile("rule", "m", "p", 1, "r", "1", "os")


class RulePredictor(PredictorDefaults):
    """Knows the device's rule: a millionth of a millisecond per multiplication, and a bound 10 % above."""

    family = "rule"

    def predict(self, features_NF: np.ndarray) -> Latency:
        mean = 0.01 + features_NF.sum(axis=1) * 1e-4
        return Latency(mean, 1.1 * mean)

    def to_arrays(self) -> dict[str, np.ndarray]:
        return {}


class RuleDevice:
    """Latency by the number of weights in the ONNX file; counts what it measured."""

    def __init__(self, ms_per_weight: float = 1e-6) -> None:
        self.measured, self.ms_per_weight = 0, ms_per_weight

    def __call__(
        self, models: Sequence[bytes], profile: DeviceProfile, networks: Sequence[str], promised_ms: Any = None
    ) -> Iterator[Measurement]:
        for model in models:
            self.measured += 1
            weights = onnx.load_model_from_string(model).graph.initializer
            ms = 0.01 + self.ms_per_weight * sum(int(np.prod(w.dims)) for w in weights)
            yield Measurement("protocol", profile.id, ms, ms, ms, 9, 0.0, 1.0)


def problem(spec: SearchSpec = SPEC, supernet: str | None = None, parent: SearchState | None = None) -> Problem:
    data = registry.load_dataset(spec.data.name).load(spec.data, spec.data.seed)
    space = in_precision_of(registry.build_space(spec.space, data.shape), spec.precision)
    inherited = tuple(parent.candidates.values()) if parent is not None else ()
    return Problem(spec, space, data, PROFILE, RulePredictor(), supernet, inherited)


def run(folder: Path, p: Problem, events: Sequence[Event] = (), device: RuleDevice | None = None) -> Iterator[Event]:
    ticks = count()
    resources = Resources(FolderBlobs(folder), device or RuleDevice(), lambda: float(next(ticks)))
    return run_search(p, stages_of(p), resources, fold_all(events))


def stored(events: Sequence[Event]) -> list[Event]:
    """As a database would give them back."""
    return [decode(json.loads(json.dumps(encode(e)))) for e in events]


def cuts(events: Sequence[Event], begin: int = 0) -> list[int]:
    """Where a log is cut to go on from each kind of prefix: the middle event of each kind from ``begin`` on. Progress,
    which nothing goes on from, and hypervolumes, which come with their candidates, are left out."""
    by_kind: dict[type[Event], list[int]] = {}
    for i, event in enumerate(events):
        if i >= begin and not isinstance(event, Progress | HypervolumeAt):
            by_kind.setdefault(type(event), []).append(i)
    return sorted(indices[len(indices) // 2] for indices in by_kind.values())


class RuleRefitter:
    """Learns nothing from any number of measurements."""

    def fit(self, genes_NG: Genes, latency_ms_N: Floats, error_N: Floats | None = None) -> Refit:
        assert len(genes_NG) == len(latency_ms_N)
        return Refit(RulePredictor(), {})

    def load(self, record: Mapping[str, Any]) -> RulePredictor:
        return RulePredictor()


def estimate_cost(
    folder: Path, p: Problem, stages: Sequence[Stage] = (), device: object = None, refit: Refitter | None = None
) -> CostEstimate:
    ticks = count()  # every look at the clock takes a second
    clock = lambda: float(next(ticks))  # noqa: E731
    measurer: Any = device or RuleDevice()
    resources = Resources(FolderBlobs(folder), measurer, clock, worker="bench", refit=refit)
    events: list[Event] = list(estimate_search_cost(p, stages or ONCE_FOR_ALL.stages(p), resources, SearchState()))
    last = events[-1]
    assert isinstance(last, StageFinished)
    assert last.stage == "cost_estimate"
    assert next(e.message for e in events if isinstance(e, Progress)).startswith("timing ")
    return read_cost_estimate(json.loads(json.dumps(last.result)))


def two_candidates(p: Problem) -> Iterator[Event]:
    """What stages before have left: one network that both origins have found, and a smaller one of the search."""
    yield StageFinished("estimate", 0.0, {"reference": {"accuracy": 10.0, "latency": 1e9, "params": 1e9, "macs": 1e9}})
    genes_NG = p.space.canonical(sample(p.space.decisions, np.random.default_rng(0), 2))
    cheap = cheap_metrics(p, genes_NG)
    small, large = np.argsort(cheap["predicted_ms"]).tolist()
    archs = as_archs(p.space.id, genes_NG)

    def candidate(i: int, origin: Origin, accuracy: float) -> Candidate:
        return Candidate(archs[i], origin, {**{k: float(v[i]) for k, v in cheap.items()}, "val_accuracy": accuracy})

    yield Evaluated(
        (candidate(large, "search", 50.0), candidate(small, "search", 40.0), candidate(large, "baseline", 50.0))
    )

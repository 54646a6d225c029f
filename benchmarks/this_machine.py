"""This machine as a device: how good a predictor from 40 measured subnets is on 40 others, and whether what searches
under ten different bounds call verified still keeps its bound when it is measured again.

Everything is measured for real by the product's own protocol; the machine should be left alone meanwhile. The searches
share one supernet that was hardly trained: how accurate its subnets are has no influence on their latency.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks._cli import Options, main
from benchmarks._device import add_device, predictor_figures, timing_export
from nas.blobs import FolderBlobs
from nas.core import registry
from nas.core.arch import as_archs, sample
from nas.core.events import SearchState, fold
from nas.core.ports import LatencyPredictor, Problem, Resources, predict_latency
from nas.core.spec import BudgetSpec, DeviceSpec, ExportSpec, SearchSpec, StrategySpec
from nas.engine import run_search
from nas.export import to_onnx
from nas.stages.results import TrainResult
from nas.stages.subnets import load_subnets
from predictors.measurement.isolated import measure_isolated

SAMPLES, OTHERS, BOUNDS = 40, 40, 10
SPEC = SearchSpec(
    name="bounds",
    strategy=StrategySpec(params={"epochs": 1}),
    budget=BudgetSpec(evaluations=48, verified=8),
    export=ExportSpec(count=1, int8=False),
)


def bench(options: Options) -> dict[str, Any]:
    """Onboarding, the predictor on other networks, and ten searches with the fate of their verified members."""
    torch.set_num_threads(1)
    data = registry.load_dataset(SPEC.data.name).load(SPEC.data, SPEC.data.seed)
    space = registry.build_space(SPEC.space, data.shape)
    export = timing_export(space)
    with tempfile.TemporaryDirectory(prefix="hwnas-machine-") as name:
        blobs = FolderBlobs(Path(name))
        device = add_device(DeviceSpec(samples=SAMPLES), space, blobs, export)
        genes_NG = space.canonical(sample(space.decisions, np.random.default_rng(1234), OTHERS))
        archs = as_archs(space.id, genes_NG)
        measured = list(measure_isolated([export(a) for a in archs], device.profile))
        problem = Problem(SPEC, space, data, device.profile, device.predictor)
        resources = Resources(blobs, measure_isolated, time.monotonic, worker="this machine")
        return {
            "onboarding_s": device.seconds,
            "family": device.fitted.family,
            "fitted_on": SAMPLES,
            "others": predictor_figures(device.predictor, space, archs, measured),
            "bounds": bounds(problem, resources, device.predictor),
        }


def bounds(problem: Problem, resources: Resources, predictor: LatencyPredictor) -> dict[str, Any]:
    """Ten searches, each under its own bound; every member that was called verified is measured again, later and in
    another session."""
    space = problem.space
    some_NG = space.canonical(sample(space.decisions, np.random.default_rng(5), 2000))
    upper_ms = predict_latency(predictor, space, some_NG).upper_ms
    chosen_ms = np.quantile(upper_ms, np.linspace(0.05, 0.9, BOUNDS))
    state = run(problem, resources)
    supernet = TrainResult.require(state.finished).blob
    models: list[bytes] = []
    claims: list[float] = []
    first_ms: list[float] = []
    marks: list[str] = []
    for i, bound in enumerate(chosen_ms):
        objectives = [
            o.model_copy(update={"bound": float(bound)}) if o.name == "latency" else o for o in SPEC.objectives
        ]
        spec = SPEC.model_copy(update={"objectives": tuple(objectives), "seed": i})
        found = run(replace(problem, spec=spec, supernet_blob=supernet), resources)
        subnets = load_subnets(replace(problem, spec=spec, supernet_blob=supernet), resources, found)
        for p in found.of("search"):
            if p.measurement is None or p.measurement.median_ms is None:
                continue
            marks.append(p.status)
            if p.status == "verified":
                module = subnets.with_normalisation(subnets.cut(p.arch))
                models.append(to_onnx(module, space.input_shape(p.arch)))
                claims.append(float(bound))
                first_ms.append(p.measurement.median_ms)
    again = list(resources.measure(models, problem.profile, [str(i) for i in range(len(models))]))
    pairs = [(m.median_ms, c, f) for m, c, f in zip(again, claims, first_ms, strict=True) if m.median_ms is not None]
    now_ms, promised_ms, before_ms = (np.array(column) for column in zip(*pairs, strict=True))
    return {
        "searches": BOUNDS,
        "bounds_ms": [float(b) for b in chosen_ms],
        "marks": {mark: marks.count(mark) for mark in ("verified", "violated", "unverified")},
        "measured_again": len(pairs),
        "verified_but_broken": int((now_ms > promised_ms).sum()),
        "worst_over_bound": float((now_ms / promised_ms - 1.0).max()),
        "repeat_difference_p95": float(np.quantile(np.abs(now_ms / before_ms - 1.0), 0.95)),
    }


def run(problem: Problem, resources: Resources) -> SearchState:
    """A whole search; what it left behind."""
    stages = registry.load_strategy(problem.spec.strategy.name).stages(problem)
    state = SearchState()
    for event in run_search(problem, stages, resources, state):
        state = fold(state, event)
    return state


if __name__ == "__main__":
    main("this_machine", bench, (__doc__ or "").split("\n\n")[0], ("torch", "onnxruntime", "numpy"), seeds=1)

"""What a dry run predicts against what the search then takes: a small search on digits, one thread.

Seconds are computing time of this process and of the measuring process it starts, so that other programs on the machine
count on neither side. The latency predictor is planted: how good it is has no influence on how long a search takes.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks._cli import Options, main
from nas.blobs import FolderBlobs
from nas.core import registry
from nas.core.arch import sample
from nas.core.device import MeasurementProtocol
from nas.core.events import SearchState, StageFinished
from nas.core.ports import Problem, Resources, Stage
from nas.core.spec import BudgetSpec, SearchSpec, StrategySpec
from nas.engine import estimate_search_cost, run_search, stages_of
from nas.peak_memory import peak_memory_bytes, reset_peak_memory
from nas.schemas.dry_runs import read_cost_estimate
from predictors.families.bayesian_linear import BayesianLinear
from predictors.measurement.isolated import measure_isolated
from predictors.measurement.machine import describe_machine

GRAIN_S = 1 / os.sysconf("SC_CLK_TCK")  # of computing time as the system counts it
SPEC = SearchSpec(
    name="priced", strategy=StrategySpec(params={"epochs": 10}), budget=BudgetSpec(evaluations=48, verified=12)
)


def bench(options: Options) -> dict[str, Any]:
    """Predicted and real seconds per stage, and their ratio; medians over seeds."""
    torch.set_num_threads(1)
    rows = [compare(SPEC.model_copy(update={"seed": seed})) for seed in options.seeds]
    stages = list(rows[0]["stages"])
    return {
        "epochs": SPEC.strategy.params["epochs"],
        "evaluations": SPEC.budget.evaluations,
        "stages": {name: _medians([row["stages"][name] for row in rows]) for name in stages},
        "total": _medians([row["total"] for row in rows]),
        "inside_range": sum(row["stages"][n]["inside"] for row in rows for n in stages[1:]),
        "of": len(rows) * len(stages[1:]),
        "dry_run_s": statistics.median(row["dry_run_s"] for row in rows),
        "memory_ratio": statistics.median(row["memory_ratio"] for row in rows),
    }


def compare(spec: SearchSpec) -> dict[str, Any]:
    """One dry run and then the search itself."""
    with tempfile.TemporaryDirectory() as folder:
        problem, stages, resources = prepare(spec, Path(folder))
        start_s = busy_s()
        *_, priced = estimate_search_cost(problem, stages, resources, SearchState())
        assert isinstance(priced, StageFinished)
        cost, dry_run_s = read_cost_estimate(priced.result), busy_s() - start_s
        reset_peak_memory("cpu")
        real = {
            event.stage: event.seconds
            for event in run_search(problem, stages, resources, SearchState())
            if isinstance(event, StageFinished)
        }
        memory_ratio = cost.memory_bytes / peak_memory_bytes("cpu")
    stages_s = {s.stage: (s.seconds or 0.0, s.low_s or 0.0, s.high_s or 0.0) for s in cost.stages}
    return {
        "stages": {name: _row(*priced_s, real[name]) for name, priced_s in stages_s.items()},
        "total": _row(cost.seconds, cost.low_s, cost.high_s, sum(real.values())),
        "dry_run_s": dry_run_s,
        "memory_ratio": memory_ratio,
    }


def prepare(spec: SearchSpec, folder: Path) -> tuple[Problem, Sequence[Stage], Resources]:
    """The search, resolved as a worker would, on this machine."""
    data = registry.load_dataset(spec.data.name).load(spec.data, spec.data.seed)
    space = registry.build_space(spec.space, data.shape)
    genes_NG = space.canonical(sample(space.decisions, np.random.default_rng(0), 100))
    predictor = BayesianLinear.fit(space.features(genes_NG), 0.02 + 1e-7 * space.costs(genes_NG)["macs"])
    profile = describe_machine("this-machine", MeasurementProtocol())
    problem = Problem(spec, space, data, profile, predictor)
    resources = Resources(FolderBlobs(folder), measure_isolated, busy_s, worker="this machine")
    return problem, stages_of(problem), resources


def busy_s() -> float:
    """Computing time of this process and of those it has waited for."""
    return sum(os.times()[:4])


def _row(predicted_s: float, low_s: float, high_s: float, real_s: float) -> dict[str, Any]:
    return {
        "predicted_s": predicted_s,
        "low_s": low_s,
        "high_s": high_s,
        "real_s": real_s,
        "ratio": predicted_s / max(real_s, GRAIN_S),
        "inside": low_s <= real_s <= high_s,
    }


def _medians(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    return {k: statistics.median(row[k] for row in rows) for k in rows[0] if k != "inside"}


if __name__ == "__main__":
    main("dry_run", bench, __doc__.split("\n")[0], ("torch", "onnxruntime"), seeds=1)

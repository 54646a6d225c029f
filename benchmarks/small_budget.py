"""The default explorer against random search where evaluations are few.

With 8, 16, 32 and 64 evaluations: the gain in hypervolume over random search with as many, mean and standard error over
seeds. On the tables of NAS-Bench-201, hypervolume is the true one of the front that a search would verify, as a share
of the best there is; a seed counts by the mean over devices that no constant of the explorer was chosen with. On
digits, a supernet of ``mobilenet_v3`` is trained once, and the product's stage ``explore`` is run on it for every seed;
hypervolume is the estimated one, as the product reports it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks._accuracy_table import DATA_SETS, by_chance, by_model, hypervolume_ratio, mean_and_error, read
from benchmarks._cli import Options, main, shared_file
from nas.blobs import FolderBlobs
from nas.core import registry
from nas.core.arch import Arch, Floats, sample
from nas.core.device import DeviceProfile, Latency
from nas.core.events import SearchState, fold_all
from nas.core.ports import PredictorDefaults, Problem, Resources, SearchSpace
from nas.core.spec import BudgetSpec, SearchSpec, StrategySpec
from nas.engine import run_search, stages_of
from nas.stages.explore import ExploreStage, Score
from nas.stages.results import ExploreResult

BUDGETS = (8, 16, 32, 64)
DEVICES = 5  # of the table
EPOCHS = 20  # of the supernet


def table_gains(shared: Path, data_set: str, seeds: Sequence[int]) -> dict[int, list[float]]:
    """Mean gain over devices by budget, for each seed."""
    table = read(shared, data_set)
    devices = [d for d in sorted(table.devices) if d not in table.development]
    devices = devices[:: len(devices) // DEVICES][:DEVICES]

    def gain(budget: int, seed: int, device: str) -> float:
        cost_K = table.cost(device)
        searched, chance = (search(table, seed, budget, cost_K) for search in (by_model, by_chance))
        return hypervolume_ratio(table, searched, device) - hypervolume_ratio(table, chance, device)

    with threadpool_limits(limits=1):
        return {b: [float(np.mean([gain(b, s, d) for d in devices])) for s in seeds] for b in BUDGETS}


@dataclass(frozen=True)
class PlantedLatency(PredictorDefaults):
    """A latency that is linear in a space's features; it is its own upper bound."""

    weights_F: Floats
    family: str = "planted"

    @staticmethod
    def of(space: SearchSpace) -> PlantedLatency:
        """Weights are drawn from a fixed seed, positive as time is; a random network takes 1 ms on average."""
        rng = np.random.default_rng(21)
        mean_F = space.features(space.canonical(sample(space.decisions, rng, 512))).mean(axis=0)
        weights_F = rng.gamma(1.0, size=len(mean_F)) / np.maximum(mean_F, 1e-9)
        return PlantedLatency(weights_F / len(mean_F))

    def predict(self, features_NF: Floats) -> Latency:
        """The latency of N networks in ms."""
        ms_N = features_NF @ self.weights_F
        return Latency(ms_N, ms_N)

    def to_arrays(self) -> dict[str, np.ndarray[Any, Any]]:
        """It is not kept."""
        return {}


@dataclass(frozen=True)
class RememberingStage(ExploreStage):
    """Scores no network twice, in whatever search."""

    scores: dict[str, dict[str, float]] = field(default_factory=dict)

    def _score(self, problem: Problem, resources: Resources, state: SearchState) -> Score:
        score = super()._score(problem, resources, state)

        def remembered(arch: Arch) -> dict[str, float]:
            if arch.id not in self.scores:
                self.scores[arch.id] = score(arch)
            return self.scores[arch.id]

        return remembered


def digits_gains(seeds: Sequence[int]) -> dict[int, list[float]]:
    """Gain by budget, for each seed, of the product's own search."""
    import torch

    torch.set_num_threads(1)
    spec = SearchSpec(strategy=StrategySpec(params={"epochs": EPOCHS}))
    data = registry.load_dataset(spec.data.name).load(spec.data, spec.data.seed)
    space = registry.build_space(spec.space, data.shape)
    profile = DeviceProfile("planted", "", "", 1, "planted", "", "")
    problem = Problem(spec, space, data, profile, PlantedLatency.of(space))
    stage = RememberingStage()
    gains: dict[int, list[float]] = {}
    with TemporaryDirectory() as folder:
        resources = Resources(FolderBlobs(Path(folder)), lambda *_: iter(()), time.monotonic)
        first_stages = [s for s in stages_of(problem) if s.name in ("estimate", "train")]
        trained = fold_all(run_search(problem, first_stages, resources, SearchState()))
        for budget in BUDGETS:
            for seed in seeds:
                seeded = spec.model_copy(update={"seed": seed, "budget": BudgetSpec(evaluations=budget)})
                events = run_search(replace(problem, spec=seeded), (stage,), resources, trained)
                result = ExploreResult.require(fold_all(events).finished)
                assert result.hypervolume is not None
                assert result.baseline_hypervolume is not None
                gains.setdefault(budget, []).append(result.hypervolume - result.baseline_hypervolume)
    return gains


def bench(options: Options) -> dict[str, Any]:
    """Every table and digits, two at a time."""
    for name in ("nb201.npz", "nb201_oracle.csv"):
        shared_file(options, "data", name)
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        runs = {"digits": pool.submit(digits_gains, options.seeds)}
        runs |= {f"nb201_{d}": pool.submit(table_gains, options.shared, d, options.seeds) for d in DATA_SETS}
        gains = {name: run.result() for name, run in runs.items()}
    return {
        "gain": {name: {str(b): mean_and_error(v) for b, v in by_budget.items()} for name, by_budget in gains.items()},
        "setting": {"seeds": len(options.seeds), "devices": DEVICES, "epochs": EPOCHS},
    }


if __name__ == "__main__":
    main("small_budget", bench, __doc__.split("\n")[0], ("numpy", "scipy", "torch"), seeds=10)

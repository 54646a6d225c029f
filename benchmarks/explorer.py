"""Our NSGA-II beside pymoo's: evaluations per second and hypervolume at equal evaluations.

The space is the published once-for-all MobileNetV3 space. Latency is a linear model on the space's features, either
with planted weights or fitted to measured latencies of a device of ``ofa.npz``; accuracy is a planted surrogate with
interactions; latency is bounded at the median of random networks. Every contestant gets the same evaluate function,
population, generations and seeds, and is judged by the feasible front of all it has evaluated. Speed is per second of
processor time on one thread, evaluation included.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.mutation import Mutation
from pymoo.core.problem import Problem as PymooProblem
from pymoo.operators.crossover.sbx import SBX
from pymoo.operators.crossover.ux import UniformCrossover
from pymoo.operators.mutation.pm import PM
from pymoo.operators.repair.rounding import RoundingRepair
from pymoo.operators.sampling.rnd import IntegerRandomSampling
from pymoo.optimize import minimize
from threadpoolctl import threadpool_limits

from benchmarks._cli import Options, main
from benchmarks._ofa import load_ofa
from nas.core.arch import Floats, Genes, choice_counts, one_hot, sample
from nas.core.pareto import hypervolume
from nas.core.ports import ImageShape, SearchSpace
from nas.explorers import nsga2
from predictors.families.bayesian_linear import BayesianLinear
from search_spaces.mobilenet_v3.space import build

Latency = Callable[[Genes], Floats]
POPULATION, GENERATIONS = 96, 100
DEVICE = "2080ti_1"  # of the table of measured latencies


@dataclass(frozen=True)
class Contest:
    """The problem: ``evaluate`` maps canonical genes to losses (negative accuracy in %, latency in ms) and violation.

    Hypervolume is the share of the box between ``reference`` (the smallest network's accuracy, the bound) and ``ideal``
    (the accuracy that no network exceeds, no time).
    """

    space: SearchSpace
    evaluate: nsga2.Evaluate
    reference: Floats
    ideal: Floats

    def hypervolume(self, losses_NM: Floats) -> float:
        """Share of the box that the points dominate, 0 to 1."""
        return hypervolume((losses_NM - self.ideal) / (self.reference - self.ideal), np.ones(len(self.ideal)))


@dataclass(frozen=True)
class Run:
    """One contestant's run with one seed."""

    seconds: float
    evaluations: int
    hypervolume: float


def contest(space: SearchSpace, latency_ms: Latency) -> Contest:
    """Everything but latency is planted from a fixed seed."""
    rng = np.random.default_rng(20)
    # Each further choice of a decision adds accuracy, with falling returns; pairs of choices add or take a little.
    gains = [np.cumsum(rng.gamma(2.0, 1.0, len(d.choices)) * 0.6 ** np.arange(len(d.choices))) for d in space.decisions]
    gain_F = np.concatenate([g - g[0] for g in gains])
    pairs_FK = rng.normal(scale=0.1, size=(len(gain_F), 8))
    signs_K = np.array([1.0, -1.0] * 4)

    def accuracy(genes_NG: Genes) -> Floats:
        x_NF = one_hot(space.decisions, genes_NG)
        quality_N = x_NF @ gain_F + ((x_NF @ pairs_FK) ** 2 * signs_K).sum(axis=1)
        return np.asarray(80.0 - 25.0 * np.exp(-quality_N / 30.0))

    random_NG = space.canonical(sample(space.decisions, rng, 4000))
    random_ms = latency_ms(random_NG)
    bound_ms = float(np.median(random_ms))

    def evaluate(genes_NG: Genes) -> tuple[Floats, Floats]:
        ms = latency_ms(genes_NG)
        return np.stack([-accuracy(genes_NG), ms], axis=1), np.maximum(0.0, ms / bound_ms - 1.0)

    smallest = space.canonical(np.zeros((1, len(space.decisions)), dtype=np.int64))
    return Contest(space, evaluate, np.array([-float(accuracy(smallest)[0]), bound_ms]), np.array([-80.0, 0.0]))


def planted_latency(space: SearchSpace) -> Latency:
    """A linear predictor whose weights are drawn from a fixed seed, positive as time is; in ms."""
    rng = np.random.default_rng(21)
    scale_F = space.features(space.canonical(sample(space.decisions, rng, 512))).mean(axis=0)
    weights_F = rng.gamma(1.0, 1.0, len(scale_F)) / scale_F
    return lambda genes_NG: space.features(genes_NG) @ weights_F


def fitted_latency(space: SearchSpace, path: Path) -> Latency:
    """Our latency predictor, fitted to 400 networks measured on ``DEVICE``; in ms."""
    genes_NG, names, latency_ms_ND = load_ofa(space, path)
    latency_ms_N = latency_ms_ND[:400, names.index(DEVICE)]
    predictor = BayesianLinear.fit(space.features(genes_NG[:400]), latency_ms_N)
    return lambda genes_NG: predictor.predict(space.features(genes_NG)).mean_ms


class Counted:
    """Evaluates canonical networks for a contestant and keeps what the judge needs."""

    def __init__(self, problem: Contest) -> None:
        self.problem = problem
        self.losses: list[Floats] = []
        self.evaluations = 0

    def __call__(self, genes_NG: Genes) -> tuple[Floats, Floats]:
        losses_NM, violation_N = self.problem.evaluate(genes_NG)
        self.losses.append(losses_NM[violation_N <= 0])
        self.evaluations += len(genes_NG)
        return losses_NM, violation_N

    def run(self, seconds: float) -> Run:
        """The finished run, judged by everything feasible that was evaluated."""
        return Run(seconds, self.evaluations, self.problem.hypervolume(np.concatenate(self.losses)))


def hwnas_nsga2(problem: Contest, seed: int, population: int, generations: int) -> Run:
    """``nas.explorers.nsga2.minimise``; judged by what it returns, its archive's front."""
    space, counted = problem.space, Counted(problem)
    start = time.process_time()
    result = nsga2.minimise(
        space.decisions, space.canonical, counted, np.random.default_rng(seed), population, generations
    )
    seconds = time.process_time() - start
    return Run(seconds, counted.evaluations, problem.hypervolume(result.losses_NM[result.violation_N <= 0]))


class ResetMutation(Mutation):  # type: ignore[misc]
    """The mutation of ours as a pymoo operator: each gene takes another choice with probability 1 / G."""

    def _do(self, problem: PymooProblem, X: Genes, *args: Any, random_state: Any = None, **kwargs: Any) -> Genes:
        counts = problem.xu + 1
        hit = random_state.random(X.shape) < 1.0 / X.shape[1]
        return np.where(hit, (X + random_state.integers(1, np.maximum(counts, 2), size=X.shape)) % counts, X)


def pymoo_documented(problem: Contest, seed: int, population: int, generations: int) -> Run:
    """pymoo's NSGA-II with the operators that its documentation gives for integers."""
    return _pymoo(
        problem,
        seed,
        population,
        generations,
        SBX(prob=1.0, eta=3.0, vtype=float, repair=RoundingRepair()),
        PM(prob=1.0, eta=3.0, vtype=float, repair=RoundingRepair()),
    )


def pymoo_same_operators(problem: Contest, seed: int, population: int, generations: int) -> Run:
    """pymoo's NSGA-II with the operators of ours: the strongest opponent that we know how to make of it."""
    return _pymoo(problem, seed, population, generations, UniformCrossover(prob=0.9), ResetMutation())


def _pymoo(problem: Contest, seed: int, population: int, generations: int, crossover: Any, mutation: Any) -> Run:
    space, counted = problem.space, Counted(problem)

    class Wrapped(PymooProblem):  # type: ignore[misc]
        def __init__(self) -> None:
            counts = choice_counts(space.decisions)
            super().__init__(n_var=len(counts), n_obj=2, n_ieq_constr=1, xl=0 * counts, xu=counts - 1, vtype=int)

        def _evaluate(self, x: Genes, out: dict[str, Floats], *args: Any, **kwargs: Any) -> None:
            losses_NM, violation_N = counted(space.canonical(x.astype(np.int64)))
            out["F"], out["G"] = losses_NM, violation_N[:, None]

    algorithm = NSGA2(
        pop_size=population,
        sampling=IntegerRandomSampling(),
        crossover=crossover,
        mutation=mutation,
        eliminate_duplicates=True,
    )
    wrapped = Wrapped()
    start = time.process_time()
    minimize(wrapped, algorithm, ("n_gen", generations + 1), seed=seed, copy_algorithm=False)
    return counted.run(time.process_time() - start)


def random_search(problem: Contest, seed: int, population: int, generations: int) -> Run:
    """As many random networks."""
    space, counted = problem.space, Counted(problem)
    rng = np.random.default_rng(seed)
    start = time.process_time()
    for _ in range(generations + 1):
        counted(space.canonical(sample(space.decisions, rng, population)))
    return counted.run(time.process_time() - start)


CONTESTANTS = {
    "ours": hwnas_nsga2,
    "pymoo": pymoo_documented,
    "pymoo_same_operators": pymoo_same_operators,
    "random": random_search,
}


def bench(options: Options) -> dict[str, Any]:
    """The problem with planted latency; the one with measured latency too if its table is there."""
    space = build({"preset": "imagenet"}, ImageShape(3, 224, 224, 1000))
    planted = contest(space, planted_latency(space))
    table = options.shared / "data" / "ofa.npz"
    if not table.exists():
        print(f"no result for measured latency: expected {table}, found nothing", file=sys.stderr)
    with threadpool_limits(limits=1):
        fitted = compare(contest(space, fitted_latency(space, table)), options.seeds) if table.exists() else None
        return {
            **compare(planted, options.seeds),
            "measured_latency": fitted,
            "setting": {
                "space": "mobilenet_v3 imagenet",
                "population": POPULATION,
                "generations": GENERATIONS,
                "seeds": len(options.seeds),
                "threads": 1,
                "device": DEVICE,
            },
        }


def compare(problem: Contest, seeds: Sequence[int]) -> dict[str, Any]:
    """Medians over seeds. The contestants take turns, so that a slow moment of the machine meets all."""
    runs: dict[str, list[Run]] = {name: [] for name in CONTESTANTS}
    for run in CONTESTANTS.values():
        run(problem, 0, 16, 2)  # imports, tables and caches: not timed
    for seed in seeds:
        for name, run in CONTESTANTS.items():
            runs[name].append(run(problem, seed, POPULATION, GENERATIONS))

    def medians(name: str) -> dict[str, Any]:
        return {
            "evaluations_per_s": float(np.median([r.evaluations / r.seconds for r in runs[name]])),
            "hypervolume": float(np.median([r.hypervolume for r in runs[name]])),
            "evaluations": int(np.median([r.evaluations for r in runs[name]])),
        }

    pairs = list(zip(runs["ours"], runs["pymoo"], strict=True))
    return {
        **medians("ours"),
        **{name: medians(name) for name in CONTESTANTS if name != "ours"},
        "speed_ratio": float(np.median([a.evaluations / a.seconds * b.seconds / b.evaluations for a, b in pairs])),
        "hypervolume_ratio": float(np.median([a.hypervolume / b.hypervolume for a, b in pairs])),
        "hypervolumes": {name: [r.hypervolume for r in runs[name]] for name in CONTESTANTS},
    }


if __name__ == "__main__":
    main("explorer", bench, __doc__.split("\n")[0], ("numpy", "pymoo"), seeds=15)

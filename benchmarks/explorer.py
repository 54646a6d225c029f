"""How fast and how good the NSGA-II search is: ``nas.explorers.nsga2`` beside pymoo's, same problem, same run.

The problem is the mobilenet_v3 space with planted weights: latency linear in the space's latency features, error linear
in one-hot choices and log MACs, one bound on latency. Both get the same batched evaluation, population and generations.
pymoo's variables are integers: random integer sampling, uniform crossover with probability 0.9 and polynomial mutation
with probability 1/G, rounded; duplicates are eliminated, as is its default. Both are judged by the
feasible networks among all that they evaluated. Speed is per second of processor time on one thread, evaluation
included.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks._cli import Options, main
from nas.core.arch import Floats, Genes, choice_counts, one_hot, sample
from nas.core.pareto import hypervolume
from nas.core.ports import ImageShape
from nas.explorers.nsga2 import minimise
from search_spaces.mobilenet_v3.space import MobileNetV3, build

PRESET, POPULATION, GENERATIONS = "imagenet", 200, 100
REFERENCE = np.array([1.6, 1.0])  # error; latency at its bound, in units of the bound

Evaluated = tuple[Floats, Floats]
Evaluate = Callable[[Genes], Evaluated]


def planted(space: MobileNetV3, seed: int) -> Evaluate:
    """Losses (error about 1, latency over its bound) and violation. The bound is the latency that a quarter of random
    networks meet."""
    rng = np.random.default_rng((seed, 1))
    probe = space.canonical(sample(space.decisions, rng, 2_000))
    features = space.features(probe)
    latency_weights = rng.gamma(1.0, size=features.shape[1]) / features.mean(axis=0)
    latency_weights /= np.quantile(features @ latency_weights, 0.25)
    choice_weights = rng.normal(scale=0.04, size=one_hot(space.decisions, probe).shape[1])
    log_macs = np.log(space.costs(probe)["macs"])
    mean, width = log_macs.mean(), log_macs.std()

    def evaluate(genes_NG: Genes) -> Evaluated:
        latency = space.features(genes_NG) @ latency_weights
        gain = one_hot(space.decisions, genes_NG) @ choice_weights
        error = 1.0 - gain - 0.15 * (np.log(space.costs(genes_NG)["macs"]) - mean) / width
        return np.stack([error, latency], axis=1), np.maximum(latency - 1.0, 0.0)

    return evaluate


def run_ours(space: MobileNetV3, evaluate: Evaluate, seed: int) -> None:
    """One run of ``minimise``."""
    minimise(space.decisions, space.canonical, evaluate, np.random.default_rng((seed, 2)), POPULATION, GENERATIONS)


def run_pymoo(space: MobileNetV3, evaluate: Evaluate, seed: int) -> None:
    """One run of pymoo's NSGA-II."""
    from pymoo.algorithms.moo.nsga2 import NSGA2
    from pymoo.core.problem import Problem
    from pymoo.operators.crossover.ux import UniformCrossover
    from pymoo.operators.mutation.pm import PolynomialMutation
    from pymoo.operators.repair.rounding import RoundingRepair
    from pymoo.operators.sampling.rnd import IntegerRandomSampling
    from pymoo.optimize import minimize

    counts = choice_counts(space.decisions)

    class Networks(Problem):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(n_var=len(counts), n_obj=2, n_ieq_constr=1, xl=0, xu=counts - 1, vtype=int)

        def _evaluate(self, x: Any, out: dict[str, Any], *args: Any, **kwargs: Any) -> None:
            out["F"], out["G"] = evaluate(space.canonical(x.astype(np.int64)))

    algorithm = NSGA2(
        pop_size=POPULATION,
        sampling=IntegerRandomSampling(),
        crossover=UniformCrossover(prob=0.9),
        mutation=PolynomialMutation(
            prob=1.0, prob_var=1.0 / len(counts), eta=3.0, vtype=float, repair=RoundingRepair()
        ),
    )
    minimize(Networks(), algorithm, ("n_gen", GENERATIONS + 1), seed=seed + 1, verbose=False)


def bench(options: Options) -> dict[str, Any]:
    """Medians over seeds; the two alternate, so that a slow moment of the machine meets both."""
    with threadpool_limits(limits=1):
        return _bench(options)


def _bench(options: Options) -> dict[str, Any]:
    space = build({"preset": PRESET}, ImageShape(3, 224, 224, 1000))
    contestants = {"ours": run_ours, "pymoo": run_pymoo}
    speed: dict[str, list[float]] = {name: [] for name in contestants}
    volume: dict[str, list[float]] = {name: [] for name in contestants}
    for run in contestants.values():
        run(space, planted(space, 0), 0)  # tables of the space, imports and caches: not timed
    for seed in options.seeds:
        evaluate = planted(space, seed)
        for name, run in contestants.items():
            seen: list[Floats] = []

            def watched(genes_NG: Genes, seen: list[Floats] = seen, evaluate: Evaluate = evaluate) -> Evaluated:
                losses, violation = evaluate(genes_NG)
                seen.append(losses[violation <= 0])
                return losses, violation

            begun = time.process_time()
            run(space, watched, seed)
            speed[name].append(POPULATION * (GENERATIONS + 1) / (time.process_time() - begun))
            volume[name].append(hypervolume(np.concatenate(seen), REFERENCE))

    def medians(name: str) -> dict[str, float]:
        return {"evaluations_per_s": float(np.median(speed[name])), "hypervolume": float(np.median(volume[name]))}

    return {
        **medians("ours"),
        "pymoo": medians("pymoo"),
        "speed_ratio": float(np.median(np.divide(speed["ours"], speed["pymoo"]))),
        "hypervolume_ratio": float(np.median(np.divide(volume["ours"], volume["pymoo"]))),
        "hypervolumes": volume,
        "setting": {
            "space": f"mobilenet_v3 {PRESET}",
            "population": POPULATION,
            "generations": GENERATIONS,
            "evaluations": POPULATION * (GENERATIONS + 1),
            "seeds": len(options.seeds),
            "threads": 1,
        },
    }


if __name__ == "__main__":
    main("explorer", bench, __doc__.split("\n")[0], ("numpy", "pymoo"), seeds=15)

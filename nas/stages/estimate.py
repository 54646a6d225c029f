"""Know before you pay: can the bounds be met, and between which values do the networks of this space lie?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from nas.core.arch import Floats, choice_counts, sample
from nas.core.errors import InfeasibleBound
from nas.core.events import Event, SearchState, StageFinished
from nas.core.ports import LatencyPredictor, Problem, Resources, SearchSpace
from nas.core.spec import SearchSpec


@dataclass(frozen=True)
class Estimate:
    """Ranges of cheap metrics over sampled networks and the two extreme ones; ``feasible_share`` of the sampled ones
    meets all bounds on cheap metrics; ``problems`` says which bound no network met."""

    ranges: dict[str, tuple[float, float]]
    feasible_share: float
    problems: tuple[str, ...]
    sampled: int


def estimate(spec: SearchSpec, space: SearchSpace, predictor: LatencyPredictor, samples: int = 20_000) -> Estimate:
    """Looks at ``samples`` random networks (seeded by the spec) and at the smallest and the largest one."""
    rng = np.random.default_rng((spec.seed, 0))
    counts = choice_counts(space.decisions)
    extremes = np.stack([np.zeros_like(counts), counts - 1])
    genes = space.canonical(np.concatenate([extremes, sample(space.decisions, rng, samples)]))
    latency = predictor.predict(space.features(genes))
    metrics: dict[str, Floats] = {
        **space.costs(genes),
        "predicted_ms": latency.mean_ms,
        "upper_ms": latency.upper_ms,
    }
    held = {"latency": "upper_ms", "params": "params", "macs": "macs"}
    feasible = np.ones(len(genes), dtype=bool)
    problems = []
    for o in spec.objectives:
        if o.bound is None or o.name not in held:
            continue
        value = metrics[held[o.name]]
        if value.min() > o.bound:
            what = "95 % upper bound of the predicted latency" if o.name == "latency" else o.name
            unit = " ms" if o.name == "latency" else ""
            problems.append(
                f"no network can meet {o.name} <= {o.bound:g}{unit} on {spec.device}: "
                f"the lowest reachable {what} is {value.min():.4g}{unit} (of {len(genes)} networks tried)"
            )
        feasible &= value <= o.bound
    return Estimate(
        {name: (float(v.min()), float(v.max())) for name, v in metrics.items()},
        float(feasible.mean()),
        tuple(problems),
        len(genes),
    )


@dataclass(frozen=True)
class EstimateStage:
    """Refuses a search whose bounds no network can meet, and records the reference point for hypervolumes."""

    name: ClassVar[str] = "estimate"

    def run(self, problem: Problem, resources: Resources, state: SearchState) -> Iterator[Event]:
        """Raises InfeasibleBound, naming the lowest reachable value."""
        found = estimate(problem.spec, problem.space, problem.predictor)
        if found.problems:
            raise InfeasibleBound("; ".join(found.problems))
        yield StageFinished(
            self.name,
            0.0,
            {
                "ranges": {k: list(v) for k, v in found.ranges.items()},
                "feasible_share": found.feasible_share,
                "sampled": found.sampled,
                "reference": {
                    "accuracy": 100.0 / problem.data.shape.classes,
                    "latency": found.ranges["upper_ms"][1],
                    "params": found.ranges["params"][1],
                    "macs": found.ranges["macs"][1],
                },
            },
        )

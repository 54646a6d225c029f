"""Networks that a user names, in place of exploring."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from nas.core.arch import as_archs
from nas.core.cost_estimate import DurationRange, StageCost, mean_seconds
from nas.core.events import Evaluated, Event, Progress, SearchState, StageFinished, fold
from nas.core.ports import Problem, Resources
from nas.stages.explore import proxy_scores, scored_candidates
from nas.stages.first_networks import NetworkGenes
from nas.stages.fronts import front_of, front_summary
from nas.stages.proxies import ProxyStage
from nas.stages.results import ExploreResult


@dataclass(frozen=True)
class NamedNetworksStage:
    """Scores the given networks by the ``proxies`` of the stage before, which decide what is trained if not all are.
    There is no random baseline: nothing was searched."""

    networks: NetworkGenes
    proxies: ProxyStage
    name: ClassVar[str] = "explore"

    def run(self, problem: Problem, resources: Resources, state: SearchState) -> Iterator[Event]:
        """One ``Evaluated`` with all of them."""
        if not state.of("search"):
            score = proxy_scores(problem, resources, state, self.proxies)
            genes_NG = problem.space.canonical(np.array(self.networks, dtype=np.int64))
            event = Evaluated(tuple(scored_candidates(problem, score, "search", np.unique(genes_NG, axis=0))))
            state = fold(state, event)
            yield event
        evaluations = len(state.of("search"))
        yield Progress(self.name, evaluations, evaluations, "networks")
        fronts = {view: front_summary(front_of(problem.spec, state, device=view)) for view in problem.spec.views}
        result = ExploreResult(
            evaluations=evaluations,
            inherited=0,
            fleet={name: front for name, front in fronts.items() if name is not None},
            **vars(fronts[problem.spec.views[0]]),
        )
        yield StageFinished(self.name, 0.0, result.to_json())

    def estimate_cost(self, problem: Problem, resources: Resources, state: SearchState) -> StageCost:
        """Proxies of the first network."""
        clock, scorer = resources.clock, self.proxies.scorer(problem, resources)
        [first, *_] = as_archs(problem.space.id, problem.space.canonical(np.array(self.networks[:1], dtype=np.int64)))
        seconds = mean_seconds(clock, lambda: scorer(first))
        count = len(self.networks)
        return StageCost.of(self.name, DurationRange.exact(seconds) * count, count, 1, "networks")

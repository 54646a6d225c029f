"""The ladder of nested networks on which a supernet was trained, for exploring to begin with (SortedNet)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from nas.core.cost_estimate import StageCost
from nas.core.events import Event, SearchState, StageFinished
from nas.core.ports import Problem, Resources
from nas.stages.results import LadderResult
from nas.training import samplers


@dataclass(frozen=True)
class LadderStage:
    """Names the networks that training by the schedule ``nested`` has drawn from. Other networks of the space were
    never trained, so that exploring finds little beside these."""

    name: ClassVar[str] = "ladder"

    def run(self, problem: Problem, resources: Resources, state: SearchState) -> Iterator[Event]:
        """The networks from the smallest to the largest."""
        networks = tuple(arch.genes for arch in samplers.ladder(problem.space))
        yield StageFinished(self.name, 0.0, LadderResult(networks).to_json())

    def estimate_cost(self, problem: Problem, resources: Resources, state: SearchState) -> StageCost:
        """They are known without computing."""
        return StageCost.zero(self.name, "a list of networks")

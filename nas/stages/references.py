"""Networks that a front is compared with: published ones, a user's model, and narrower copies of it.

They are scored, retrained and verified like members of the front, and are never on it. Those of other spaces have no
part in the supernet, and no predictor knows their latency: they are known by their exact costs until they are retrained
and measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain
from typing import ClassVar

from nas.core.arch import Arch, as_genes
from nas.core.cost_estimate import DurationRange, StageCost
from nas.core.events import Candidate, Evaluated, Event, Progress, SearchState, StageFinished
from nas.core.ports import Problem, Resources
from nas.core.references import is_of_another_space, reference_archs, space_of
from nas.stages.adaptation import Adaptation
from nas.stages.cost_estimate import scoring_s
from nas.stages.explore import Score, adapted_quality_of, quality_of, scored_candidates
from nas.stages.results import ReferencesResult
from nas.stages.subnets import has_trained_weights, load_subnets


@dataclass(frozen=True)
class ReferenceStage:
    """Scores the reference networks of the spec and of the space, after a short training on ``adapt_images`` where the
    search scores its own so. The parent of a user's space is scored as it is, with the statistics of its own batch
    norms. Without trained weights, only costs are known until they are retrained."""

    adapt_images: int = 0
    name: ClassVar[str] = "references"

    def run(self, problem: Problem, resources: Resources, state: SearchState) -> Iterator[Event]:
        """Networks that were scored before a restart are not scored again. Raises InvalidSpec for genes that are none
        of the space."""
        archs = reference_archs(problem.spec, problem.space)
        score = self._score(problem, resources, state)
        scored = {candidate.arch.id for candidate in state.of("reference")}
        unscored = [arch for arch in archs.values() if arch.id not in scored]
        of_the_space = [arch for arch in unscored if not is_of_another_space(problem, arch)]
        candidates = chain(
            scored_candidates(problem, score, "reference", as_genes(of_the_space)) if of_the_space else (),
            (_of_another_space(problem, arch) for arch in unscored if arch not in of_the_space),
        )
        for candidate in candidates:
            scored.add(candidate.arch.id)
            yield Evaluated((_as_trained(problem, candidate),))
            yield Progress(self.name, len(scored), len(archs), "networks")
        names = {arch.id: name for name, arch in archs.items()}
        yield StageFinished(self.name, 0.0, ReferencesResult(names).to_json())

    def _score(self, problem: Problem, resources: Resources, state: SearchState) -> Score:
        if not has_trained_weights(problem, state):
            return lambda arch: {}
        as_cut = quality_of(problem, load_subnets(problem, resources, state), "reference")
        if not self.adapt_images:
            return as_cut
        adapted = adapted_quality_of(problem, resources, state, self.adapt_images)
        parent = problem.space.pretrained_genes
        return lambda arch: (as_cut if arch.genes == parent else adapted)(arch)

    def estimate_cost(self, problem: Problem, resources: Resources, state: SearchState) -> StageCost:
        """Every network, scored on some images."""
        started_at = resources.clock()
        archs = reference_archs(problem.spec, problem.space)
        subnets = load_subnets(problem, resources, state, untrained_will_do=True)
        total = DurationRange.exact(resources.clock() - started_at)
        adaptation = Adaptation(problem, resources, problem.supernet_blob, self.adapt_images)
        for arch in archs.values():
            if is_of_another_space(problem, arch):
                continue  # only their costs are computed
            if self.adapt_images and arch.genes != problem.space.pretrained_genes:
                total += DurationRange.exact(adaptation.seconds_of(arch, resources.clock))
            else:
                total += DurationRange.exact(scoring_s(subnets, arch, problem.data.val, resources.clock)[0])
        return StageCost.of(self.name, total, len(archs), len(archs), "networks")


def _of_another_space(problem: Problem, arch: Arch) -> Candidate:
    costs = space_of(problem, arch).costs(as_genes([arch]))
    return Candidate(arch, "reference", {name: float(column[0]) for name, column in costs.items()})


def _as_trained(problem: Problem, candidate: Candidate) -> Candidate:
    """The parent is trained already: beside networks that are retrained, its quality counts as theirs does."""
    if problem.spec.retrain is None or candidate.arch.genes != problem.space.pretrained_genes:
        return candidate
    task = problem.spec.task
    return replace(candidate, metrics={**candidate.metrics, task.trained: candidate.metrics[task.estimated]})

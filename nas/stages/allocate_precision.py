"""Allocating precisions: which groups of layers of the best networks are int8, and which float32.

How much int8 changes the outputs is measured for one group at a time, on the images of calibration, with the weights
that the network has (the sensitivity of mixed-precision quantisation, as in HAWQ-V3: Yao et al., ICML 2021). Changes
are taken to add up, and the dynamic programme of ``nas.explorers.allocation`` (RD pruning: Xu et al., ICCV 2023) finds
the precisions that change the outputs least within budgets of the latency that the device's predictor tells, which has
measured networks of both and of their mixtures. What it finds is scored as every network is.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from nas.core.arch import Arch, Floats, Genes
from nas.core.cost_estimate import StageCost, average_duration
from nas.core.events import (
    Candidate,
    Checkpoint,
    Evaluated,
    Event,
    HypervolumeAt,
    Progress,
    SearchState,
    StageFinished,
    Warned,
    fold,
)
from nas.core.ports import Problem, Resources
from nas.core.rng import Stream, rng
from nas.explorers import random
from nas.explorers.allocation import Allocator, Distortions
from nas.mixed_precision import mixed_precision_space
from nas.objectives import cheap_metrics
from nas.quantisation import quantised
from nas.stages.cost_estimate import sample_archs
from nas.stages.explore import history_of, quality_of, scored_candidates
from nas.stages.first_networks import NetworkGenes
from nas.stages.fronts import front_of
from nas.stages.output_change import output_change
from nas.stages.precision import calibration_batches
from nas.stages.results import PrecisionResult
from nas.stages.subnets import Subnets, has_trained_weights, load_subnets
from nas.stages.time_limit import out_of_time

BUDGETS = 3  # of latency, between all groups in the faster and all in the more exact precision
_SHARE = 4  # of the evaluations of a search, one in so many are added


@dataclass(frozen=True)
class AllocatePrecisionStage:
    """Allocates the precisions of front members anew, each for ``BUDGETS`` latencies, and scores the networks, at most
    a quarter of ``budget.evaluations``; the baseline scores as many random ones more."""

    name: ClassVar[str] = "allocate_precision"

    def run(self, problem: Problem, resources: Resources, state: SearchState) -> Iterator[Event]:
        """Networks that were measured before a restart are not measured again."""
        if not has_trained_weights(problem, state):
            yield Warned(self.name, "no network has trained weights, by which precisions could be allocated")
            yield StageFinished(self.name, 0.0, PrecisionResult().to_json())
            return
        subnets = load_subnets(problem, resources, state)
        allocated = yield from self._allocate(problem, resources, state, subnets)
        scored_genes = {candidate.arch.genes for candidate in state.of("search")}
        if unseen := [genes for genes in allocated.networks if genes not in scored_genes]:
            event = Evaluated(tuple(_scored(problem, state, subnets, np.array(unseen, dtype=np.int64))))
            state = fold(state, event)
            yield event
            for view in problem.spec.views:
                front = front_of(problem.spec, state, device=view)
                if front.hypervolume is not None and front.baseline_hypervolume is not None:
                    scored = len(state.of("search"))
                    yield HypervolumeAt(scored, front.hypervolume, front.baseline_hypervolume, view)
        yield StageFinished(self.name, 0.0, allocated.to_json())

    def estimate_cost(self, problem: Problem, resources: Resources, state: SearchState) -> StageCost:
        """The sensitivity of networks from the smallest to the largest; scoring is as while exploring."""
        clock = resources.clock
        subnets = load_subnets(problem, resources, state, untrained_will_do=True)
        archs, macs = sample_archs(problem.space)

        def seconds_of(i: int) -> float:
            started_at = clock()
            group_changes(subnets, archs[i])
            return clock() - started_at

        timed, count = average_duration(macs.tolist(), seconds_of, inner=1), _members_at_most(problem)
        return StageCost.of(self.name, timed.span * count, count, timed.count, "networks")

    def _allocate(
        self, problem: Problem, resources: Resources, state: SearchState, subnets: Subnets
    ) -> Generator[Event, None, PrecisionResult]:
        """The front members with the changes of each, and the networks that follow from them."""
        last = state.checkpoints.get(self.name)
        if last is None:
            allocated = PrecisionResult(members=_members(problem, state))
        else:
            allocated = PrecisionResult.parse(json.loads(resources.blobs.get(last.blob)))
        count = len(allocated.members)
        for done in range(len(allocated.changes), count):
            if resources.is_out_of_time():
                yield Warned(self.name, out_of_time(problem.spec, f"{done} of {count} networks"))
                break
            arch = Arch(problem.space.id, allocated.members[done])
            changes = group_changes(subnets, arch)
            networks = least_changed_networks(problem, arch, changes)
            allocated = replace(
                allocated,
                changes=(*allocated.changes, changes),
                networks=tuple(dict.fromkeys([*allocated.networks, *networks])),
            )
            yield Checkpoint(self.name, done + 1, resources.blobs.put(json.dumps(allocated.to_json()).encode()))
            yield Progress(self.name, done + 1, count, "networks", message="measuring what int8 changes")
        return allocated


def group_changes(subnets: Subnets, arch: Arch) -> dict[str, float]:
    """By group of layers, how much the outputs of a network change if that group alone is int8 (``output_change``);
    0 for a group without layers that int8 concerns."""
    space, module = mixed_precision_space(subnets.problem.space), subnets.cut(arch)
    batches = [*calibration_batches(subnets, arch)]
    expected = _outputs(module, batches)
    active = space.active_groups(arch)
    changes = {}
    for k, group in enumerate(space.groups):
        group_alone = space.int8_operators(space.with_precisions(arch, [j == k for j in range(len(active))]))
        outputs = _outputs(quantised(module, batches, group_alone), batches) if active[k] else expected
        changes[group.name] = output_change(outputs, expected, subnets.problem.spec.task.labels)
    return changes


def least_changed_networks(problem: Problem, arch: Arch, changes: Mapping[str, float]) -> list[tuple[int, ...]]:
    """The networks of ``arch`` whose outputs change least for ``BUDGETS`` predicted latencies, from the least that its
    precisions reach up to that of all groups in float32; in part the same."""
    space, mixed = problem.space, mixed_precision_space(problem.space)
    exact_G = np.array(mixed.with_precisions(arch, [False] * len(mixed.groups)).genes, dtype=np.int64)
    fixed = [
        np.where(np.arange(len(decision.choices)) == gene, 0.0, np.inf)
        for decision, gene in zip(mixed.inner.decisions, exact_G.tolist(), strict=False)
    ]
    precisions = [np.array([change, 0.0]) for change in changes.values()]
    distortions = Distortions(exact_G, (*fixed, *precisions), {})

    def latency_ms(genes_NG: Genes) -> Floats:
        return cheap_metrics(problem, genes_NG)["predicted_ms"]

    allocator = Allocator(distortions, space.canonical, latency_ms)
    fastest_G = allocator.allocate(0.0)
    lowest, highest = latency_ms(np.stack([fastest_G, exact_G]))
    between = [allocator.allocate(float(budget)) for budget in np.linspace(lowest, highest, BUDGETS + 1)[1:-1]]
    solutions = [fastest_G, *between, exact_G]
    return [*dict.fromkeys(tuple(genes_G.tolist()) for genes_G in solutions)]


@torch.no_grad()
def _outputs(module: nn.Module, batches: Sequence[Tensor]) -> tuple[Tensor, ...]:
    outputs = [module(x_BCHW) for x_BCHW in batches]
    by_output = zip(*((b,) if isinstance(b, Tensor) else b for b in outputs), strict=True)
    return tuple(torch.cat(parts) for parts in by_output)


def _members_at_most(problem: Problem) -> int:
    return max(1, problem.spec.budget.evaluations // (_SHARE * (BUDGETS + 1)))


def _members(problem: Problem, state: SearchState) -> NetworkGenes:
    """Front members, evenly along each front, each network once, whatever its precisions."""
    mixed, views = mixed_precision_space(problem.space), problem.spec.views
    by_network: dict[str, tuple[int, ...]] = {}
    for view in views:
        for p in front_of(problem.spec, state, device=view).members:
            by_network.setdefault(mixed.arch_of(p.arch).id, p.arch.genes)
    genes = [*by_network.values()]
    at_most = min(len(genes), _members_at_most(problem))
    return tuple(genes[round(i)] for i in np.linspace(0, len(genes) - 1, at_most)) if genes else ()


def _scored(problem: Problem, state: SearchState, subnets: Subnets, genes_NG: Genes) -> Iterator[Candidate]:
    """Networks of the search, and as many random ones of the baseline."""
    yield from scored_candidates(problem, quality_of(problem, subnets), "search", genes_NG)
    generator = rng(problem.spec.seed, Stream.PRECISION_BASELINE)
    random_NG = random.propose(problem.space, history_of(problem, state, "baseline"), generator, len(genes_NG))
    yield from scored_candidates(problem, quality_of(problem, subnets), "baseline", random_NG)

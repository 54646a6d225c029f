"""Dividing a space into subspaces, each of which gets a supernet of its own."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
import torch

from nas.core.arch import Arch, sample
from nas.core.cost_estimate import DurationRange, StageCost
from nas.core.errors import InvalidSpec
from nas.core.events import Event, Progress, SearchState, StageFinished, Traced, Warned
from nas.core.ports import Problem, Resources, SearchSpace
from nas.core.rng import Stream, rng
from nas.stages.cost_estimate import sample_archs
from nas.stages.results import GradientSimilarity, SplitResult, TrainResult
from nas.stages.subnets import load_supernet
from nas.stages.time_limit import out_of_time
from nas.training.fewshot.automatic import AutomaticSplit
from nas.training.fewshot.matching import (
    GradientMatching,
    RepeatedMatching,
    RepeatedSplit,
    choice_names,
    match_decisions,
    match_gradients,
    split_by_matching,
)
from nas.training.fewshot.partition import SpacePartition, exhaustive_split, random_split, splittable
from nas.training.pipeline import Pipeline

Method = Literal["gradient_matching", "auto", "exhaustive", "random", "ensemble"]
RepeatedSplitT = TypeVar("RepeatedSplitT", bound=RepeatedSplit)
COUNTED = 2_000  # random networks by which the sizes of subspaces are estimated


@dataclass(frozen=True)
class SplitStage:
    """Divides by ``decisions``, or by any, in at most ``subspaces`` subspaces, method ``auto`` in one where no split
    predicts a gain. ``match_again``: gradient matching compares anew inside each subspace that it splits further. Needs
    the supernet of a stage ``warm_up``."""

    method: Method
    subspaces: int
    decisions: tuple[str, ...] = ()
    repeats: int = 16
    batch_size: int = 64
    match_again: bool = False
    name: ClassVar[str] = "split"

    def run(self, problem: Problem, resources: Resources, state: SearchState) -> Iterator[Event]:
        """One ``Traced`` per decision that was compared: similarities of gradients, -1 to 1 drawn as 0 to 1. The result
        holds the tree, the matrices and the share of networks in each subspace."""
        space = problem.space
        if problem.supernet_blob is not None:
            yield StageFinished(self.name, 0.0, SplitResult(reused=True).to_json())
            return
        matchings: list[GradientMatching] = []
        if self.method == "ensemble":  # learned with the weights, by the stage that follows
            result = SplitResult(
                method=self.method, subspaces=self.subspaces, partition={}, choices={}, shares=(), matching=()
            )
            yield StageFinished(self.name, 0.0, result.to_json())
            return
        if self.method == "exhaustive":
            partition = exhaustive_split(space, self.decisions, self.subspaces)
        elif self.method == "random":
            genes = [g for g in splittable(space) if space.decisions[g].name in self.decisions]
            generator = rng(problem.spec.seed, Stream.RANDOM_SPLIT)
            partition = random_split(space, self.subspaces, generator, genes or None)
        elif self.method == "auto":
            partition = yield from self._automatic(problem, resources, state, matchings)
        elif self.match_again:
            partition = yield from self._matched_again(problem, resources, state, matchings)
        else:
            net = load_supernet(problem, resources, TrainResult.require(state.finished, "warm_up").blob)
            total = len(self.decisions) or len(splittable(space))
            matching = match_decisions(
                net, space, self._batch(problem, resources), self.decisions, self.repeats, problem.spec.seed
            )
            for m in matching:
                matchings.append(m)
                yield self._traced(problem, m, choice_names(space.decisions[m.gene]), len(matchings))
                yield Progress(self.name, len(matchings), total, "decisions", message=space.decisions[m.gene].name)
                if len(matchings) < total and resources.is_out_of_time():
                    yield Warned(self.name, out_of_time(problem.spec, f"{len(matchings)} of {total} decisions"))
                    break
            partition = split_by_matching(matchings, self.subspaces)
        if partition.size == 1 and self.method != "auto":
            raise InvalidSpec(
                f"nothing could be split into at most {self.subspaces} subspaces: expected subspaces to be larger"
            )
        divided = {gene for choices in partition.allowed_choices() for gene in choices}
        result = SplitResult(
            method=self.method,
            subspaces=partition.size,
            partition=partition.as_json(space.decisions),
            choices={d.name: tuple(choice_names(d)) for i, d in enumerate(space.decisions) if i in divided},
            shares=tuple(shares(partition, problem)),
            matching=tuple(_similarity(m, problem) for m in matchings),
        )
        yield StageFinished(self.name, 0.0, result.to_json())

    def _automatic(
        self, problem: Problem, resources: Resources, state: SearchState, matchings: list[GradientMatching]
    ) -> Generator[Event, None, SpacePartition]:
        """The partition by ``AutomaticSplit``; the comparisons of the whole space are added to ``matchings``."""
        automatic = self._begun(AutomaticSplit, problem, resources, state)
        comparisons = len(automatic.genes) * (2 * self.subspaces - 3)  # at most
        compared = (conflict.matching for conflict in automatic.run())
        yield from self._followed(problem, resources, compared, comparisons, matchings, len(automatic.genes))
        if automatic.partition.size == 1:
            yield Warned(
                self.name,
                "the space stays whole: no choices were found whose networks harm each other through shared weights; "
                f"the supernet trains on for as many steps as {self.subspaces} subspaces would",
            )
        return automatic.partition

    def _matched_again(
        self, problem: Problem, resources: Resources, state: SearchState, matchings: list[GradientMatching]
    ) -> Generator[Event, None, SpacePartition]:
        """The partition by ``RepeatedMatching``; the comparisons of the whole space are added to ``matchings``."""
        again = self._begun(RepeatedMatching, problem, resources, state)
        comparisons = len(again.genes) * (self.subspaces - 1)  # at most: a split takes the comparisons of one subspace
        yield from self._followed(problem, resources, again.run(), comparisons, matchings, len(again.genes))
        return again.partition

    def _begun(
        self, kind: type[RepeatedSplitT], problem: Problem, resources: Resources, state: SearchState
    ) -> RepeatedSplitT:
        """A split of the whole space that compares by the warmed-up supernet."""
        space = problem.space
        net = load_supernet(problem, resources, TrainResult.require(state.finished, "warm_up").blob)
        batch, genes = self._batch(problem, resources), self._compared(space)
        return kind(net, space, batch, genes, self.repeats, problem.spec.seed, self.subspaces)

    def _followed(
        self,
        problem: Problem,
        resources: Resources,
        compared: Iterator[GradientMatching],
        comparisons: int,
        matchings: list[GradientMatching],
        of_whole_space: int,
    ) -> Iterator[Event]:
        """The events of comparisons, of which there are ``comparisons`` at most, until the time is up. The first
        ``of_whole_space`` are added to ``matchings``."""
        for number, m in enumerate(compared, start=1):
            if len(matchings) < of_whole_space:
                matchings.append(m)
            decision = problem.space.decisions[m.gene]
            names = choice_names(decision)
            choices = tuple(names[c] for c in sorted(c for group in m.groups for c in group))
            yield self._traced(problem, m, choices, number)
            yield Progress(self.name, number, comparisons, "decisions", message=decision.name)
            if resources.is_out_of_time():
                yield Warned(self.name, out_of_time(problem.spec, f"{number} comparisons"))
                break

    def _compared(self, space: SearchSpace) -> list[int]:
        """The genes of the decisions that are compared: those named, or all that can be split."""
        return [g for g in splittable(space) if not self.decisions or space.decisions[g].name in self.decisions]

    def _traced(self, problem: Problem, m: GradientMatching, choices: tuple[str, ...], step: int) -> Traced:
        table = tuple(tuple(round(float(v + 1) / 2, 5) for v in row) for row in m.similarity.clip(-1, 1))
        return Traced(self.name, step, {"score": m.score}, choices, choices, table)

    def estimate_cost(self, problem: Problem, resources: Resources, state: SearchState) -> StageCost:
        """Compares the choices of the first decision once, on an untrained supernet. An automatic split compares the
        whole space at least, and the children of all splits at most."""
        if problem.supernet_blob is not None or self.method not in ("gradient_matching", "auto"):
            return StageCost.zero(self.name, "nothing is compared")
        clock, space = resources.clock, problem.space
        net = space.supernet(problem.spec.seed).to(torch.device(resources.torch_device))
        batch = self._batch(problem, resources)
        genes = self._compared(space)
        match_gradients(net, space, batch, genes[0], 1, np.random.default_rng(0))
        started_at = clock()
        match_gradients(net, space, batch, genes[0], 1, np.random.default_rng(1))
        seconds = (clock() - started_at) * self.repeats * len(genes)
        again = {"auto": 2 * self.subspaces - 3}.get(self.method, self.subspaces - 1 if self.match_again else 1)
        longest_s = 2 * seconds * again
        return StageCost.of(self.name, DurationRange(seconds / 2, seconds, longest_s), len(genes), 1, "decisions")

    def _batch(self, problem: Problem, resources: Resources) -> Any:
        pipeline = Pipeline.of(problem, resources.torch_device)
        train = problem.data.train

        def batch(arch: Arch, repeat: int) -> tuple[torch.Tensor, torch.Tensor]:
            order = rng(problem.spec.seed, Stream.MATCHING_BATCH, repeat).permutation(len(train))
            rows = order[: self.batch_size].astype(np.int64)
            return pipeline.augmented(train, rows, problem.space.input_shape(arch)[1:], repeat)

        return batch


def shares(partition: SpacePartition, problem: Problem) -> list[float]:
    """The share of random gene vectors whose network lies in each subspace."""
    sample_NG = sample(problem.space.decisions, np.random.default_rng(0), COUNTED)
    counts = np.bincount(partition.route(problem.space.canonical(sample_NG)), minlength=partition.size)
    return [float(c) / COUNTED for c in counts]


def held_out_archs(problem: Problem, n: int) -> list[Arch]:
    """``n`` networks, always the same, spread over the range of MACs."""
    archs, macs = sample_archs(problem.space, 8 * n)
    unique = {a.genes: (float(m), a) for a, m in zip(archs, macs, strict=True)}
    ordered = [a for _, a in sorted(unique.values(), key=lambda pair: (pair[0], pair[1].genes))]
    positions = np.unique(np.linspace(0, len(ordered) - 1, n).round().astype(int))
    return [ordered[i] for i in positions]


def _similarity(m: GradientMatching, problem: Problem) -> GradientSimilarity:
    decision = problem.space.decisions[m.gene]
    return GradientSimilarity(
        decision=decision.name,
        choices=tuple(choice_names(decision)),
        similarity=tuple(tuple(round(float(v), 5) for v in row) for row in m.similarity),
        groups=tuple(tuple(g) for g in m.groups),
        score=m.score,
    )

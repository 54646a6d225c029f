"""What the prices of stages have in common: networks to try, parts of large splits, and what measuring takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from torch import nn

from nas.core.arch import Arch, Floats, as_archs, choice_counts, sample
from nas.core.cost_estimate import DurationRange
from nas.core.device import DeviceProfile
from nas.core.ports import Measurer, Problem, SearchSpace, Split
from nas.stages.subnets import Subnets

NETWORKS = 64
PART = 1_000  # images that are enough to estimate how long the others take


def sample_archs(space: SearchSpace, n: int = NETWORKS) -> tuple[list[Arch], Floats]:
    """Random networks, always the same ones, with the smallest and the largest; and their MACs, shape (n + 2,)."""
    counts = choice_counts(space.decisions)
    random_NG = sample(space.decisions, np.random.default_rng(0), n)
    genes_NG = space.canonical(np.concatenate([random_NG, [np.zeros_like(counts), counts - 1]]))
    return as_archs(space.id, genes_NG), space.costs(genes_NG)["macs"]


def first_images(split: Split, max_images: int = PART) -> tuple[Split, float]:
    """The first images of a split, and how many times as many it has in all."""
    part = Split(split.images_NCHW[:max_images], split.labels[:max_images])
    return part, len(split) / len(part)


def scoring_s(subnets: Subnets, arch: Arch, split: Split, clock: Callable[[], float]) -> tuple[float, nn.Module]:
    """Seconds to cut out a network, recalibrate it and score it over a split; and the network."""
    part, times = first_images(split)
    started_at = clock()
    module = subnets.cut(arch)
    cut = clock()
    subnets.score(module, arch, part)
    return cut - started_at + times * (clock() - cut), module


@dataclass(frozen=True)
class MeasuringCost:
    """What it takes to begin measuring, and to measure one network; ``timed`` networks were measured."""

    begin_s: float
    per_network: DurationRange
    timed: int

    def of(self, n: float, groups: float) -> DurationRange:
        """``n`` networks in so many groups."""
        return DurationRange.exact(self.begin_s) * groups + self.per_network * n


def estimate_measuring(
    models: Mapping[str, bytes], profile: DeviceProfile, measure: Measurer, clock: Callable[[], float]
) -> MeasuringCost:
    """Measures nothing, and then a group of ``models`` by their ids. Each takes between the protocol's shortest and
    longest time; in between, what these took."""
    protocol = profile.protocol
    if not profile.measurable:
        return MeasuringCost(0.0, DurationRange.exact(0.0), 0)
    started_at = clock()
    list(measure([], profile, []))
    begin_s = clock() - started_at
    started_at = clock()
    list(measure([*models.values()], profile, [*models]))
    each_s = max(0.0, (clock() - started_at - begin_s) / len(models))
    shortest_s = min(protocol.shortest_ms / 1e3, each_s)
    longest_s = max(each_s, protocol.longest_ms / 1e3)
    return MeasuringCost(begin_s, DurationRange(shortest_s, each_s, longest_s), len(models))


def verified_range(problem: Problem) -> tuple[int, int]:
    """The fewest and the most networks of one origin that will be verified, for all fronts. Where bounds hold, it is
    not known beforehand how many networks of a random search will meet them."""
    scored = problem.spec.budget.evaluations + len(problem.inherited) // 2
    upper = min(problem.spec.budget.verified, scored)
    if problem.spec.retrain is not None:
        upper = min(upper, problem.spec.retrain.networks)
    bounded = any(o.bound is not None for o in problem.spec.objectives) or bool(problem.fleet)
    return (1 if bounded else upper), min(upper * len(problem.spec.views), scored)

"""How sensitive a user's model is to each cut, and the networks that distort it least for their cost.

Units are first put in order by an importance criterion. Then each decision is changed alone, and the change of the
outputs is measured on some training images; the dynamic programme of ``nas.explorers.allocation`` finds the networks
whose distortions add up to least within budgets of the search's first cost. Exploring begins with those.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import ClassVar, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from nas.core.arch import Arch, Genes, as_archs
from nas.core.cost_estimate import DurationRange, StageCost, average_duration, mean_seconds
from nas.core.errors import InvalidSpec
from nas.core.events import Checkpoint, Event, Progress, SearchState, StageFinished, Warned
from nas.core.ports import Problem, Resources, SearchSpace
from nas.core.rng import Stream, rng
from nas.explorers.allocation import Distortions, inactive_decisions
from nas.importance.criteria import CriterionName, UnitOrders, unit_orders
from nas.importance.precropping import cropped_copies, layer_saliencies
from nas.importance.supernet import ModelSupernet
from nas.stages.cost_estimate import NETWORKS
from nas.stages.first_networks import (
    NetworkGenes,
    cropped_networks,
    least_distorting_networks,
    widest_networks,
)
from nas.stages.layer_tickets import layer_tickets
from nas.stages.output_change import output_change
from nas.stages.results import SensitivityResult
from nas.stages.time_limit import out_of_time
from nas.training.pipeline import Pipeline
from nas.training.state import TrainState

FirstNetworks: TypeAlias = Literal["least_distortion", "pre_cropping", "layer_tickets"]
_BATCH = 8  # measurements between two checkpoints
_IMAGES_AT_ONCE = 32  # that share the statistics of batch norms
_IMPORTANCE_BATCHES = 2


@dataclass(frozen=True)
class SensitivityStage:
    """Measures at most ``levels`` smaller choices of each decision on ``images`` training images; choices between are
    interpolated. Networks are found for ``budgets`` between the smallest and the bound, or the parent's cost; with
    ``near_copies`` also near uniformly narrowed copies of the parent, and these copies, which are all if time runs out.
    ``first``: by which methods networks are found: by the distortions, by PreCropping (``nas.importance.precropping``)
    or as layer tickets (``nas.stages.layer_tickets``).

    Skipped when a supernet is reused.
    """

    importance: CriterionName
    images: int
    levels: int
    budgets: int
    near_copies: bool = False
    first: tuple[FirstNetworks, ...] = ("least_distortion",)
    name: ClassVar[str] = "sensitivity"

    def run(self, problem: Problem, resources: Resources, state: SearchState) -> Iterator[Event]:
        """Cuts that were measured before a restart are not measured again. Raises InvalidSpec for a space without a
        trained network."""
        if problem.supernet_blob is not None:
            yield StageFinished(self.name, 0.0, SensitivityResult(problem.supernet_blob).to_json())
            return
        meter = DistortionMeter(problem, resources.torch_device, self.images)
        progress = yield from self._begin(problem, resources, state, meter)
        meter.net.set_unit_order(progress.order)
        cuts = self._cuts(problem.space)
        while (done := len(progress.distortions)) < len(cuts):
            if resources.is_out_of_time():
                yield Warned(self.name, out_of_time(problem.spec, f"{done} of {len(cuts)} cuts"))
                break
            measured = [meter.distortion(cut.arch) for cut in cuts[done : done + _BATCH]]
            progress = replace(progress, distortions=(*progress.distortions, *measured))
            yield Checkpoint(self.name, len(progress.distortions), resources.blobs.put(progress.to_json()))
            yield Progress(self.name, len(progress.distortions), len(cuts), "cuts")
        supernet = resources.blobs.put(TrainState(weights={"net": meter.net.state_dict()}).to_bytes())
        result = self._with_networks(
            SensitivityResult(supernet, self.importance, self.images), problem, cuts, progress.distortions
        )
        if result.distortions:
            more = (*self._cropped(problem, meter), *(yield from self._tickets(problem, meter)))
            result = replace(result, networks=tuple(dict.fromkeys((*result.networks, *more))))
        yield StageFinished(self.name, 0.0, result.to_json())

    def _cropped(self, problem: Problem, meter: DistortionMeter) -> NetworkGenes:
        """The networks of PreCropping for the budgets, none if it is not wanted."""
        if "pre_cropping" not in self.first:
            return ()
        net, parent_G = meter.net, parent_genes(problem.space)
        layers = layer_saliencies(net.graph, net.weights, net.analysis, next(meter.inputs(meter.parent)))
        cropped_DG = cropped_copies(problem.space.decisions, parent_G, layers)
        return cropped_networks(problem, parent_G, cropped_DG, self.budgets)

    def _tickets(self, problem: Problem, meter: DistortionMeter) -> Generator[Event, None, NetworkGenes]:
        """The layer tickets of the parent, none if they are not wanted."""
        if "layer_tickets" not in self.first:
            return ()
        space, tickets = problem.space, list[tuple[int, ...]]()
        total = sum(decision.axis == "depth" for decision in space.decisions)

        def distortion(genes_G: Genes) -> float:
            return meter.distortion(as_archs(space.id, genes_G[None])[0])

        for genes_G in layer_tickets(space.decisions, space.canonical, parent_genes(space), distortion):
            tickets.append(tuple(genes_G.tolist()))
            yield Progress(self.name, len(tickets), total, "blocks", message="removing blocks one by one")
        return tuple(tickets)

    def _with_networks(
        self, result: SensitivityResult, problem: Problem, cuts: list[Cut], measured: Sequence[float]
    ) -> SensitivityResult:
        """The result with what was ``measured``, and the networks that follow from it."""
        parent_G = parent_genes(problem.space)
        if len(measured) < len(cuts):
            return replace(result, scaled=widest_networks(problem, parent_G, self.budgets))
        distortions = self._distortions(problem.space, cuts, measured)
        named = zip(problem.space.decisions, distortions.by_choice, strict=True)
        return replace(
            result,
            distortions={decision.name: tuple(values.tolist()) for decision, values in named},
            networks=least_distorting_networks(problem, distortions, self.budgets, self.near_copies)
            if "least_distortion" in self.first
            else (),
            scaled=widest_networks(problem, parent_G, self.budgets) if self.near_copies else (),
        )

    def _begin(
        self, problem: Problem, resources: Resources, state: SearchState, meter: DistortionMeter
    ) -> Generator[Event, None, _Measured]:
        """What was measured before a restart; at first the order of units alone, which is kept, too."""
        if (last := state.checkpoints.get(self.name)) is not None:
            return _Measured.from_json(resources.blobs.get(last.blob))
        orders = self._orders(problem, meter)
        progress = _Measured(orders.order, ())
        if orders.by_l2:
            yield Warned(
                self.name,
                f"importance {self.importance} says nothing of {', '.join(orders.by_l2)}: their units are in the order "
                "of their L2 norms",
            )
        yield Checkpoint(self.name, 0, resources.blobs.put(progress.to_json()))
        return progress

    def estimate_cost(self, problem: Problem, resources: Resources, state: SearchState) -> StageCost:
        """The order of units, cuts from the smallest to the largest network, and networks for one budget."""
        if problem.supernet_blob is not None:
            return StageCost.zero(self.name, "the supernet is trained already")
        clock = resources.clock
        started_at = clock()
        meter = DistortionMeter(problem, resources.torch_device, self.images)
        meter.net.set_unit_order(self._orders(problem, meter).order)
        total, cuts = DurationRange.exact(clock() - started_at), self._cuts(problem.space)
        step = max(1, len(cuts) // NETWORKS)
        archs = [cut.arch for cut in cuts[::step]]
        macs_N = problem.space.costs(np.array([arch.genes for arch in archs]))["macs"]
        timed = average_duration(
            macs_N.tolist(), lambda i: mean_seconds(clock, lambda: meter.distortion(archs[i]), max_runs=2)
        )
        started_at = clock()
        evenly = self._distortions(problem.space, cuts, np.ones(len(cuts)).tolist())
        least_distorting_networks(problem, evenly, 1, self.near_copies)
        total += timed.span * len(cuts) + DurationRange.exact(clock() - started_at) * self.budgets
        started_at = clock()
        self._cropped(problem, meter)
        total += DurationRange.exact(clock() - started_at)
        if "layer_tickets" in self.first:
            blocks = sum(decision.axis == "depth" for decision in problem.space.decisions)
            total += timed.span * (blocks * (blocks + 1) // 2)
        return StageCost.of(self.name, total, len(cuts), timed.count, "cuts")

    def _orders(self, problem: Problem, meter: DistortionMeter) -> UnitOrders:
        x_BCHW = torch.cat([*islice(meter.inputs(meter.parent), _IMPORTANCE_BATCHES)])
        return unit_orders(self.importance, meter.net.graph, meter.net.weights, meter.net.analysis, x_BCHW)

    def _cuts(self, space: SearchSpace) -> list[Cut]:
        """What is measured: of each decision the smallest choice, others evenly, and all that are larger than the
        parent's."""
        parent_G = parent_genes(space)
        cuts = []
        for g, decision in enumerate(space.decisions):
            own, count = int(parent_G[g]), len(decision.choices)
            smaller = np.unique(np.linspace(0, own - 1, min(self.levels, own)).round().astype(int)).tolist()
            for choice in (*smaller, *range(own + 1, count)):
                genes_G = parent_G.copy()
                genes_G[g] = choice
                [arch] = as_archs(space.id, space.canonical(genes_G[None]))
                cuts.append(Cut(g, int(choice), arch))
        return cuts

    def _distortions(self, space: SearchSpace, cuts: list[Cut], measured: Sequence[float]) -> Distortions:
        """All choices: the roots of distortions are interpolated, and a smaller choice never distorts less."""
        parent_G = parent_genes(space)
        by_choice = []
        for g, decision in enumerate(space.decisions):
            own = int(parent_G[g])
            value_at = {own: 0.0} | {
                cut.choice: value for cut, value in zip(cuts, measured, strict=True) if cut.decision == g
            }
            positions = sorted(value_at)
            roots = np.interp(range(len(decision.choices)), positions, np.sqrt([value_at[i] for i in positions]))
            roots[: own + 1] = np.maximum.accumulate(roots[own::-1])[::-1]
            by_choice.append(np.square(roots))
        inner = inactive_decisions(space.decisions, space.canonical, parent_G)
        return Distortions(parent_G, tuple(by_choice), inner)


@dataclass(frozen=True)
class Cut:
    """The parent with one decision changed to a ``choice``."""

    decision: int
    choice: int
    arch: Arch


class DistortionMeter:
    """Compares outputs of networks with the parent's on the same training images. Batch norms use the statistics of
    these images, as they do once a network is recalibrated."""

    def __init__(self, problem: Problem, device: str, images: int) -> None:
        net = problem.space.supernet(problem.spec.seed)
        if not isinstance(net, ModelSupernet):
            raise InvalidSpec(f"sensitivity needs a supernet of a user's model, got space {problem.space.name!r}")
        self.net: ModelSupernet = net.to(torch.device(device)).train()
        self.parent = as_archs(problem.space.id, parent_genes(problem.space)[None])[0]
        self._problem, self._pipeline = problem, Pipeline.of(problem, device)
        rows = rng(problem.spec.data.seed, Stream.CALIBRATION_IMAGES).permutation(len(problem.data.train))
        self._rows = rows[:images]
        self._expected: tuple[Tensor, ...] | None = None

    def distortion(self, arch: Arch) -> float:
        """How much the outputs change (``nas.stages.output_change``)."""
        if self._expected is None:
            self._expected = self._outputs(self.parent)
        return output_change(self._outputs(arch), self._expected, self._problem.spec.task.labels)

    def inputs(self, arch: Arch) -> Iterator[Tensor]:
        """The normalised images at a network's resolution, in batches (B, C, H, W)."""
        resolution = self._problem.space.input_shape(arch)[1:]
        return (x for x, _ in self._pipeline.rows(self._problem.data.train, self._rows, resolution, _IMAGES_AT_ONCE))

    @torch.no_grad()
    def _outputs(self, arch: Arch) -> tuple[Tensor, ...]:
        batches = [self.net(x_BCHW, arch) for x_BCHW in self.inputs(arch)]
        by_output = zip(*((b,) if isinstance(b, Tensor) else b for b in batches), strict=True)
        return tuple(torch.cat(parts) for parts in by_output)


@dataclass(frozen=True)
class _Measured:
    """The order of units, and the distortions that were measured so far."""

    order: dict[str, list[int]]
    distortions: tuple[float, ...]

    def to_json(self) -> bytes:
        return json.dumps({"order": self.order, "distortions": self.distortions}).encode()

    @staticmethod
    def from_json(text: bytes) -> _Measured:
        record = json.loads(text)
        return _Measured(record["order"], tuple(record["distortions"]))


def measured_distortions(space: SearchSpace, state: SearchState) -> Distortions | None:
    """What the stage found; None where it has not run, or had nothing to measure."""
    result = SensitivityResult.read(state.finished)
    if result is None or not result.distortions:
        return None
    parent_G = parent_genes(space)
    by_choice = tuple(np.array(result.distortions[decision.name]) for decision in space.decisions)
    return Distortions(parent_G, by_choice, inactive_decisions(space.decisions, space.canonical, parent_G))


def parent_genes(space: SearchSpace) -> Genes:
    """The genes of the trained network, shape (G,). Raises InvalidSpec for a space without one."""
    if space.pretrained_genes is None:
        raise InvalidSpec(f"expected a space of a user's model, got {space.name!r}, whose networks are untrained")
    return np.array(space.pretrained_genes, dtype=np.int64)

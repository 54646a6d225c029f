"""The one loop of differentiable search; every method is a set of options (``options.PRESETS``).

Epochs come in three kinds. A step of a *search* epoch updates the architecture parameters on held-out images and the
weights on the others (or both together); temperature, pruning and monitors follow at its end. *select* epochs follow
decisions by perturbation. In *tune* epochs the weights train single networks around the discretised one. Everything
random derives from (seed, epoch, step): a position and ``GradientSearch.state`` are all that a resumed search needs.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from nas.core.arch import Floats, Genes
from nas.core.errors import HwnasError
from nas.core.ports import Dataset, RelaxedSpace
from nas.core.rng import Stream, earlier_rng, rng
from nas.supernet import RelaxedSupernet
from nas.training.gradient import monitors, operation_weights, perturbation, resource
from nas.training.gradient.batches import Batches
from nas.training.gradient.beginning import first_multiplier, operation_costs, resolution_of, selection_targets
from nas.training.gradient.early_stopping import FURTHEST_BACK, probe_epochs
from nas.training.gradient.hypernetwork import MIDDLE, ConditionedDevice, Conditioning
from nas.training.gradient.model import RelaxedModel
from nas.training.gradient.monitors import CellStatistics
from nas.training.gradient.options import DartsParams
from nas.training.gradient.progress import CostSums, GradientProgress, Snapshot
from nas.training.gradient.pruning import Pressure
from nas.training.gradient.rates import Rates, published_rates, rates
from nas.training.gradient.steps import LatencyCost, Steps
from nas.training.pipeline import Pipeline
from nas.training.state import TrainState
from nas.training.weights import Weights

EpochKind = Literal["search", "select", "tune"]


@dataclass(frozen=True)
class GradientStep:
    """A finished step: ``done`` of ``total`` in the whole search, with the loss on the images that weights train on."""

    kind: EpochKind
    epoch: int
    done: int
    total: int
    loss: float
    images: int


@dataclass(frozen=True)
class EpochReport:
    """The end of a search epoch, after ``done`` steps: ``values`` by name, scores of operations (E, O), and new
    warnings."""

    epoch: int
    done: int
    values: Mapping[str, float]
    p_EO: Floats
    warnings: tuple[str, ...]


class GradientSearch:
    """A supernet and architecture parameters that are trained in place."""

    def __init__(
        self,
        net: RelaxedSupernet,
        space: RelaxedSpace,
        data: Dataset,
        pipeline: Pipeline,
        options: DartsParams,
        seed: int,
        latency: LatencyCost | None = None,
        allowed_EO: NDArray[np.bool_] | None = None,
        devices: Sequence[ConditionedDevice] = (),
    ) -> None:
        """``allowed_EO``: the operations to choose from, None for all; every edge has at least one. ``devices``: of a
        hypernetwork."""
        self.space, self.options, self.seed = space, options, seed
        self.batches = Batches(data, pipeline, options, seed, resolution_of(space))
        self.rates = rates(options, options.epochs * self.batches.per_epoch, space.partials)
        self._probe_epochs = set(probe_epochs(options.epochs, options.probe_every, self.rates.alpha_warmup))
        self._targets: list[tuple[perturbation.Target, ...]] = []
        if options.selection == "perturbation":
            self._targets = selection_targets(space, rng(seed, Stream.SELECTION_ORDER))
        self.kinds: list[EpochKind] = ["search"] * options.epochs
        self.kinds += ["select"] * (len(self._targets) * options.select_epochs)
        self.kinds += ["tune"] * options.tune_epochs
        self.model = RelaxedModel(net, space, options, self.rates, seed, torch.device(pipeline.device), allowed_EO)
        costs_EO = operation_costs(self.model, latency, seed)
        self.trainer = Steps(self.model, self.batches, options, seed, latency, costs_EO)
        if options.hypernetwork:
            self.trainer.conditioning = Conditioning(space, devices, self.model.alphas, options, seed)
        self.progress = GradientProgress(
            options.weight_decay,
            self._temperature(0),
            Pressure(options.prune_weight),
            first_multiplier(space, latency, options, seed),
        )

    # Results

    @property
    def net(self) -> RelaxedSupernet:
        """The supernet."""
        return self.model.net

    @property
    def discretised(self) -> Genes:
        """The network that the architecture parameters favour now, shape (G,)."""
        return self.model.discretised()

    @property
    def conditioning(self) -> Conditioning | None:
        """The hypernetwork that gives the architecture parameters, if there is one."""
        return self.trainer.conditioning

    @property
    def signs(self) -> tuple[str, ...]:
        """Signs of collapse at the end of the last search epoch."""
        return self.progress.signs

    @property
    def series(self) -> list[Genes]:
        """Further networks of the same search: of a pruning, the latest last, or those of all preferences."""
        if self.conditioning is not None:
            return self.conditioning.fronts()
        return [np.array(genes, dtype=np.int64) for genes in self.progress.series]

    def scores(self) -> Floats:
        """Score of each operation, shape (E, O), 0 to 1; removed operations have 0."""
        return self.model.scores()

    def validation_accuracy(self) -> float:
        """Accuracy of the relaxation on validation images in %, with each batch's own statistics."""
        return monitors.held_out_score(self.model, self.batches.validation(), self.model.plain_weights()).accuracy

    # Positions and states

    @property
    def per_epoch(self) -> int:
        """Steps of an epoch."""
        return self.batches.per_epoch

    @property
    def steps(self) -> int:
        """Steps of the whole search, with those that were done again after a roll-back."""
        return self.done(len(self.kinds), 0)

    def done(self, epoch: int, step: int) -> int:
        """Steps that were done before a position."""
        return (self.progress.repeated_epochs + epoch) * self.per_epoch + step

    def state(self, epoch: int, step: int) -> TrainState:
        """The state to resume from at a position, in tensors and plain values."""
        progress = self.progress.as_record()
        tensors: Weights = {**self.model.tensors(), "progress": progress, "rates": self.rates.as_record()}
        if self.conditioning is not None:
            tensors = {**tensors, **self.conditioning.tensors()}
        return TrainState(epoch, step, tensors)

    def restore(self, state: Weights) -> None:
        """Restore a state made by ``state``, or by versions without ``progress`` or ``rates``."""
        self._use_rates(Rates.from_record(state["rates"]) if "rates" in state else published_rates(self.options))
        if "progress" in state:
            self.progress = GradientProgress.from_record(state["progress"])
        else:
            self.progress = GradientProgress.from_flat_state(state, self.progress)
        if self.progress.earlier_streams:
            self._use_earlier_streams()
        self.model.load_tensors(state, self.progress.weight_decay)
        if self.conditioning is not None:
            self.conditioning.load_tensors(state)

    def _use_rates(self, rates: Rates) -> None:
        """Go on as a search began, whatever this version would choose."""
        self.rates = self.model.rates = rates
        self._probe_epochs = set(probe_epochs(self.options.epochs, self.options.probe_every, rates.alpha_warmup))

    def _use_earlier_streams(self) -> None:
        """Draw the image halves and the selection order as versions without named streams: weights must not see their
        held-out images, and no target must be decided twice."""
        self.batches.split(earlier_rng(self.seed, 5))
        if self._targets:
            self._targets = selection_targets(self.space, earlier_rng(self.seed, 6))

    # Steps and epochs

    def step(self, epoch: int, step: int) -> GradientStep:
        """One step. Raises HwnasError when the loss is not finite."""
        kind = self.kinds[epoch]
        if not self.net.training:  # walking through all modules takes a tenth of a small step
            self.net.train()
        with _determinism(self.options.deterministic):
            if kind == "tune":
                result = self.trainer.tune(epoch, step, len(self.kinds) - self.options.tune_epochs)
            else:
                result = self.trainer.search(self.progress, epoch, step)
        if result.expected_ms is not None and result.discretised_ms is not None:
            costs = self.progress.costs.add(result.expected_ms, result.discretised_ms)
            self.progress = replace(self.progress, costs=costs)
        if not math.isfinite(result.loss):
            raise HwnasError(
                f"differentiable search diverged in epoch {epoch} at step {step}: loss is {result.loss}; expected a "
                f"finite value. A smaller learning rate than {self.rates.lr:g} may help"
            )
        return GradientStep(kind, epoch, self.done(epoch, step + 1), self.steps, result.loss, self.batches.size)

    def end_epoch(self, epoch: int) -> tuple[int, EpochReport | None]:
        """Work between epochs; return the next epoch, and a report at the end of a search epoch."""
        report = None
        next_epoch = epoch + 1
        with _determinism(self.options.deterministic):
            if self.kinds[epoch] == "search":
                if self.conditioning is not None:
                    self.conditioning.choose(MIDDLE, self.conditioning.devices[0])
                repeated = self.progress.repeated_epochs
                report = self._end_search_epoch(epoch)
                next_epoch -= self.progress.repeated_epochs - repeated
                if self.progress.ended_epoch is not None:
                    next_epoch = self.options.epochs
                if next_epoch < self.options.epochs:
                    self.progress = replace(self.progress, temperature=self._temperature(next_epoch))
                else:
                    self.progress = replace(self.progress, temperature=1.0, teachers=())
            if self.options.progressive and next_epoch == self.options.epochs // 2:
                self._begin_second_stage()
            if next_epoch < len(self.kinds) or self._targets:
                self._begin_epoch(next_epoch, epoch)
            if self.model.entangled and (next_epoch == len(self.kinds) or self.kinds[next_epoch] == "tune"):
                self.model.disentangle()
        return next_epoch, report

    def _begin_second_stage(self) -> None:
        """Go on with the better half of the operations and twice as many channels (DrNAS: Chen et al., ICLR 2021,
        section 3.3)."""
        before = self.rates.partial
        self.model.leave_better_half()
        self._use_rates(replace(self.rates, partial=before // 2))
        self.net.widen(before, before // 2)
        self.model.begin_optimisers(self.progress.weight_decay)

    def _begin_epoch(self, epoch: int, previous: int) -> None:
        """Decide what is due by perturbation; begin new optimisers for a new kind of epoch."""
        o = self.options
        kind: EpochKind | None = self.kinds[epoch] if epoch < len(self.kinds) else None
        due = 0
        if epoch >= o.epochs and self._targets:
            due = len(self._targets)
            if kind == "select":
                due = min(due, (epoch - o.epochs) // o.select_epochs + 1)
        while self.progress.decided < due:
            for target in self._targets[self.progress.decided]:
                monitors.select_by_perturbation(self.model, self.batches, target)
            self.progress = replace(self.progress, decided=self.progress.decided + 1)
            self.model.begin_optimisers(self.progress.weight_decay)
        if kind is not None and kind != self.kinds[previous]:
            self.model.begin_optimisers(self.progress.weight_decay)

    def _end_search_epoch(self, epoch: int) -> EpochReport:
        o, model, progress = self.options, self.model, self.progress
        removed, done = 0, self.done(epoch + 1, 0)
        if o.prune and epoch >= self.rates.alpha_warmup:  # what has not learned yet cannot die
            progress, removed = monitors.prune(model, progress)
        progress = self._probed(progress, epoch)
        cell, scores = monitors.cell_statistics(model), self.scores()
        observed = self._observed(progress, cell, epoch)
        progress, warnings = monitors.respond(observed, epoch, o)
        self._restore_responded(progress)
        is_last = progress.ended_epoch is not None or epoch + 1 == o.epochs
        if is_last and (sign := monitors.undecided_sign(model, o)) is not None:
            progress = replace(progress, signs=(*progress.signs, sign))
            warnings = (*warnings, f"epoch {epoch + 1}: {sign}")
        if (epoch + 1) % o.teacher_every == 0 and o.teachers and epoch + 1 >= o.teacher_warmup:
            progress = replace(progress, teachers=(*progress.teachers, model.teacher_state())[-o.teachers :])
        readings = {
            "entropy": cell.entropy,
            "skip_share": cell.skip_share,
            "temperature": progress.temperature,
            "alpha_norm": float(model.alphas.detach().norm()),
            **_latency(self.progress.costs, observed.multiplier),
        }
        if (eigenvalue := observed.eigenvalue_of(epoch)) is not None:
            readings["eigenvalue"] = eigenvalue
        if o.prune:
            pressure = progress.pressure.weight
            readings |= {"died": float(removed), "alive": float(model.mask.sum()), "pressure": pressure}
            if monitors.is_pruned(model, o.prune_until):
                progress = replace(progress, ended_epoch=epoch)
        self.progress = progress
        return EpochReport(epoch, done, readings, scores, warnings)

    def _probed(self, progress: GradientProgress, epoch: int) -> GradientProgress:
        """With the eigenvalue of an epoch at whose end it is due, and what a roll-back to it takes."""
        if epoch not in self._probe_epochs:
            return progress
        eigenvalue = monitors.held_out_eigenvalue(self.model, self.batches)
        progress = replace(progress, eigenvalues=(*progress.eigenvalues, (epoch, eigenvalue)))
        if not self.options.roll_backs:
            return progress
        snapshot = Snapshot(epoch, copy.deepcopy(self.model.tensors()))
        return replace(progress, snapshots=(*progress.snapshots, snapshot)[-FURTHEST_BACK - 1 :])

    def _observed(self, progress: GradientProgress, cell: CellStatistics, epoch: int) -> GradientProgress:
        """With signs of collapse, the architecture parameters of the epoch, and the multiplier of its latency."""
        costs, multiplier, model = progress.costs, progress.multiplier, self.model
        if multiplier is not None and costs.steps:
            multiplier = multiplier.after(costs.discretised_ms / costs.steps)
        # Untrained architecture parameters are random: neither healthy nor collapsed, and no epoch to restore.
        untrained = epoch < self.rates.alpha_warmup
        operations = len(self.space.relaxation.operations)
        signs = () if untrained else tuple(monitors.collapse_signs(cell, progress, epoch, self.options, operations))
        return replace(
            progress,
            costs=CostSums(),
            multiplier=multiplier,
            signs=signs,
            alphas_by_epoch=(*progress.alphas_by_epoch, model.alphas.detach().clone()),
            betas_by_epoch=(*progress.betas_by_epoch, model.betas.detach().clone()),
            healthy_epoch=progress.healthy_epoch if signs or untrained else epoch,
        )

    def _restore_responded(self, progress: GradientProgress) -> None:
        """Load what the response to signs of collapse goes back to: the architecture parameters of an earlier epoch, or
        a whole snapshot."""
        model = self.model
        if progress.ended_epoch is not None and progress.ended_epoch >= 0:
            model.load_alphas(progress.alphas_by_epoch[progress.ended_epoch])
            if len(progress.betas_by_epoch) == len(progress.alphas_by_epoch):  # earlier versions kept none
                model.load_betas(progress.betas_by_epoch[progress.ended_epoch])
        if progress.roll_backs > self.progress.roll_backs:
            # Optimisers take over the tensors that they load, and other roll-backs may need them.
            model.load_tensors(copy.deepcopy(progress.snapshots[-1].tensors), progress.weight_decay)

    def _temperature(self, epoch: int) -> float:
        o = self.options
        start, end = o.temperature_start, self.rates.temperature_end
        match o.temperature:
            case "constant":
                return start
            case "linear":
                return operation_weights.linear(start, end, epoch, o.epochs)
            case "exponential":
                return operation_weights.exponential(start, end, epoch, o.epochs)
            case "entropy":
                if epoch == 0:
                    return start
                largest = math.log(self.space.relaxation.shape[1])
                target = operation_weights.exponential(largest, largest * min(end, 1.0), epoch, o.epochs)
                return operation_weights.temperature_for_entropy(self.model.alphas, self.model.mask, target)


def run_gradient_search(
    search: GradientSearch, start: TrainState, save_due: Callable[[], bool]
) -> Iterator[GradientStep | EpochReport | TrainState]:
    """Run from ``start`` to the end; yield a ``GradientStep`` after each step, an ``EpochReport`` after each search
    epoch, and a ``TrainState`` whenever ``save_due()`` and at the end."""
    if start.weights is not None:
        search.restore(start.weights)
    epoch, first = start.phase, start.step
    while epoch < len(search.kinds):
        for step in range(first, search.per_epoch):
            yield search.step(epoch, step)
            if step + 1 < search.per_epoch and save_due():
                yield search.state(epoch, step + 1)
        epoch, report = search.end_epoch(epoch)
        first = 0
        if report is not None:
            yield report
        if epoch < len(search.kinds) and save_due():
            yield search.state(epoch, 0)
    yield search.state(epoch, 0)


def _latency(costs: CostSums, multiplier: resource.Multiplier | None) -> dict[str, float]:
    """The mean latency of an epoch's steps and what it counts, as readings; none where latency counts nothing."""
    if multiplier is None or not costs.steps:
        return {}
    return {"latency_ms": costs.expected_ms / costs.steps, "multiplier": multiplier.value}


@contextmanager
def _determinism(deterministic: bool) -> Iterator[None]:
    """Use only operations with bitwise reproducible results; slower on a GPU, without effect on the CPU."""
    before = torch.are_deterministic_algorithms_enabled()
    try:
        torch.use_deterministic_algorithms(deterministic or before)
        yield
    finally:
        torch.use_deterministic_algorithms(before)

"""Training a once-for-all supernet.

Progressive shrinking: Cai et al., Once-for-all, ICLR 2020, section 3.3 and appendix B; one step trains some subnets on
one batch, gradients are *summed*, then one optimiser step. Sandwich rule: Yu and Huang, US-Nets, ICCV 2019; BigNAS
(Yu et al., ECCV 2020): the largest, the smallest and two random subnets per step, the largest teaches in place.
"""

from __future__ import annotations

import copy
import io
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from nas.core.arch import Arch
from nas.core.errors import HwnasError
from nas.core.ports import Dataset, SearchSpace
from nas.core.rng import Stream, rng
from nas.supernet import Supernet
from nas.training import samplers
from nas.training.pipeline import Pipeline

Teacher = Literal["none", "frozen", "in_place"]
Sampler = Callable[[SearchSpace, Mapping[str, int], np.random.Generator, int], list[Arch]]  # as ``sample_elastic``
Ends = tuple[Arch, Arch]  # the smallest and the largest network


@dataclass(frozen=True)
class Phase:
    """A phase of training. ``elastic``: per axis, how many of the largest choices may be drawn."""

    name: str
    epochs: int
    lr: float
    subnets: int
    elastic: Mapping[str, int]
    teacher: Teacher = "frozen"
    warmup_epochs: float = 0.0


@dataclass(frozen=True)
class Recipe:
    """How weights are trained. ``lr`` of phases is for ``batch_size`` images."""

    phases: tuple[Phase, ...]
    batch_size: int
    momentum: float = 0.9
    weight_decay: float = 3e-5
    label_smoothing: float = 0.1
    distillation: float = 1.0
    clip_norm: float = 5.0


@dataclass(frozen=True)
class TrainState:
    """A position in training: ``step`` of ``phase``. ``weights`` is None at the very beginning."""

    phase: int = 0
    step: int = 0
    weights: Mapping[str, Any] | None = field(default=None, repr=False)

    def to_bytes(self) -> bytes:
        """Tensors and plain values only; ``from_bytes`` never unpickles objects. Equal states give equal bytes."""
        buffer = io.BytesIO()
        torch.save(_interned({"phase": self.phase, "step": self.step, "weights": self.weights}), buffer)
        return buffer.getvalue()

    @staticmethod
    def from_bytes(data: bytes, device: str) -> TrainState:
        """Inverse of ``to_bytes``."""
        record = torch.load(io.BytesIO(data), map_location=device, weights_only=True)
        return TrainState(record["phase"], record["step"], record["weights"])


def _interned(value: Any) -> Any:
    """The same with one object for equal strings: pickle writes what it has written before as a reference, so that
    strings from a checkpoint beside those of the program would give other bytes."""
    if type(value) is dict:
        return {_interned(k): _interned(v) for k, v in value.items()}
    if type(value) is list:
        return [_interned(v) for v in value]
    return sys.intern(value) if type(value) is str else value


@dataclass(frozen=True)
class Step:
    """One optimiser step was done: number in its phase and overall, the loss, images trained on (times subnets)."""

    phase: int
    step: int
    steps: int
    done: int
    total: int
    loss: float
    images: int


def progressive_shrinking(epochs: int, lr: float, axes: set[str]) -> tuple[Phase, ...]:
    """The phases of Once-for-all, their published lengths and learning rates in proportion.

    First the largest network alone (over all input resolutions), then kernel, depth in two phases, and last width with
    everything else in two phases. A phase whose axes the space lacks is left out and its epochs go to the last one.
    """
    widths = axes - {"resolution", "kernel", "depth"}
    everything = dict.fromkeys(axes, 10**6)
    resolution = {"resolution": 10**6}
    kernel = {**resolution, "kernel": 10**6}
    depth_1, depth_2 = {**kernel, "depth": 2}, {**kernel, "depth": 10**6}
    width_1 = {**depth_2, **dict.fromkeys(widths, 2)}
    plan: list[tuple[str, float, float, int, dict[str, int], bool]] = [
        ("largest", 0.40, 1.0, 1, resolution, True),
        ("kernel", 0.12, 0.4, 1, kernel, "kernel" in axes),
        ("depth 1", 0.06, 0.2, 2, depth_1, "depth" in axes),
        ("depth 2", 0.12, 0.3, 2, depth_2, "depth" in axes),
        ("width 1", 0.06, 0.2, 4, width_1, bool(widths)),
        ("width 2", 0.24, 0.3, 4, everything, True),
    ]
    kept = [p for p in plan if p[5]]
    lengths = [max(1, round(p[1] * epochs)) for p in kept]
    lengths[-1] = max(1, lengths[-1] + epochs - sum(lengths))
    return tuple(
        Phase(
            name, n, lr * rate, subnets, elastic, "none" if i == 0 else "frozen", min(2.0, 0.1 * n) if i == 0 else 0.0
        )
        for i, ((name, _, rate, subnets, elastic, _), n) in enumerate(zip(kept, lengths, strict=True))
    )


def sandwich(epochs: int, lr: float, axes: set[str]) -> tuple[Phase, ...]:
    """A single phase by the sandwich rule with in-place distillation."""
    return (Phase("sandwich", epochs, lr, 4, dict.fromkeys(axes, 10**6), "in_place", min(2.0, 0.1 * epochs)),)


def uniform(epochs: int, lr: float, axes: set[str], subnets: int) -> tuple[Phase, ...]:
    """A single phase in which ``subnets`` networks of the whole space are drawn per step and learn from the labels."""
    return (Phase("uniform", epochs, lr, subnets, dict.fromkeys(axes, 10**6), "none", min(2.0, 0.1 * epochs)),)


class Training:
    """A supernet that is being trained in place, with its optimiser and its teacher.

    Everything random derives from (seed, phase, step).
    """

    def __init__(
        self,
        net: Supernet,
        space: SearchSpace,
        data: Dataset,
        pipeline: Pipeline,
        recipe: Recipe,
        seed: int,
        sample: Sampler = samplers.sample_elastic,
        ends: Ends | None = None,
    ) -> None:
        self.space, self.recipe, self._sample = space, recipe, sample
        self._net, self._data, self._pipeline, self._seed = net, data, pipeline, seed
        self._per_epoch = max(1, len(data.train) // recipe.batch_size)
        self.lengths = [p.epochs * self._per_epoch for p in recipe.phases]  # optimiser steps of each phase
        self._ends = ends or (samplers.smallest(space), samplers.largest(space))
        self._teacher: Supernet | None = None
        self._optimiser = optimiser(net, recipe)

    def restore(self, weights: Mapping[str, Any]) -> None:
        """Goes back to what a ``TrainState`` holds."""
        self._net.load_state_dict(weights["net"])
        self._optimiser.load_state_dict(weights["optimiser"])
        if "teacher" in weights:
            self._teacher = _freeze(self._net)
            self._teacher.load_state_dict(weights["teacher"])

    def state(self, phase: int, step: int) -> TrainState:
        """What it takes to go on from a position."""
        weights = {"net": self._net.state_dict(), "optimiser": self._optimiser.state_dict()}
        if self._teacher is not None:
            weights["teacher"] = self._teacher.state_dict()
        return TrainState(phase, step, weights)

    def begin(self, phase: int) -> None:
        """Each phase has an optimiser of its own. The first that narrows the network finds its channels sorted, and a
        teacher frozen."""
        self._optimiser = optimiser(self._net, self.recipe)
        if self.recipe.phases[phase].teacher == "frozen" and self._teacher is None:
            self._net.sort_channels()  # once, before the first phase that narrows; the teacher keeps its function
            self._teacher = _freeze(self._net)

    def archs(self, phase: int, step: int) -> list[Arch]:
        """The networks that a step trains."""
        return self._drawn(phase, step)[0]

    def step(self, p: int, step: int) -> Step:
        """One optimiser step. Raises HwnasError when the loss is no longer finite."""
        phase, steps = self.recipe.phases[p], self.lengths[p]
        archs, dropout_seed, augment_seed = self._drawn(p, step)
        torch.manual_seed(dropout_seed)  # dropout only; augmentation has its own generator
        index_B = batch_rows(len(self._data.train), self.recipe.batch_size, self._seed, p, step, self._per_epoch)
        resolution = self.space.input_shape(archs[0])[1]
        x, y = self._pipeline.augmented(self._data.train, index_B, resolution, augment_seed)
        for group in self._optimiser.param_groups:
            group["lr"] = rate(phase, step, steps, self._per_epoch)
        self._optimiser.zero_grad(set_to_none=True)
        self._net.train()
        loss = _backward(self._net, self.space, phase, self.recipe, archs, self._ends, self._teacher, x, y)
        if not math.isfinite(loss):
            raise HwnasError(
                f"training diverged in phase {phase.name!r} at step {step}: loss is {loss}; "
                f"expected a finite value. A smaller learning rate than {phase.lr:g} may help"
            )
        nn.utils.clip_grad_norm_(self._net.parameters(), self.recipe.clip_norm)
        self._optimiser.step()
        done = sum(self.lengths[:p]) + step + 1
        return Step(p, step + 1, steps, done, sum(self.lengths), loss, len(y) * len(archs))

    def _drawn(self, p: int, step: int) -> tuple[list[Arch], int, int]:
        generator = rng(self._seed, Stream.TRAINING_STEP, p, step)
        phase = self.recipe.phases[p]
        dropout_seed = int(generator.integers(2**62))
        archs = self._sample(self.space, phase.elastic, generator, phase.subnets)
        return archs, dropout_seed, int(generator.integers(2**62))


def train(
    net: Supernet,
    space: SearchSpace,
    data: Dataset,
    pipeline: Pipeline,
    recipe: Recipe,
    seed: int,
    start: TrainState,
    save_due: Callable[[], bool],
    sample: Sampler = samplers.sample_elastic,
    ends: Ends | None = None,
) -> Iterator[Step | TrainState]:
    """Trains ``net`` from ``start`` to the end, yielding a ``Step`` per optimiser step and a ``TrainState`` whenever
    ``save_due()`` and at each phase's end. Resuming from a state repeats nothing and ends in the same weights.

    ``ends``: the smallest and the largest of the networks that ``sample`` draws from, where these are not the space's.
    Raises HwnasError when the loss is no longer finite.
    """
    training = Training(net, space, data, pipeline, recipe, seed, sample, ends)
    if start.weights is not None:
        training.restore(start.weights)
    for p in range(start.phase, len(training.lengths)):
        first = start.step if p == start.phase else 0
        if first == 0:
            training.begin(p)
        for step in range(first, training.lengths[p]):
            yield training.step(p, step)
            if step + 1 < training.lengths[p] and save_due():
                yield training.state(p, step + 1)
        yield training.state(p + 1, 0)


def _backward(
    net: Supernet,
    space: SearchSpace,
    phase: Phase,
    recipe: Recipe,
    archs: list[Arch],
    ends: Ends,
    teacher: Supernet | None,
    x: torch.Tensor,
    y: torch.Tensor,
) -> float:
    """Accumulates the summed gradients of one step; returns the mean loss over its subnets."""
    bottom, top = (samplers.with_resolution(space, end, archs[0]) for end in ends)
    target: torch.Tensor | None = None
    total = 0.0
    if phase.teacher == "in_place":
        archs = [top, *archs[: phase.subnets - 2], bottom]
    elif teacher is not None and phase.teacher == "frozen":
        with torch.no_grad():
            teacher.train()  # its batch norms use the batch's own statistics, as the students' do
            target = teacher(x, top).softmax(1)
    for i, arch in enumerate(archs):
        logits = net(x, arch)
        if phase.teacher == "in_place" and target is not None:
            loss = F.cross_entropy(logits, target)  # the largest network of this very step teaches, labels do not
        else:
            loss = F.cross_entropy(logits, y, label_smoothing=recipe.label_smoothing)
            if target is not None:
                loss = loss + recipe.distillation * F.cross_entropy(logits, target)
        if phase.teacher == "in_place" and i == 0:
            target = logits.detach().softmax(1)
        loss.backward()  # type: ignore[no-untyped-call]
        total += float(loss.detach())
    return total / len(archs)


def optimiser(net: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum; vectors, such as scales and biases, do not decay."""
    decay = [p for p in net.parameters() if p.ndim > 1]
    plain = [p for p in net.parameters() if p.ndim <= 1]
    groups = [{"params": decay, "weight_decay": recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.SGD(groups, lr=0.0, momentum=recipe.momentum, nesterov=True)


def _freeze(net: Supernet) -> Supernet:
    return copy.deepcopy(net).requires_grad_(False)


def batch_rows(
    size: int, batch: int, seed: int, phase: int, step: int, per_epoch: int
) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The training images of a step; every epoch has an order of its own."""
    epoch, position = divmod(step, per_epoch)
    order = rng(seed, Stream.BATCH_ORDER, phase, epoch).permutation(size)
    return order[position * batch : (position + 1) * batch]


def rate(phase: Phase, step: int, steps: int, per_epoch: int) -> float:
    """The learning rate of a step: up in a line, then down a cosine."""
    warmup = phase.warmup_epochs * per_epoch
    if step < warmup:
        return phase.lr * (step + 1) / (warmup + 1)
    return 0.5 * phase.lr * (1 + math.cos(math.pi * step / steps))

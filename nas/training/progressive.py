"""Training a once-for-all supernet.

Progressive shrinking: Cai et al., Once-for-all, ICLR 2020, section 3.3 and appendix B; one step trains some subnets on
one batch, gradients are *summed*, then one optimiser step. Sandwich rule: Yu and Huang, US-Nets, ICCV 2019; BigNAS
(Yu et al., ECCV 2020): the largest, the smallest and two random subnets per step, the largest teaches in place.
"""

from __future__ import annotations

import copy
import io
import math
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
from nas.supernet import Supernet
from nas.training import samplers
from nas.training.pipeline import Pipeline

Teacher = Literal["none", "frozen", "in_place"]


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
        """Tensors and plain numbers only; ``from_bytes`` never unpickles objects."""
        buffer = io.BytesIO()
        torch.save({"phase": self.phase, "step": self.step, "weights": self.weights}, buffer)
        return buffer.getvalue()

    @staticmethod
    def from_bytes(data: bytes, device: str) -> TrainState:
        """Inverse of ``to_bytes``."""
        record = torch.load(io.BytesIO(data), map_location=device, weights_only=True)
        return TrainState(record["phase"], record["step"], record["weights"])


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


def train(
    net: Supernet,
    space: SearchSpace,
    data: Dataset,
    pipeline: Pipeline,
    recipe: Recipe,
    seed: int,
    start: TrainState,
    save_due: Callable[[], bool],
) -> Iterator[Step | TrainState]:
    """Trains ``net`` in place, yielding a ``Step`` per optimiser step and a ``TrainState`` whenever ``save_due()`` and
    at each phase's end. Everything random derives from (seed, phase, step), so resuming from a state repeats nothing
    and ends in the same weights. Raises HwnasError when the loss is no longer finite.
    """
    per_epoch = max(1, len(data.train) // recipe.batch_size)
    lengths = [p.epochs * per_epoch for p in recipe.phases]
    teacher: Supernet | None = None
    optimiser = _optimiser(net, recipe)
    if start.weights is not None:
        net.load_state_dict(start.weights["net"])
        optimiser.load_state_dict(start.weights["optimiser"])
        if "teacher" in start.weights:
            teacher = _freeze(net)
            teacher.load_state_dict(start.weights["teacher"])

    def state(phase: int, step: int) -> TrainState:
        weights = {"net": net.state_dict(), "optimiser": optimiser.state_dict()}
        if teacher is not None:
            weights["teacher"] = teacher.state_dict()
        return TrainState(phase, step, weights)

    top = samplers.largest(space)
    for p in range(start.phase, len(recipe.phases)):
        phase, steps = recipe.phases[p], lengths[p]
        first = start.step if p == start.phase else 0
        if first == 0:
            optimiser = _optimiser(net, recipe)
            if phase.teacher == "frozen" and teacher is None:
                net.sort_channels()  # once, before the first phase that narrows; the teacher keeps its function
                teacher = _freeze(net)
        for step in range(first, steps):
            rng = np.random.default_rng((seed, 1, p, step))
            torch.manual_seed(int(rng.integers(2**62)))  # dropout only; augmentation has its own generator
            archs = samplers.sample_elastic(space, phase.elastic, rng, phase.subnets)
            index_B = _batch(len(data.train), recipe.batch_size, seed, p, step, per_epoch)
            resolution = space.input_shape(archs[0])[1]
            x, y = pipeline.augmented(data.train, index_B, resolution, int(rng.integers(2**62)))
            for group in optimiser.param_groups:
                group["lr"] = _rate(phase, step, steps, per_epoch)
            optimiser.zero_grad(set_to_none=True)
            net.train()
            loss = _backward(net, space, phase, recipe, archs, top, teacher, x, y)
            if not math.isfinite(loss):
                raise HwnasError(
                    f"training diverged in phase {phase.name!r} at step {step}: loss is {loss}; "
                    f"expected a finite value. A smaller learning rate than {phase.lr:g} may help"
                )
            nn.utils.clip_grad_norm_(net.parameters(), recipe.clip_norm)
            optimiser.step()
            done = sum(lengths[:p]) + step + 1
            yield Step(p, step + 1, steps, done, sum(lengths), loss, len(y) * len(archs))
            if step + 1 < steps and save_due():
                yield state(p, step + 1)
        yield state(p + 1, 0)


def _backward(
    net: Supernet,
    space: SearchSpace,
    phase: Phase,
    recipe: Recipe,
    archs: list[Arch],
    top: Arch,
    teacher: Supernet | None,
    x: torch.Tensor,
    y: torch.Tensor,
) -> float:
    """Accumulates the summed gradients of one step; returns the mean loss over its subnets."""
    top = samplers.with_resolution(space, top, archs[0])
    target: torch.Tensor | None = None
    total = 0.0
    if phase.teacher == "in_place":
        archs = [top, *archs[: phase.subnets - 2], samplers.with_resolution(space, samplers.smallest(space), archs[0])]
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


def _optimiser(net: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    decay = [p for p in net.parameters() if p.ndim > 1]
    plain = [p for p in net.parameters() if p.ndim <= 1]
    groups = [{"params": decay, "weight_decay": recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.SGD(groups, lr=0.0, momentum=recipe.momentum, nesterov=True)


def _freeze(net: Supernet) -> Supernet:
    return copy.deepcopy(net).requires_grad_(False)


def _batch(
    size: int, batch: int, seed: int, phase: int, step: int, per_epoch: int
) -> np.ndarray[Any, np.dtype[np.int64]]:
    epoch, position = divmod(step, per_epoch)
    order = np.random.default_rng((seed, 2, phase, epoch)).permutation(size)
    return order[position * batch : (position + 1) * batch]


def _rate(phase: Phase, step: int, steps: int, per_epoch: int) -> float:
    warmup = phase.warmup_epochs * per_epoch
    if step < warmup:
        return phase.lr * (step + 1) / (warmup + 1)
    return 0.5 * phase.lr * (1 + math.cos(math.pi * step / steps))

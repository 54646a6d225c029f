"""How weights are trained: what a network that is trained alone and a supernet have in common.

Learning rates, lengths and teachers differ: ``nas.training.standalone.StandaloneRecipe`` and
``nas.training.progressive.SupernetRecipe``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from nas.core.retraining import RecipeFields
from nas.supernet import AdaptiveRates
from nas.training.augment import Augmentation
from nas.training.trainer import TrainingExecution, fused_sgd

ADAMW_RATIO = 100.0  # by which AdamW's learning rates are smaller than SGD's


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """SGD with Nesterov momentum, or AdamW for networks that need it (``optimiser``), on ``batch_size`` images a step;
    gradients are clipped to the norm ``clip_norm``.

    ``ema_decay``: evaluate an exponential moving average of the weights with this decay, 0: the weights of the last
    step. ``mixup``: the parameter of the Beta distribution from which shares of mixed images are drawn, 0: none.
    ``execution``: how steps are computed; ``chooses_precision``: its precision is the faster one instead.
    """

    batch_size: int
    weight_decay: float = 3e-5
    momentum: float = 0.9
    label_smoothing: float = 0.1
    clip_norm: float = 5.0
    ema_decay: float = 0.0
    mixup: float = 0.0
    augmentation: Augmentation = field(default_factory=Augmentation)
    execution: TrainingExecution = field(default_factory=TrainingExecution)
    chooses_precision: bool = False


R = TypeVar("R", bound=Recipe)


def with_fields(recipe: R, fields: RecipeFields) -> R:
    """A recipe with those elements that a spec gives for supernets and for networks that are trained alone."""
    return replace(
        recipe,
        label_smoothing=fields.label_smoothing,
        ema_decay=fields.ema_decay,
        mixup=fields.mixup,
        augmentation=replace(recipe.augmentation, min_crop_area=fields.min_crop_area, cutout=fields.cutout),
        execution=TrainingExecution.of(fields),
        chooses_precision=fields.precision == "auto",
    )


class ComparableAdamW(torch.optim.AdamW):
    """AdamW (Loshchilov and Hutter, ICLR 2019) whose groups have the learning rate and the decay that SGD would have:
    its own rate is a hundredth of that, and its decay a hundred times as much, so that weights decay alike."""

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step; the groups keep their rates."""
        rates = [(group["lr"], group["weight_decay"]) for group in self.param_groups]
        for group, (rate, decay) in zip(self.param_groups, rates, strict=True):
            group["lr"], group["weight_decay"] = rate / ADAMW_RATIO, decay * ADAMW_RATIO
        loss: float | None = super().step(closure)
        for group, (rate, decay) in zip(self.param_groups, rates, strict=True):
            group["lr"], group["weight_decay"] = rate, decay
        return loss


def optimiser(parameters: Iterable[nn.Parameter], recipe: Recipe, of: nn.Module) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum, or AdamW where the network ``of`` the parameters needs it; vectors, such as scales
    and biases, do not decay. The learning rate, that of SGD, is set later."""
    matrices_and_vectors: tuple[list[nn.Parameter], list[nn.Parameter]] = ([], [])
    for parameter in parameters:
        matrices_and_vectors[parameter.ndim <= 1].append(parameter)
    decays = (recipe.weight_decay, 0.0)
    groups = [{"params": p, "weight_decay": d} for p, d in zip(matrices_and_vectors, decays, strict=True)]
    if isinstance(of, AdaptiveRates):
        return ComparableAdamW(groups, lr=0.0, fused=True)
    return fused_sgd(groups, lr=0.0, momentum=recipe.momentum, nesterov=True)


def cosine_rate(lr: float, step: float, steps: float, warmup_steps: float) -> float:
    """The learning rate of a step, from 0: up in a line to ``lr``, then down a cosine."""
    if step < warmup_steps:
        return lr * (step + 1) / (warmup_steps + 1)
    return 0.5 * lr * (1 + math.cos(math.pi * step / steps))


def weight_average(module: nn.Module, decay: float) -> AveragedModel | None:
    """A copy of ``module`` for the exponential moving average of its weights; None where ``decay`` is 0.

    ``update_parameters(module)`` after each step: the first copies the weights; after n of them, the next has the decay
    min(``decay``, (1 + n) / (10 + n)), as TensorFlow's ``ExponentialMovingAverage``, so that short trainings are not
    averages of untrained weights. Buffers are those of ``module``.
    """
    if decay == 0:
        return None

    def average(averages: Sequence[torch.Tensor], weights: Sequence[torch.Tensor], updates: torch.Tensor | int) -> None:
        n = int(updates)
        for average, weight in zip(averages, weights, strict=True):
            average.lerp_(weight, 1.0 - min(decay, (1 + n) / (10 + n)))

    return AveragedModel(module, multi_avg_fn=average)

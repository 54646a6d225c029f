"""The steps of differentiable search: of weights and architecture parameters, at two levels or one, and of tuning."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from nas.core.arch import Arch
from nas.core.rng import Stream, rng
from nas.supernet import RelaxedSupernet
from nas.training.gradient import operation_weights, resource
from nas.training.gradient.batches import Batches, LabelledImages
from nas.training.gradient.hypernetwork import Conditioning
from nas.training.gradient.model import OperationWeights, RelaxedModel
from nas.training.gradient.options import DartsParams
from nas.training.gradient.outer import first_order, second_order
from nas.training.gradient.progress import GradientProgress, TeacherState
from nas.training.gradient.pruning import penalty
from nas.training.gradient.resource import relative_cost
from nas.training.gradient.teachers import distillation, vote

Tensor = torch.Tensor


@dataclass(frozen=True)
class LatencyCost:
    """A cost in the loss of the architecture parameters: of N networks, in ms, shape (N,); and the bound on it."""

    cost: resource.Cost
    bound_ms: float | None


@dataclass(frozen=True)
class StepResult:
    """The loss on the images that weights train on; with a latency loss, the relaxation's expected cost and the cost of
    the discretised network."""

    loss: float
    expected_ms: float | None = None
    discretised_ms: float | None = None


@dataclass(frozen=True)
class DroppedPaths:
    """Edges of cells that are left out of a step, of each image with ``probability``; drawn from ``seed``."""

    probability: float
    seed: int

    @staticmethod
    def of(options: DartsParams, epoch: int, generator: np.random.Generator) -> DroppedPaths:
        """Those of an epoch: the probability rises linearly to the end of the search (R-DARTS: Zela et al., ICLR 2020,
        section 5.1)."""
        if options.drop_path == 0:
            return DroppedPaths(0.0, 0)
        share = epoch / max(1, options.epochs - 1)
        return DroppedPaths(options.drop_path * share, int(generator.integers(2**62)))

    def drop(self, mixed: OperationWeights, images: int, number: int) -> OperationWeights:
        """Scale the edges by 0, or by 1 / (1 - probability); each ``number`` is a draw of its own."""
        if self.probability == 0:
            return mixed
        generator = torch.Generator().manual_seed(self.seed + number)
        keeps_EB = torch.rand(len(mixed.weights_EO), images, generator=generator) >= self.probability
        return mixed.with_paths((keeps_EB / (1.0 - self.probability)).to(mixed.weights_EO))


class Steps:
    """Optimiser steps of a ``RelaxedModel``. ``operation_costs_EO``: relative costs of operations in the penalty of
    pruning or in the expected cost, None where neither counts."""

    def __init__(
        self,
        model: RelaxedModel,
        batches: Batches,
        options: DartsParams,
        seed: int,
        latency: LatencyCost | None,
        operation_costs_EO: Tensor | None,
    ) -> None:
        self.model, self.batches, self.options, self._seed = model, batches, options, seed
        self._latency, self._operation_costs_EO = latency, operation_costs_EO
        self.conditioning: Conditioning | None = None
        self._paths = DroppedPaths(0.0, 0)
        self._teacher_states: tuple[TeacherState, ...] = ()
        self.teachers: list[tuple[RelaxedSupernet, Tensor]] = []

    def search(self, progress: GradientProgress, epoch: int, step: int) -> StepResult:
        """One step of architecture parameters and weights."""
        o = self.options
        generator = rng(self._seed, Stream.GRADIENT_STEP, epoch, step)
        if self.conditioning is not None:
            self.conditioning.draw(generator)
        alpha_noise, weight_noise = (self.model.noise(int(generator.integers(2**62))) for _ in range(2))
        self._paths = DroppedPaths.of(o, epoch, generator)
        images = self.batches.batch("weights", epoch, step, generator)
        for group in self.model.weight_optimiser.param_groups:
            group["lr"] = self._rate(epoch)
            group["weight_decay"] = progress.weight_decay
        trains_alphas = epoch >= self.model.rates.alpha_warmup and self.model.rates.alpha_lr > 0
        if o.order == "one_level":
            return self.one_level(progress, images, alpha_noise, trains_alphas, generator, epoch)
        held_out = self.batches.batch("alphas", epoch, step, generator)
        result = StepResult(math.nan)
        if trains_alphas and not o.weights_first:
            result = self.train_alphas(progress, images, held_out, alpha_noise, generator, epoch)
        loss = self.train_weights(progress, images, weight_noise)
        if trains_alphas and o.weights_first:
            result = self.train_alphas(progress, images, held_out, alpha_noise, generator, epoch)
        return StepResult(loss, result.expected_ms, result.discretised_ms)

    def train_weights(self, progress: GradientProgress, images: LabelledImages, noise: Tensor) -> float:
        """One step of the weights; return the loss."""
        model, o = self.model, self.options
        x, y = images
        model.weight_optimiser.zero_grad(set_to_none=True)
        with torch.no_grad():
            mixed = model.weights(progress.temperature, noise)
            if o.relaxation == "gumbel_hard":  # undrawn operations weigh nothing and learn nothing
                mixed = mixed.with_active(mixed.weights_EO > 0)
        logits = self._paths.drop(mixed, len(x), 0).logits(model.net, x)
        loss = F.cross_entropy(logits, y)
        if (distilled := self._distillation(progress, x, logits, noise)) is not None:
            loss = loss + distilled
        loss.backward()  # type: ignore[no-untyped-call]
        model.update_weights()
        return float(loss.detach())

    def train_alphas(
        self,
        progress: GradientProgress,
        images: LabelledImages,
        held_out: LabelledImages,
        noise: Tensor,
        generator: np.random.Generator,
        epoch: int,
    ) -> StepResult:
        """One step of the architecture parameters on held-out images, by the first or second order gradient."""
        model, o = self.model, self.options
        parameters = model.architecture_parameters

        def loss_on(batch: LabelledImages) -> Callable[[], Tensor]:
            x, y = batch

            def loss() -> Tensor:
                mixed = self._paths.drop(model.weights(progress.temperature, noise, paths=2), len(x), 1)
                return F.cross_entropy(mixed.logits(model.net, x), y)

            return loss

        if o.order == "second":
            weights = [p for p in model.net.parameters() if p.requires_grad]
            gradients = second_order(
                loss_on(images),
                loss_on(held_out),
                weights,
                parameters,
                lr=model.weight_optimiser.param_groups[0]["lr"],
                momentum=o.momentum,
                weight_decay=progress.weight_decay,
                moments=[model.weight_optimiser.state.get(w, {}).get("momentum_buffer") for w in weights],
                exact=o.exact_hessian,
            )
        else:
            gradients = first_order(loss_on(held_out), parameters)
        if self.conditioning is not None:
            return self._train_hypernetwork(self.conditioning, parameters, gradients, generator)
        latency_loss, result = self._latency_loss(progress, generator)
        terms = [*self._regularisers(epoch), *(() if latency_loss is None else (latency_loss,))]
        before = model.alphas.detach().clone()
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        for term in terms:
            assert model.alphas.grad is not None
            model.alphas.grad = model.alphas.grad + torch.autograd.grad(term, model.alphas)[0]
        model.alpha_optimiser.step()
        model.alpha_optimiser.zero_grad(set_to_none=True)
        if o.relaxation == "binary":
            pair = operation_weights.drawn_paths(before, model.mask, noise[0], 2)
            with torch.no_grad():
                model.alphas.copy_(operation_weights.rescaled(before, model.alphas, pair))
        return result

    def _train_hypernetwork(
        self,
        conditioning: Conditioning,
        parameters: Sequence[Tensor],
        gradients: Sequence[Tensor],
        generator: np.random.Generator,
    ) -> StepResult:
        """A step of the hypernetwork, which gives the alphas, and of all architecture parameters but these."""
        for parameter, gradient in zip(parameters[1:], gradients[1:], strict=True):
            parameter.grad = gradient
        self.model.alpha_optimiser.step()
        self.model.alpha_optimiser.zero_grad(set_to_none=True)
        conditioning.learn(gradients[0], generator)
        return StepResult(math.nan)

    def one_level(
        self,
        progress: GradientProgress,
        images: LabelledImages,
        noise: Tensor,
        trains_alphas: bool,
        generator: np.random.Generator,
        epoch: int,
    ) -> StepResult:
        """One step of weights and architecture parameters by the same loss on the same images."""
        model, o = self.model, self.options
        x, y = images
        model.weight_optimiser.zero_grad(set_to_none=True)
        model.alpha_optimiser.zero_grad(set_to_none=True)
        logits = self._paths.drop(model.weights(progress.temperature, noise), len(x), 0).logits(model.net, x)
        task = F.cross_entropy(logits, y)
        loss = task
        if (distilled := self._distillation(progress, x, logits, noise)) is not None:
            loss = loss + distilled
        if o.prune and self._operation_costs_EO is not None and progress.pressure.weight > 0:
            strengths = operation_weights.sigmoid(model.alphas, model.mask)
            loss = loss + progress.pressure.weight * penalty(
                strengths, model.mask, model.space.relaxation.nodes, o.prune_cost * self._operation_costs_EO
            )
        result = StepResult(math.nan)
        if trains_alphas:
            latency_loss, result = self._latency_loss(progress, generator)
            for term in (*self._regularisers(epoch), *(() if latency_loss is None else (latency_loss,))):
                loss = loss + term
        loss.backward()  # type: ignore[no-untyped-call]
        model.update_weights()
        if trains_alphas:
            model.alpha_optimiser.step()
        return StepResult(float(task.detach()), result.expected_ms, result.discretised_ms)

    def tune(self, epoch: int, step: int, first_epoch: int) -> StepResult:
        """One step of the weights of a single network: every other step the discretised one, else one drawn by the
        architecture parameters. ``first_epoch``: the first tuning epoch."""
        model, o = self.model, self.options
        generator = rng(self._seed, Stream.GRADIENT_STEP, epoch, step)
        if self.conditioning is not None:
            self.conditioning.draw(generator)
        if step % 2 == 0:
            genes_G = model.discretised()
        else:
            genes_G = model.space.discretise(resource.drawn_scores(model.probabilities(), generator))
        x, y = self.batches.batch("all", epoch, step, generator)
        per_epoch = self.batches.per_epoch
        for group in model.weight_optimiser.param_groups:
            position = (epoch - first_epoch) * per_epoch + step
            group["lr"] = _cosine(model.rates.lr, model.rates.lr_end, position, o.tune_epochs * per_epoch)
        model.weight_optimiser.zero_grad(set_to_none=True)
        loss = F.cross_entropy(model.net(x, Arch(model.space.id, tuple(genes_G.tolist()))), y)
        if loss.requires_grad:  # False for a cell without a path from its input, where only the head could learn
            loss.backward()  # type: ignore[no-untyped-call]
            model.update_weights()
        return StepResult(float(loss.detach()))

    # Terms of the loss

    def _distillation(
        self, progress: GradientProgress, x_BCHW: Tensor, logits_BK: Tensor, noise: Tensor
    ) -> Tensor | None:
        o = self.options
        if o.teacher_weight == 0:
            return None
        if progress.teachers is not self._teacher_states:
            self._teacher_states = progress.teachers
            self.teachers = [self.model.teacher(state) for state in progress.teachers]
        if not self.teachers:
            return None
        with torch.no_grad():
            logits_of_teachers = [
                self.model.weights(progress.temperature, noise, alphas).logits(net, x_BCHW)
                for net, alphas in self.teachers
            ]
            target = vote(logits_of_teachers, o.teacher_temperature, o.teacher_vote)
        return o.teacher_weight * distillation(logits_BK, target, o.teacher_temperature)

    def _latency_loss(
        self, progress: GradientProgress, generator: np.random.Generator
    ) -> tuple[Tensor | None, StepResult]:
        if self._latency is None or progress.multiplier is None:
            return None, StepResult(math.nan)
        model = self.model
        p = model.expected_weights(model.alphas)
        expected = resource.expected(
            model.space, self._latency.cost, p.detach().double().cpu().numpy(), generator, self.options.latency_samples
        )
        discretised_ms = float(self._latency.cost(model.discretised()[None])[0])
        # The bound holds for the discretised network, whose cost may be far from the expected one early in the search.
        loss = progress.multiplier.factor(discretised_ms) * resource.differentiable(
            expected, p, model.space.relaxation.none
        )
        return loss, StepResult(math.nan, expected.mean, discretised_ms)

    def _regularisers(self, epoch: int) -> list[Tensor]:
        """Of the architecture parameters: beta decay, whose weight rises over the search epochs, the distance of
        concentrations from their anchor, and the expected cost."""
        o, model = self.options, self.model
        terms = []
        if o.beta_decay > 0:
            weight = o.beta_decay * min(1.0, epoch / o.epochs)
            terms.append(weight * operation_weights.log_sum_exp(model.alphas, model.mask))
        if o.anchor_weight > 0:
            terms.append(o.anchor_weight * operation_weights.anchor_distance(model.alphas, model.mask))
        if o.resource_weight > 0 and self._operation_costs_EO is not None:
            p_EO = model.expected_weights(model.alphas)
            terms.append(o.resource_weight * relative_cost(p_EO, model.mask, self._operation_costs_EO))
        return terms

    def _rate(self, epoch: int) -> float:
        r, epochs = self.model.rates, self.options.epochs
        if epoch < epochs:
            return _cosine(r.lr, r.lr_end, epoch, epochs)
        return r.lr / 10  # after a decision


def _cosine(start: float, end: float, done: int, total: int) -> float:
    return end + 0.5 * (start - end) * (1 + math.cos(math.pi * done / max(1, total)))

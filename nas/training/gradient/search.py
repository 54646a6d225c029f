"""The one loop of differentiable search; every method is a set of options (``options.PRESETS``).

Epochs come in three kinds. In *search* epochs, each step updates the mixture on held-out images and the weights on the
others (or both together); at its end temperatures, pruning and probes have their turn. *select* epochs follow decisions
by perturbation. In *tune* epochs the weights learn single networks drawn around what was found. Everything random
derives from (seed, epoch, step), so that a position and the tensors of ``Search.state`` are all it takes to go on.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from nas.core.arch import Arch, Floats, Genes
from nas.core.errors import HwnasError
from nas.core.ports import Dataset
from nas.core.relaxation import RelaxedSpace, parameter_free_share, skip_share
from nas.supernet import RelaxedSupernet
from nas.training.calibration import Score
from nas.training.gradient import operation_weights, perturbation, resource
from nas.training.gradient.collapse import signs_of_collapse
from nas.training.gradient.options import DartsParams
from nas.training.gradient.outer import first_order, second_order
from nas.training.gradient.pruning import Pressure, penalty, survivors
from nas.training.gradient.sharpness import dominant_eigenvalue, stop_epoch
from nas.training.gradient.teachers import distillation, vote
from nas.training.pipeline import Index, Pipeline
from nas.training.progressive import TrainState

Kind = Literal["search", "select", "tune"]
Tensor = torch.Tensor
MOST_DECAY = 0.03  # of the weights, however often a collapse is answered with more of it


@dataclass(frozen=True)
class Step:
    """One step was done: of the whole search ``done`` of ``total``, with the loss on the images the weights learn."""

    kind: Kind
    epoch: int
    done: int
    total: int
    loss: float
    images: int


@dataclass(frozen=True)
class Reading:
    """The end of a search epoch: ``values`` by name, the mixture, and signs of collapse that are new."""

    epoch: int
    values: Mapping[str, float]
    p_EO: Floats
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Resource:
    """A cost that the mixture is charged for: of N networks, in ms; and the bound on it."""

    cost: resource.Cost
    bound_ms: float | None


class Search:
    """A supernet and a mixture that are being learned, in place."""

    def __init__(
        self,
        net: RelaxedSupernet,
        space: RelaxedSpace,
        data: Dataset,
        pipeline: Pipeline,
        options: DartsParams,
        seed: int,
        latency: Resource | None = None,
        allowed_EO: NDArray[np.bool_] | None = None,
    ) -> None:
        """``allowed_EO``: the operations to choose from, None for all; every edge has at least one."""
        self.space, self.options, self.seed = space, options, seed
        self.net, self._data, self._pipeline, self._latency = net, data, pipeline, latency
        self._device = torch.device(pipeline.device)
        relaxation = space.relaxation
        rows = np.random.default_rng((seed, 5)).permutation(len(data.train)).astype(np.int64)
        half = len(rows) if options.order == "one_level" else len(rows) // 2
        self._rows: dict[str, Index] = {"weights": rows[:half], "alphas": rows[half:], "all": rows}
        self.batch = max(2, min(options.batch_size, half))
        self.per_epoch = max(1, half // self.batch)
        self._decisions = (
            perturbation.decisions(relaxation, np.random.default_rng((seed, 6)))
            if options.selection == "perturbation"
            else []
        )
        self.kinds: list[Kind] = ["search"] * options.epochs
        self.kinds += ["select"] * (len(self._decisions) * options.select_epochs)
        self.kinds += ["tune"] * options.tune_epochs
        generator = torch.Generator().manual_seed(int(np.random.default_rng((seed, 7)).integers(2**62)))
        spread = 0.0 if options.prune else 1e-3
        self.alphas = nn.Parameter((spread * torch.randn(relaxation.shape, generator=generator)).to(self._device))
        self.betas = nn.Parameter((1e-3 * torch.randn(relaxation.shape[0], generator=generator)).to(self._device))
        self.mask = torch.ones(relaxation.shape, dtype=torch.bool, device=self._device)
        if options.prune:
            self.mask[:, relaxation.none] = False
        if allowed_EO is not None:
            self.mask &= torch.from_numpy(allowed_EO).to(self._device)
        self._weight_decay = options.weight_decay
        self._begin_optimisers()
        self._costs = self._operation_costs() if options.prune else None
        self._pressure = Pressure(options.prune_weight)
        self._series: list[list[int]] = []
        self._ring: list[dict[str, Any]] = []
        self._teachers: list[tuple[RelaxedSupernet, Tensor]] = []
        self._eigenvalues: list[tuple[int, float]] = []
        self._past: list[Tensor] = []  # logits at the end of each search epoch
        self._healthy = -1  # the latest epoch without signs of collapse
        self._told: list[str] = []
        self._signs: list[str] = []
        self._ended: int | None = None  # the epoch whose logits an early end went back to
        self._decided = 0
        self._cost_sum, self._derived_sum, self._cost_count = 0.0, 0.0, 0
        self._multiplier = self._first_multiplier()
        self.temperature = self._temperature(0)

    # What was found

    @property
    def found(self) -> Genes:
        """The network that the mixture stands for now."""
        return self.space.discretise(self.scores())

    @property
    def signs(self) -> tuple[str, ...]:
        """Signs of collapse at the end of the last search epoch."""
        return tuple(self._signs)

    @property
    def series(self) -> list[Genes]:
        """Further networks of the same search, where it gives a series; the latest last."""
        return [np.array(genes, dtype=np.int64) for genes in self._series]

    def scores(self) -> Floats:
        """How much speaks for each operation, shape (E, O), 0 to 1; removed ones have 0."""
        with torch.no_grad():
            if self.options.prune:
                p = operation_weights.sigmoid(self.alphas, self.mask)
            else:
                p = operation_weights.softmax(self.alphas, self.mask)
            if self.options.partial > 1:
                p = p * operation_weights.edge_weights(self.betas, self.space.relaxation.nodes)[:, None]
        scores: Floats = p.double().cpu().numpy()
        return scores

    # Positions and states

    @property
    def steps(self) -> int:
        """Steps of the whole search."""
        return len(self.kinds) * self.per_epoch

    def state(self, epoch: int, step: int) -> TrainState:
        """What it takes to go on from a position, in tensors and plain values."""
        return TrainState(
            epoch,
            step,
            {
                "net": self.net.state_dict(),
                "alphas": self.alphas.detach(),
                "betas": self.betas.detach(),
                "mask": self.mask,
                "weight_optimiser": self._weight_optimiser.state_dict(),
                "alpha_optimiser": self._alpha_optimiser.state_dict(),
                "weight_decay": self._weight_decay,
                "temperature": self.temperature,
                "teachers": self._ring,
                "pressure": [self._pressure.weight, self._pressure.step, self._pressure.quiet],
                "series": self._series,
                "eigenvalues": self._eigenvalues,
                "past": self._past,
                "healthy": self._healthy,
                "told": self._told,
                "signs": self._signs,
                "ended": self._ended,
                "decided": self._decided,
                "cost": [self._cost_sum, self._derived_sum, self._cost_count],
                "multiplier": self._multiplier.value if self._multiplier is not None else None,
            },
        )

    def restore(self, weights: Mapping[str, Any]) -> None:
        """Goes back to what ``state`` gave."""
        self.net.load_state_dict(weights["net"])
        with torch.no_grad():
            self.alphas.copy_(weights["alphas"])
            self.betas.copy_(weights["betas"])
        self.mask = weights["mask"].to(self._device)
        self._weight_decay = weights["weight_decay"]
        self._begin_optimisers()
        self._weight_optimiser.load_state_dict(weights["weight_optimiser"])
        self._alpha_optimiser.load_state_dict(weights["alpha_optimiser"])
        self.temperature = weights["temperature"]
        self._ring = list(weights["teachers"])
        self._teachers = [self._teacher(kept) for kept in self._ring]
        weight, step, quiet = weights["pressure"]
        self._pressure = Pressure(self.options.prune_weight, weight, step, quiet)
        self._series = [list(genes) for genes in weights["series"]]
        self._eigenvalues = [(int(e), float(v)) for e, v in weights["eigenvalues"]]
        self._past = list(weights["past"])
        self._healthy, self._told, self._signs = weights["healthy"], list(weights["told"]), list(weights["signs"])
        self._ended, self._decided = weights["ended"], weights["decided"]
        self._cost_sum, self._derived_sum, self._cost_count = weights["cost"]
        if self._multiplier is not None:
            self._multiplier = replace(self._multiplier, value=weights["multiplier"])

    # Steps

    def step(self, epoch: int, step: int) -> Step:
        """One step. Raises HwnasError when the loss is no longer finite."""
        kind = self.kinds[epoch]
        if not self.net.training:  # going through all modules takes a tenth of a small step
            self.net.train()
        with _determinism(self.options.deterministic):
            loss = self._tune(epoch, step) if kind == "tune" else self._learn(epoch, step)
        if not math.isfinite(loss):
            raise HwnasError(
                f"differentiable search diverged in epoch {epoch} at step {step}: loss is {loss}; expected a finite "
                f"value. A smaller learning rate than {self.options.lr:g} may help"
            )
        return Step(kind, epoch, epoch * self.per_epoch + step + 1, self.steps, loss, self.batch)

    def end_epoch(self, epoch: int) -> tuple[int, Reading | None]:
        """What is done between epochs; gives the next epoch, and a reading at the end of a search epoch."""
        kind, reading = self.kinds[epoch], None
        following = epoch + 1
        with _determinism(self.options.deterministic):
            if kind == "search":
                reading = self._look(epoch)
                if self._ended is not None:
                    following = self.options.epochs
                if following < self.options.epochs:
                    self.temperature = self._temperature(following)
                else:
                    self.temperature = 1.0
                    self._teachers, self._ring = [], []
            if following < len(self.kinds) or self._decisions:
                self._begin(following, epoch)
        return following, reading

    def _begin(self, epoch: int, before: int) -> None:
        """Optimisers of a new kind of epochs, and decisions that are due at its beginning."""
        o = self.options
        kind: Kind | None = self.kinds[epoch] if epoch < len(self.kinds) else None
        due = 0
        if epoch >= o.epochs and self._decisions:
            due = len(self._decisions)
            if kind == "select":
                due = min(due, (epoch - o.epochs) // o.select_epochs + 1)
        while self._decided < due:
            self._decide(self._decisions[self._decided])
            self._decided += 1
            self._begin_optimisers()
        if kind is not None and kind != self.kinds[before]:
            self._begin_optimisers()

    def _learn(self, epoch: int, step: int) -> float:
        """A step of mixture and weights."""
        o = self.options
        rng = np.random.default_rng((self.seed, 8, epoch, step))
        noises = [self._noise(int(rng.integers(2**62))) for _ in range(2)]
        images = self._images("weights", epoch, step, rng)
        for group in self._weight_optimiser.param_groups:
            group["lr"] = self._rate(epoch)
            group["weight_decay"] = self._weight_decay
        learns_alphas = epoch >= o.alpha_warmup and o.alpha_lr > 0
        if o.order == "one_level":
            return self._together(images, noises[0], learns_alphas, rng)
        held_out = self._images("alphas", epoch, step, rng)
        if learns_alphas and not o.weights_first:
            self._learn_alphas(images, held_out, noises[0], rng)
        loss = self._learn_weights(images, noises[1])
        if learns_alphas and o.weights_first:
            self._learn_alphas(images, held_out, noises[0], rng)
        return loss

    def _learn_weights(self, images: tuple[Tensor, Tensor], noise: Tensor) -> float:
        x, y = images
        self._weight_optimiser.zero_grad(set_to_none=True)
        with torch.no_grad():
            mixed = self._mixed(self.alphas, self.betas, noise)
            if self.options.relaxation == "gumbel_hard":  # the others weigh nothing and learn nothing
                mixed["active_EO"] = mixed["weights_EO"] > 0
        logits = self.net.mix(x, **mixed)
        loss = F.cross_entropy(logits, y)
        if self._teachers and self.options.teacher_weight > 0:
            loss = loss + self.options.teacher_weight * self._lesson(x, logits, noise)
        loss.backward()  # type: ignore[no-untyped-call]
        self._update_weights()
        return float(loss.detach())

    def _learn_alphas(
        self, images: tuple[Tensor, Tensor], held_out: tuple[Tensor, Tensor], noise: Tensor, rng: np.random.Generator
    ) -> None:
        alphas = [self.alphas, self.betas] if self.options.partial > 1 else [self.alphas]

        def loss_on(batch: tuple[Tensor, Tensor]) -> Callable[[], Tensor]:
            return lambda: self._loss(batch, self.alphas, noise)

        if self.options.order == "second":
            weights = [p for p in self.net.parameters() if p.requires_grad]
            gradients = second_order(
                loss_on(images),
                loss_on(held_out),
                weights,
                alphas,
                lr=self._weight_optimiser.param_groups[0]["lr"],
                momentum=self.options.momentum,
                weight_decay=self._weight_decay,
                moments=[self._weight_optimiser.state.get(w, {}).get("momentum_buffer") for w in weights],
            )
        else:
            gradients = first_order(loss_on(held_out), alphas)
        charged = self._charge(rng)
        before = self.alphas.detach().clone()
        for parameter, gradient in zip(alphas, gradients, strict=True):
            parameter.grad = gradient
        if charged is not None:
            assert self.alphas.grad is not None
            self.alphas.grad = self.alphas.grad + torch.autograd.grad(charged, self.alphas)[0]
        self._alpha_optimiser.step()
        self._alpha_optimiser.zero_grad(set_to_none=True)
        if self.options.relaxation == "binary":
            pair = operation_weights.drawn_paths(before, self.mask, noise[0], 2)
            with torch.no_grad():
                self.alphas.copy_(operation_weights.rescaled(before, self.alphas, pair))

    def _together(
        self, images: tuple[Tensor, Tensor], noise: Tensor, learns_alphas: bool, rng: np.random.Generator
    ) -> float:
        """Weights and mixture on the same images, by the same loss."""
        x, y = images
        self._weight_optimiser.zero_grad(set_to_none=True)
        self._alpha_optimiser.zero_grad(set_to_none=True)
        logits = self.net.mix(x, **self._mixed(self.alphas, self.betas, noise))
        task = F.cross_entropy(logits, y)
        loss = task
        if self._teachers and self.options.teacher_weight > 0:
            loss = loss + self.options.teacher_weight * self._lesson(x, logits, noise)
        if self._costs is not None and self._pressure.weight > 0:
            strengths = operation_weights.sigmoid(self.alphas, self.mask)
            loss = loss + self._pressure.weight * penalty(
                strengths, self.mask, self.space.relaxation.nodes, self.options.prune_cost * self._costs
            )
        charged = self._charge(rng) if learns_alphas else None
        if charged is not None:
            loss = loss + charged
        loss.backward()  # type: ignore[no-untyped-call]
        self._update_weights()
        if learns_alphas:
            self._alpha_optimiser.step()
        return float(task.detach())

    def _tune(self, epoch: int, step: int) -> float:
        """The weights learn one network: every other step the one that was found, else one drawn from the mixture."""
        o = self.options
        rng = np.random.default_rng((self.seed, 8, epoch, step))
        genes = self.found if step % 2 == 0 else self.space.discretise(resource.drawn_scores(self._likely(), rng))
        x, y = self._images("all", epoch, step, rng)
        begun = len(self.kinds) - o.tune_epochs
        for group in self._weight_optimiser.param_groups:
            position = (epoch - begun) * self.per_epoch + step
            group["lr"] = _cosine(o.lr, o.lr_end, position, o.tune_epochs * self.per_epoch)
        self._weight_optimiser.zero_grad(set_to_none=True)
        loss = F.cross_entropy(self.net(x, Arch(self.space.id, tuple(genes.tolist()))), y)
        if not loss.requires_grad:  # a network that carries nothing from its input has nothing to learn but its head
            return float(loss)
        loss.backward()  # type: ignore[no-untyped-call]
        self._update_weights()
        return float(loss.detach())

    # Parts of a step

    def _mixed(self, alphas: Tensor, betas: Tensor, noise: Tensor, paths: int = 1) -> dict[str, Any]:
        """What ``RelaxedSupernet.mix`` takes beside images. ``paths`` are drawn where the relaxation is binary."""
        o, t = self.options, self.temperature
        active = self.mask
        match o.relaxation:
            case "softmax":
                weights = operation_weights.softmax(alphas, self.mask, t)
            case "gumbel_soft":
                weights = operation_weights.gumbel_soft(alphas, self.mask, t, noise)
            case "gumbel_hard":
                weights = operation_weights.gumbel_hard(alphas, self.mask, t, noise)
                if not o.all_paths:
                    active = weights.detach() > 0
            case "sparse_noisy":
                weights = operation_weights.sparse_noisy(alphas, self.mask, t, o.noise, noise)
            case "sigmoid":
                weights = operation_weights.sigmoid(alphas, self.mask)
            case "binary":
                active = operation_weights.drawn_paths(alphas, self.mask, noise[0], paths)
                weights = operation_weights.binary_gates(alphas, active, noise[1])
        edges = operation_weights.edge_weights(betas, self.space.relaxation.nodes) if o.partial > 1 else None
        return {"weights_EO": weights, "active_EO": active, "edges_E": edges, "partial": o.partial}

    def _plain(self) -> dict[str, Any]:
        """The mixture without noise, for looking at it."""
        with torch.no_grad():
            weights = (
                operation_weights.sigmoid(self.alphas, self.mask)
                if self.options.prune
                else operation_weights.softmax(self.alphas, self.mask)
            )
            edges = (
                operation_weights.edge_weights(self.betas, self.space.relaxation.nodes)
                if self.options.partial > 1
                else None
            )
        return {"weights_EO": weights, "active_EO": self.mask, "edges_E": edges, "partial": self.options.partial}

    def _loss(self, batch: tuple[Tensor, Tensor], alphas: Tensor, noise: Tensor) -> Tensor:
        x, y = batch
        return F.cross_entropy(self.net.mix(x, **self._mixed(alphas, self.betas, noise, paths=2)), y)

    def _lesson(self, x: Tensor, logits: Tensor, noise: Tensor) -> Tensor:
        o = self.options
        with torch.no_grad():
            said = [net.mix(x, **self._mixed(alphas, self.betas, noise)) for net, alphas in self._teachers]
            target = vote(said, o.teacher_temperature, o.teacher_vote)
        return distillation(logits, target, o.teacher_temperature)

    def _charge(self, rng: np.random.Generator) -> Tensor | None:
        """The latency loss, or None."""
        if self._latency is None or self._multiplier is None:
            return None
        p = operation_weights.softmax(self.alphas, self.mask)
        found = resource.expected(
            self.space, self._latency.cost, p.detach().double().cpu().numpy(), rng, self.options.latency_samples
        )
        derived = float(self._latency.cost(self.found[None])[0])
        self._cost_sum += found.mean
        self._derived_sum += derived
        self._cost_count += 1
        # What has to meet the bound is the network, whose cost may be far from the expected one while nothing is sure.
        return self._multiplier.factor(derived) * resource.differentiable(found, p, self.space.relaxation.none)

    def _update_weights(self) -> None:
        (group,) = self._weight_optimiser.param_groups
        nn.utils.clip_grad_norm_(group["params"], self.options.clip_norm)
        self._weight_optimiser.step()

    def _images(self, which: str, epoch: int, step: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        rows = self._rows[which]
        order = np.random.default_rng((self.seed, 9, len(which), epoch)).permutation(len(rows))
        index = rows[order[(step * self.batch + np.arange(self.batch)) % len(rows)]]
        resolution = self.space.shape.height
        x, y = self._pipeline.augmented(self._data.train, index, resolution, int(rng.integers(2**62)))
        return x.contiguous(memory_format=torch.channels_last), y

    def _noise(self, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        if self.options.relaxation == "sparse_noisy":
            return torch.randn(self.space.relaxation.shape, generator=generator).to(self._device)
        like = self.alphas.detach().cpu()
        if self.options.relaxation == "binary":  # once to draw paths, once to open one of their gates
            like = like.expand(2, -1, -1)
        return operation_weights.gumbel_noise(like, generator).to(self._device)

    def _rate(self, epoch: int) -> float:
        o = self.options
        if epoch < o.epochs:
            return _cosine(o.lr, o.lr_end, epoch, o.epochs)
        return o.lr / 10  # after a decision

    # Between epochs

    def _look(self, epoch: int) -> Reading:
        o, relaxation = self.options, self.space.relaxation
        died = self._prune() if o.prune else 0
        # What a mixture stands for that rests is chance: neither good nor bad, and no place to go back to.
        resting = epoch < o.alpha_warmup
        if o.probe_every and not resting and ((epoch + 1) % o.probe_every == 0 or epoch + 1 == o.epochs):
            self._eigenvalues.append((epoch, self._eigenvalue()))
        if self._multiplier is not None and self._cost_count:
            cost_ms = self._cost_sum / self._cost_count
            self._multiplier = self._multiplier.after(self._derived_sum / self._cost_count)
        else:
            cost_ms = None
        self._cost_sum, self._derived_sum, self._cost_count = 0.0, 0.0, 0
        p = operation_weights.softmax(self.alphas.detach(), self.mask)
        table = self.space.table(self.found)
        entropy = float(operation_weights.row_entropy(p).mean())
        signs = signs_of_collapse(
            skip_share=skip_share(relaxation, table),
            skip_limit=o.skip_limit,
            parameter_free_share=parameter_free_share(relaxation, table),
            entropy=entropy,
            operations=len(relaxation.operations),
            cooled=o.temperature != "constant" or o.prune,
            progress=(epoch + 1) / o.epochs,
            eigenvalues=self._eigenvalues,
        )
        signs = [] if resting else signs
        self._signs = signs
        scores = self.scores()
        self._past.append(self.alphas.detach().clone())
        if not signs and not resting:
            self._healthy = epoch
        warnings = self._answer(epoch, signs)
        if (epoch + 1) % o.teacher_every == 0 and o.teachers and epoch + 1 >= o.teacher_warmup:
            self._ring = [*self._ring, self._snapshot()][-o.teachers :]
            self._teachers = [self._teacher(kept) for kept in self._ring]
        values = {
            "entropy": entropy,
            "skip_share": skip_share(relaxation, table),
            "temperature": self.temperature,
            "alpha_norm": float(self.alphas.detach().norm()),
        }
        if self._eigenvalues and self._eigenvalues[-1][0] == epoch:
            values["eigenvalue"] = self._eigenvalues[-1][1]
        if cost_ms is not None and self._multiplier is not None:
            values |= {"latency_ms": cost_ms, "multiplier": self._multiplier.value}
        if o.prune:
            values |= {"died": float(died), "alive": float(self.mask.sum()), "pressure": self._pressure.weight}
            if float(self.mask.sum()) <= o.prune_until * float(relaxation.real.sum() * relaxation.shape[0]):
                self._ended = epoch
        return Reading(epoch, values, scores, warnings)

    def _answer(self, epoch: int, signs: list[str]) -> tuple[str, ...]:
        """What is done about signs of collapse: told once each; and early stopping, which is a rule of its own."""
        o = self.options
        if o.early_stop and (back_to := stop_epoch(self._eigenvalues)) is not None:
            self._go_back(back_to)
            return (f"stopped after epoch {epoch + 1}: {signs[-1]}; the mixture is that of epoch {back_to + 1}",)
        if not signs:
            return ()
        if o.collapse == "stop":
            self._go_back(self._healthy)
            where = f"that of epoch {self._healthy + 1}" if self._healthy >= 0 else "that of the last epoch"
            return (f"stopped after epoch {epoch + 1}: {'; '.join(signs)}; the mixture is {where}",)
        if o.collapse == "regularise" and self._weight_decay < MOST_DECAY:
            self._weight_decay = min(MOST_DECAY, 10 * max(self._weight_decay, 1e-5))
            self._eigenvalues = []
            return (f"epoch {epoch + 1}: {'; '.join(signs)}; weight decay is now {self._weight_decay:g}",)
        kinds = [s.translate(_WITHOUT_DIGITS) for s in signs]
        fresh = [s for s, kind in zip(signs, kinds, strict=True) if kind not in self._told]
        self._told = sorted({*self._told, *kinds})
        return tuple(f"epoch {epoch + 1}: {s}" for s in fresh)

    def _go_back(self, epoch: int) -> None:
        """Ends the search with the mixture of an earlier epoch; the weights stay."""
        self._ended = epoch
        if epoch >= 0:
            with torch.no_grad():
                self.alphas.copy_(self._past[epoch])

    def _prune(self) -> int:
        before, table = self.mask, self.found
        stable = self._pressure.stable
        strengths = operation_weights.sigmoid(self.alphas.detach(), before)
        self.mask = survivors(strengths, before, self.space.relaxation.nodes)
        died = int(before.sum() - self.mask.sum())
        if died and stable and table.tolist() not in self._series:
            self._series.append(table.tolist())
        self._pressure = self._pressure.after(died)
        return died

    def _eigenvalue(self) -> float:
        """Of the loss on the same held-out images each time, at temperature 1 and without noise."""
        rows = self._rows["alphas"] if len(self._rows["alphas"]) else self._rows["all"]
        x, y = self._pipeline.augmented(self._data.train, rows[: self.batch], self.space.shape.height, 0)
        x = x.contiguous(memory_format=torch.channels_last)
        plain = self._plain()

        def loss(alphas: Tensor) -> Tensor:
            return F.cross_entropy(
                self.net.mix(x, **{**plain, "weights_EO": operation_weights.softmax(alphas, self.mask)}), y
            )

        return dominant_eigenvalue(loss, self.alphas)

    def _decide(self, decision: perturbation.Decision) -> None:
        plain = self._plain()
        found = perturbation.trials(self.space.relaxation, self.mask, decision)
        scores = [self._score({**plain, "weights_EO": perturbation.without(plain["weights_EO"], t)}) for t in found]
        self.mask = perturbation.decide(self.mask, decision, found, scores, plain["weights_EO"])

    @torch.no_grad()
    def _score(self, mixed: dict[str, Any]) -> Score:
        """The supernet on the held-out images, not augmented, normalised by the statistics of each batch."""
        rows = self._rows["alphas"] if len(self._rows["alphas"]) else self._rows["all"]
        right, loss = 0, 0.0
        for x, y in self._pipeline.rows(self._data.train, np.sort(rows), self.space.shape.height, max(256, self.batch)):
            logits = self.net.mix(x.contiguous(memory_format=torch.channels_last), **mixed)
            right += int((logits.argmax(1) == y).sum())
            loss += float(F.cross_entropy(logits, y, reduction="sum"))
        return Score(100.0 * right / len(rows), loss / len(rows))

    def _snapshot(self) -> dict[str, Any]:
        net = {k: v.detach().clone() for k, v in self.net.state_dict().items()}
        return {"net": net, "alphas": self.alphas.detach().clone()}

    def _teacher(self, kept: Mapping[str, Any]) -> tuple[RelaxedSupernet, Tensor]:
        net = copy.deepcopy(self.net).requires_grad_(False)
        net.load_state_dict(kept["net"])
        return net.train(), kept["alphas"].to(self._device)

    # Settings

    def _begin_optimisers(self) -> None:
        o = self.options
        self._weight_optimiser = torch.optim.SGD(
            self.net.parameters(), lr=o.lr, momentum=o.momentum, nesterov=o.nesterov, weight_decay=self._weight_decay
        )
        learned = [self.alphas, self.betas] if o.partial > 1 else [self.alphas]
        self._alpha_optimiser: torch.optim.Optimizer
        if o.alpha_optimiser == "adam":
            self._alpha_optimiser = torch.optim.Adam(
                learned, lr=o.alpha_lr, betas=(o.alpha_momentum, 0.999), weight_decay=o.alpha_weight_decay
            )
        else:
            self._alpha_optimiser = torch.optim.SGD(
                learned, lr=o.alpha_lr, momentum=0.9, weight_decay=o.alpha_weight_decay
            )

    def _temperature(self, epoch: int) -> float:
        o = self.options
        start, end = o.temperature_start, o.temperature_end
        match o.temperature:
            case "constant":
                return start
            case "linear":
                return operation_weights.linear(start, end, epoch, o.epochs)
            case "exponential":
                return operation_weights.exponential(start, end, epoch, o.epochs)
            case "entropy":
                most = math.log(self.space.relaxation.shape[1])
                target = operation_weights.exponential(most, most * min(end, 1.0), epoch, o.epochs)
                return operation_weights.temperature_for_entropy(self.alphas, self.mask, target) if epoch else start

    def _likely(self) -> Floats:
        """The mixture as probabilities."""
        scores = self.scores()
        likely: Floats = scores / np.maximum(scores.sum(axis=1, keepdims=True), 1e-12)
        return likely

    def _first_multiplier(self) -> resource.Multiplier | None:
        if self._latency is None or self.options.latency_weight == 0:
            return None
        uniform = np.full(self.space.relaxation.shape, 1.0 / self.space.relaxation.shape[1])
        rng = np.random.default_rng((self.seed, 10))
        reference = resource.expected(self.space, self._latency.cost, uniform, rng, 8).mean
        return resource.Multiplier.of(self.options.latency_weight, self._latency.bound_ms, reference)

    def _operation_costs(self) -> Tensor:
        """MACs that an operation adds to networks that are drawn uniformly, as shares of the most, shape (E, O)."""
        relaxation = self.space.relaxation
        uniform = np.full(relaxation.shape, 1.0) * relaxation.real / relaxation.real.sum()
        rng = np.random.default_rng((self.seed, 11))
        by_EO = resource.expected(self.space, lambda g: self.space.costs(g)["macs"], uniform, rng, 8).by_EO
        added = by_EO - by_EO[:, relaxation.real].min(axis=1, keepdims=True)
        return torch.as_tensor(np.clip(added, 0, None) / max(float(added.max()), 1.0)).to(self.alphas)


def search(learning: Search, start: TrainState, save_due: Callable[[], bool]) -> Iterator[Step | Reading | TrainState]:
    """Goes on from ``start`` to the end, yielding a ``Step`` each, a ``Reading`` at the end of search epochs, and a
    ``TrainState`` whenever ``save_due()`` and at the end."""
    if start.weights is not None:
        learning.restore(start.weights)
    epoch, first = start.phase, start.step
    while epoch < len(learning.kinds):
        for step in range(first, learning.per_epoch):
            yield learning.step(epoch, step)
            if step + 1 < learning.per_epoch and save_due():
                yield learning.state(epoch, step + 1)
        epoch, reading = learning.end_epoch(epoch)
        first = 0
        if reading is not None:
            yield reading
        if epoch < len(learning.kinds) and save_due():
            yield learning.state(epoch, 0)
    yield learning.state(epoch, 0)


_WITHOUT_DIGITS = str.maketrans("", "", "0123456789.e+-")


def _cosine(start: float, end: float, done: int, total: int) -> float:
    return end + 0.5 * (start - end) * (1 + math.cos(math.pi * done / max(1, total)))


@contextmanager
def _determinism(wanted: bool) -> Iterator[None]:
    """Only operations that give the same bits every time; they are slower on a GPU, and the CPU has no others."""
    before = torch.are_deterministic_algorithms_enabled()
    try:
        torch.use_deterministic_algorithms(wanted or before)
        yield
    finally:
        torch.use_deterministic_algorithms(before)

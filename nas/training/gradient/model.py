"""A supernet with its architecture parameters: the tensors that differentiable search trains, and their optimisers."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from nas.core.arch import Floats, Genes
from nas.core.ports import RelaxedSpace
from nas.core.rng import Stream, derive_seed
from nas.supernet import RelaxedSupernet
from nas.training.gradient import operation_weights
from nas.training.gradient.options import DartsParams
from nas.training.gradient.progress import TeacherState
from nas.training.gradient.rates import Rates
from nas.training.trainer import Trainer, TrainingExecution, fused_sgd
from nas.training.weights import Weights

Tensor = torch.Tensor


@dataclass(frozen=True, eq=False)
class OperationWeights:
    """The arguments of ``RelaxedSupernet.mix`` beside images. ``edges_E``: also of shape (E, B)."""

    weights_EO: Tensor
    active_EO: Tensor
    edges_E: Tensor | None
    partial: int
    entangled: bool

    def logits(self, net: RelaxedSupernet, x_BCHW: Tensor) -> Tensor:
        """Logits of the relaxation, shape (B, classes)."""
        return net.mix(
            x_BCHW,
            self.weights_EO,
            active_EO=self.active_EO,
            edges_E=self.edges_E,
            partial=self.partial,
            entangled=self.entangled,
        )

    def with_active(self, active_EO: Tensor) -> OperationWeights:
        """The same with other active operations."""
        return replace(self, active_EO=active_EO)

    def with_paths(self, kept_EB: Tensor) -> OperationWeights:
        """The same with edges scaled for each image."""
        edges = kept_EB if self.edges_E is None else self.edges_E[:, None] * kept_EB
        return replace(self, edges_E=edges)

    def with_weights(self, weights_EO: Tensor) -> OperationWeights:
        """The same with other operation weights."""
        return replace(self, weights_EO=weights_EO)


class RelaxedModel:
    """Trained in place: ``net``; ``alphas``, logits of operations (E, O); ``betas``, logits of edges (E,), learned with
    partial channels only. ``mask`` (E, O) is False for removed operations."""

    def __init__(
        self,
        net: RelaxedSupernet,
        space: RelaxedSpace,
        options: DartsParams,
        rates: Rates,
        seed: int,
        device: torch.device,
        allowed_EO: NDArray[np.bool_] | None,
    ) -> None:
        """``allowed_EO``: the operations to choose from, None for all; every edge has at least one."""
        self.net, self.space, self.options, self.rates, self.device = net, space, options, rates, device
        self.entangled = options.entangled
        relaxation = space.relaxation
        generator = torch.Generator().manual_seed(derive_seed(seed, Stream.ARCHITECTURE_PARAMETERS))
        spread = 0.0 if options.prune else 1e-3
        self.alphas = nn.Parameter((spread * torch.randn(relaxation.shape, generator=generator)).to(device))
        self.betas = nn.Parameter((1e-3 * torch.randn(relaxation.shape[0], generator=generator)).to(device))
        self.mask = torch.from_numpy(relaxation.mask).to(device)
        if options.prune and relaxation.none is not None:
            self.mask[:, relaxation.none] = False
        if allowed_EO is not None:
            self.mask &= torch.from_numpy(allowed_EO).to(device)
        self.trainer = Trainer(net.parameters(), options.clip_norm, str(device), TrainingExecution())
        self.begin_optimisers(options.weight_decay)

    @property
    def architecture_parameters(self) -> list[nn.Parameter]:
        """The learned ones among alphas and betas."""
        return [self.alphas, self.betas] if self.rates.partial > 1 else [self.alphas]

    def begin_optimisers(self, weight_decay: float) -> None:
        """Replace both optimisers by new ones."""
        o = self.options
        self.weight_optimiser = fused_sgd(
            self.net.parameters(),
            lr=self.rates.lr,
            momentum=o.momentum,
            nesterov=o.nesterov,
            weight_decay=weight_decay,
        )
        self.alpha_optimiser: torch.optim.Optimizer
        if o.alpha_optimiser == "adam":
            self.alpha_optimiser = torch.optim.Adam(
                self.architecture_parameters,
                lr=self.rates.alpha_lr,
                betas=(o.alpha_momentum, 0.999),
                weight_decay=o.alpha_weight_decay,
            )
        else:
            self.alpha_optimiser = torch.optim.SGD(
                self.architecture_parameters,
                lr=self.rates.alpha_lr,
                momentum=0.9,
                weight_decay=o.alpha_weight_decay,
            )

    def update_weights(self) -> None:
        """Clip the gradients of the weights and do an optimiser step."""
        self.trainer.update(self.weight_optimiser)

    def disentangle(self) -> None:
        """Give each operation weights of its own, after the relaxation was searched with shared ones."""
        self.net.disentangle()
        self.entangled = False

    def leave_better_half(self) -> None:
        """Remove the less likely half of the operations of every edge, none beside the others; its likeliest real one
        stays."""
        real_O = torch.from_numpy(self.space.relaxation.real).to(self.device)
        with torch.no_grad():
            p_EO = self.expected_weights(self.alphas).masked_fill(~self.mask, -1.0)
        best_E1 = p_EO.masked_fill(~real_O, -1.0).argmax(dim=1, keepdim=True)
        p_EO = p_EO.scatter(1, best_E1, 2.0).masked_fill(~self.mask, -1.0)
        rank_EO = p_EO.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        self.mask = self.mask & (rank_EO < (self.mask.sum(dim=1, keepdim=True) + 1) // 2)

    # Discretisation

    def scores(self) -> Floats:
        """Score of each operation, shape (E, O), 0 to 1; removed operations have 0."""
        with torch.no_grad():
            plain = self.plain_weights()
            p = plain.weights_EO if plain.edges_E is None else plain.weights_EO * plain.edges_E[:, None]
        scores: Floats = p.double().cpu().numpy()
        return scores

    def probabilities(self) -> Floats:
        """The scores with rows that sum to 1, shape (E, O)."""
        scores = self.scores()
        normalised: Floats = scores / np.maximum(scores.sum(axis=1, keepdims=True), 1e-12)
        return normalised

    def discretised(self) -> Genes:
        """The network with the highest scores, shape (G,)."""
        return self.space.discretise(self.scores())

    # Operation weights

    def noise(self, seed: int) -> Tensor:
        """Noise for one step's operation weights."""
        if self.options.relaxation == "dirichlet":
            return torch.tensor([seed])
        generator = torch.Generator().manual_seed(seed)
        if self.options.relaxation == "sparse_noisy":
            return torch.randn(self.space.relaxation.shape, generator=generator).to(self.device)
        like = self.alphas.detach().cpu()
        if self.options.relaxation == "binary":  # one draw selects paths, another opens one of their gates
            like = like.expand(2, -1, -1)
        return operation_weights.gumbel_noise(like, generator).to(self.device)

    def weights(
        self, temperature: float, noise: Tensor, alphas: Tensor | None = None, paths: int = 1
    ) -> OperationWeights:
        """Operation weights of a step, differentiable in ``alphas`` (default: the model's) and betas. ``paths``: the
        number of drawn operations per edge where the relaxation is binary."""
        o, mask = self.options, self.mask
        alphas = self.alphas if alphas is None else alphas
        active = mask
        match o.relaxation:
            case "softmax":
                weights = operation_weights.softmax(alphas, mask, temperature)
            case "gumbel_soft":
                weights = operation_weights.gumbel_soft(alphas, mask, temperature, noise)
            case "gumbel_hard":
                weights = operation_weights.gumbel_hard(alphas, mask, temperature, noise)
                if not self.rates.all_paths:
                    active = weights.detach() > 0
            case "sparse_noisy":
                weights = operation_weights.sparse_noisy(alphas, mask, temperature, o.noise, noise)
            case "sigmoid":
                weights = operation_weights.sigmoid(alphas, mask)
            case "binary":
                active = operation_weights.drawn_paths(alphas, mask, noise[0], paths)
                weights = operation_weights.binary_gates(alphas, active, noise[1])
            case "dirichlet":
                weights = operation_weights.dirichlet(alphas, mask, int(noise))
        return OperationWeights(weights, active, self._edges(), self.rates.partial, self.entangled)

    def expected_weights(self, alphas: Tensor) -> Tensor:
        """The operation weights of ``alphas`` at temperature 1 without noise, a distribution for each edge (E, O)."""
        if self.options.relaxation == "dirichlet":
            return operation_weights.dirichlet_mean(alphas, self.mask)
        return operation_weights.softmax(alphas, self.mask)

    def plain_weights(self) -> OperationWeights:
        """Operation weights at temperature 1 without noise, not differentiable."""
        with torch.no_grad():
            alphas, mask = self.alphas, self.mask
            weights = operation_weights.sigmoid(alphas, mask) if self.options.prune else self.expected_weights(alphas)
            return OperationWeights(weights, mask, self._edges(), self.rates.partial, self.entangled)

    def _edges(self) -> Tensor | None:
        if self.rates.partial == 1:
            return None
        return operation_weights.edge_weights(self.betas, self.space.relaxation.nodes)

    # States

    def tensors(self) -> Weights:
        """The tensors and optimiser states to resume from."""
        return {
            "net": self.net.state_dict(),
            "alphas": self.alphas.detach(),
            "betas": self.betas.detach(),
            "mask": self.mask,
            "entangled": self.entangled,
            "weight_optimiser": self.weight_optimiser.state_dict(),
            "alpha_optimiser": self.alpha_optimiser.state_dict(),
        }

    def load_tensors(self, tensors: Weights, weight_decay: float) -> None:
        """Inverse of ``tensors``."""
        self.net.load_state_dict(tensors["net"])
        self.load_alphas(tensors["alphas"])
        self.load_betas(tensors["betas"])
        self.mask = tensors["mask"].to(self.device)
        self.entangled = bool(tensors.get("entangled", False))
        self.begin_optimisers(weight_decay)
        self.weight_optimiser.load_state_dict(tensors["weight_optimiser"])
        self.alpha_optimiser.load_state_dict(tensors["alpha_optimiser"])

    def load_alphas(self, alphas: Tensor) -> None:
        """Set the logits; the weights stay."""
        with torch.no_grad():
            self.alphas.copy_(alphas)

    def load_betas(self, betas: Tensor) -> None:
        """Set the logits of edges; the weights stay."""
        with torch.no_grad():
            self.betas.copy_(betas)

    def teacher_state(self) -> TeacherState:
        """A copy of the weights and logits."""
        net = {k: v.detach().clone() for k, v in self.net.state_dict().items()}
        return TeacherState(net, self.alphas.detach().clone())

    def teacher(self, state: TeacherState) -> tuple[RelaxedSupernet, Tensor]:
        """A frozen supernet with the weights of ``state``, and its logits."""
        net = copy.deepcopy(self.net).requires_grad_(False)
        net.load_state_dict(state.net)
        return net.train(), state.alphas.to(self.device)

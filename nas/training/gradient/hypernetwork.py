"""Architecture parameters as a function of preference and device: one search for all trade-offs on many devices.

MODNAS: Sukthanker et al., Multi-objective differentiable neural architecture search, ICLR 2025. Instead of free logits,
a small network gives the logits for a preference between accuracy and latency on a device. Where the paper has banks of
embeddings, attention and a latency predictor of its own, this has a multilayer perceptron and the expected latency by
the predictor of the device (``nas.training.gradient.resource``); objectives are summed with the preference as weight.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from nas.core.arch import Floats, Genes, sample
from nas.core.ports import RelaxedSpace
from nas.core.rng import Stream, derive_seed
from nas.training.gradient import operation_weights, resource
from nas.training.gradient.options import DartsParams
from nas.training.weights import Weights

Tensor = torch.Tensor
PROBES = 10  # networks whose latencies describe a device (HELP: Lee et al., NeurIPS 2021)
RAYS = 25  # preferences from which a front is read off
_PREFERENCES = tuple(np.linspace(0.0, 1.0, RAYS).tolist())
MIDDLE = 0.3  # the preference that is reported between epochs
_BUMPS, _BUMP_SIZE = 9, 3.0  # of the preference; larger than the parts of a device's embedding
_WIDTH = 64
_FIRST_LOGITS = 1e-3  # size of the logits before training, so that all operations begin alike


@dataclass(frozen=True, eq=False)
class ConditionedDevice:
    """A device as the hypernetwork knows it: ``cost`` gives the latency of N networks, ``embedding_D`` describes it,
    and ``reference`` is the expected latency of a network drawn uniformly."""

    name: str
    cost: resource.Cost
    embedding_D: Floats
    reference: float

    @staticmethod
    def of(space: RelaxedSpace, name: str, cost: resource.Cost) -> ConditionedDevice:
        """The latencies of ``PROBES`` networks, the same on all devices, as logarithms of shares of their mean. Units
        and speed of a device have no part in it."""
        genes_NG = probe_networks(space)
        ms_N = np.maximum(cost(genes_NG), 1e-9)
        uniform_EO, generator = space.relaxation.uniform, np.random.default_rng(0)
        reference = resource.expected(space, cost, uniform_EO, generator, 8).mean
        return ConditionedDevice(name, cost, np.log(ms_N / ms_N.mean()), max(reference, 1e-9))


def probe_networks(space: RelaxedSpace) -> Genes:
    """``PROBES`` random networks of a space, by a fixed seed, shape (N, G)."""
    return space.canonical(sample(space.decisions, np.random.default_rng(21), PROBES))


def latency_weight(preference: float) -> float:
    """How much latency counts in the loss beside accuracy, for a preference from 0 (accuracy) to 1 (latency). Squared:
    most trade-offs lie where latency counts little."""
    return preference**2


class Hypernetwork(nn.Module):
    """Logits (E, O) from a preference, 0 to 1, and the embedding of a device, shape (D,). A preference is given as
    bumps around fixed ones, so that far preferences share little, as the embeddings of the paper do."""

    def __init__(self, shape: tuple[int, int], seed: int) -> None:
        super().__init__()
        self.shape = shape
        self.register_buffer("centres", torch.linspace(0.0, 1.0, _BUMPS))
        self.centres: Tensor
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, Stream.ARCHITECTURE_PARAMETERS))
            self.hidden = nn.Sequential(nn.Linear(_BUMPS + PROBES, _WIDTH), nn.Tanh())
            self.logits = nn.Linear(_WIDTH, shape[0] * shape[1])
            nn.init.normal_(self.logits.weight, std=_FIRST_LOGITS)
            nn.init.zeros_(self.logits.bias)

    def forward(self, preference: float, embedding_D: Floats) -> Tensor:
        """The logits, shape (E, O)."""
        bumps = torch.exp(-0.5 * ((preference - self.centres) * (_BUMPS - 1)) ** 2)
        device = torch.tensor(embedding_D.tolist()).to(bumps)
        out: Tensor = self.logits(self.hidden(torch.cat([_BUMP_SIZE * bumps, device]))).reshape(self.shape)
        return out


class Conditioning:
    """The hypernetwork under training, and the preference and device of the current step. It sets ``alphas``, logits of
    shape (E, O), and learns from their gradient."""

    def __init__(
        self,
        space: RelaxedSpace,
        devices: Sequence[ConditionedDevice],
        alphas: nn.Parameter,
        options: DartsParams,
        seed: int,
    ) -> None:
        """Raises ValueError without a device."""
        if not devices:
            raise ValueError("a hypernetwork is conditioned on devices: expected at least one")
        self.space, self.devices, self._alphas, self._options = space, tuple(devices), alphas, options
        self.net = Hypernetwork(space.relaxation.shape, seed).to(alphas.device)
        self._mask = torch.from_numpy(space.relaxation.mask).to(alphas.device)
        self._optimiser = torch.optim.Adam(
            self.net.parameters(), lr=options.hypernetwork_lr, weight_decay=options.alpha_weight_decay
        )
        self.choose(MIDDLE, self.devices[0])

    def draw(self, generator: np.random.Generator) -> None:
        """A uniform preference and device for the next step."""
        self.choose(float(generator.uniform()), self.devices[int(generator.integers(len(self.devices)))])

    def choose(self, preference: float, device: ConditionedDevice) -> None:
        """Set the logits to those of a preference on a device."""
        self.preference, self.device = preference, device
        with torch.no_grad():
            self._alphas.copy_(self.net(preference, device.embedding_D))

    def learn(self, gradient_EO: Tensor, generator: np.random.Generator) -> float:
        """A step of the hypernetwork by the gradient of the held-out loss with respect to the logits, and that of the
        expected latency; return the latter in shares of the device's reference."""
        alphas = self.net(self.preference, self.device.embedding_D)
        p = operation_weights.softmax(alphas, self._mask)
        cost = resource.expected(
            self.space,
            self.device.cost,
            p.detach().double().cpu().numpy(),
            generator,
            self._options.latency_samples,
        )
        latency = resource.differentiable(cost, p, self.space.relaxation.none) / self.device.reference
        weight = latency_weight(self.preference)
        loss = (1.0 - weight) * (alphas * gradient_EO.detach()).sum() + weight * latency
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self._optimiser.step()
        return cost.mean / self.device.reference

    def settle(self, is_within: Callable[[Genes], bool]) -> None:
        """Choose the preference of ``preference_within`` on the first device."""
        self.choose(preference_within(self.net, self.space, self.devices[0], is_within), self.devices[0])

    def fronts(self) -> list[Genes]:
        """The networks along all preferences, over all devices."""
        return [genes_G for device in self.devices for genes_G in front_of_device(self.net, self.space, device)]

    def tensors(self) -> Weights:
        """What a resumed search needs."""
        return {"hypernetwork": self.net.state_dict(), "hypernetwork_optimiser": self._optimiser.state_dict()}

    def load_tensors(self, tensors: Weights) -> None:
        """Inverse of ``tensors``; the logits stay."""
        self.net.load_state_dict(tensors["hypernetwork"])
        self._optimiser.load_state_dict(tensors["hypernetwork_optimiser"])


@torch.no_grad()
def network_of(net: Hypernetwork, space: RelaxedSpace, preference: float, device: ConditionedDevice) -> Genes:
    """The network that a preference gives on a device, shape (G,)."""
    return space.discretise(scores_of(net, space, preference, device))


@torch.no_grad()
def scores_of(net: Hypernetwork, space: RelaxedSpace, preference: float, device: ConditionedDevice) -> Floats:
    """Probabilities of operations for a preference on a device, shape (E, O)."""
    alphas = net(preference, device.embedding_D)
    mask = torch.from_numpy(space.relaxation.mask).to(alphas.device)
    scores: Floats = operation_weights.softmax(alphas, mask).double().cpu().numpy()
    return scores


def preference_within(
    net: Hypernetwork, space: RelaxedSpace, device: ConditionedDevice, is_within: Callable[[Genes], bool]
) -> float:
    """The least preference for latency whose network on a device ``is_within`` all bounds; 0 where none is."""
    return next((p for p in _PREFERENCES if is_within(network_of(net, space, p, device))), 0.0)


def front_of_device(net: Hypernetwork, space: RelaxedSpace, device: ConditionedDevice) -> Genes:
    """The distinct networks along ``RAYS`` preferences, most accurate first, shape (N, G). No training: seconds."""
    networks = [network_of(net, space, p, device) for p in _PREFERENCES]
    distinct = list(dict.fromkeys(tuple(genes_G.tolist()) for genes_G in networks))
    return np.array(distinct, dtype=np.int64)

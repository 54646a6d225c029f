"""Training of the graph network's members with torch; the only module of the predictors that imports it."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import astuple, dataclass

import numpy as np
import torch
from scipy.optimize import minimize

from nas.core.arch import Floats

LAYERS, UNITS, PENALTY, STEPS = 4, 16, 1.0, 40


@dataclass(frozen=True)
class MemberWeights:
    """The weights of one member: I inputs of a node to H units, L - 1 further rounds, biases, and the output."""

    first_IH: Floats
    later_LHH: Floats
    bias_LH: Floats
    outer_H: Floats
    offset: Floats

    @classmethod
    def draw(cls, inputs: int, rng: np.random.Generator) -> MemberWeights:
        """Weights of unit gain, no bias."""
        return cls(
            rng.normal(scale=1.0, size=(inputs, UNITS)),
            rng.normal(scale=UNITS**-0.5, size=(LAYERS - 1, UNITS, UNITS)),
            np.zeros((LAYERS, UNITS)),
            rng.normal(scale=UNITS**-0.5, size=UNITS),
            np.zeros(()),
        )


def train_member(
    mix_UU: Floats, nodes_UNI: Floats, presence_UN: Floats, target_N: Floats, weight_N: Floats, start: MemberWeights
) -> MemberWeights:
    """Weights that minimise the weighted squared error plus a penalty on their squares, after at most ``STEPS`` steps
    of L-BFGS from ``start``; the offset is not penalised. On one thread: more would only wait for each other."""
    with _one_thread():
        return _train(mix_UU, nodes_UNI, presence_UN, target_N, weight_N, start)


def _train(
    mix_UU: Floats, nodes_UNI: Floats, presence_UN: Floats, target_N: Floats, weight_N: Floats, start: MemberWeights
) -> MemberWeights:
    mix, nodes, presence, target, weight = map(torch.from_numpy, (mix_UU, nodes_UNI, presence_UN, target_N, weight_N))
    # What a node holds does not change: it is mixed once, before the first round's weights.
    mixed_inputs = _mix(mix, nodes)
    parts = astuple(start)
    shapes, sizes = [part.shape for part in parts], [math.prod(part.shape) for part in parts]

    def loss(flat: Floats) -> tuple[float, Floats]:
        leaf = torch.tensor(flat, requires_grad=True)
        first, later, bias, outer, offset = (
            part.reshape(shape) for part, shape in zip(torch.split(leaf, sizes), shapes, strict=True)
        )
        state = torch.tanh(mixed_inputs @ first + bias[0])
        for layer in range(1, LAYERS):
            state = torch.tanh(_mix(mix, (state * presence[:, :, None]) @ later[layer - 1]) + bias[layer])
        error = state[-1] @ outer + offset - target
        value = (0.5 * (weight * error.square()).sum() + 0.5 * PENALTY * leaf[:-1].square().sum()) / len(target)
        (slope,) = torch.autograd.grad(value, leaf)
        return value.item(), slope.numpy()

    flat = np.concatenate([part.ravel() for part in parts])
    best = minimize(loss, flat, jac=True, method="L-BFGS-B", options={"maxiter": STEPS}).x
    weights = np.split(best, np.cumsum(sizes)[:-1])
    return MemberWeights(*(part.reshape(shape) for part, shape in zip(weights, shapes, strict=True)))


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _mix(mix_UU: torch.Tensor, values_UNH: torch.Tensor) -> torch.Tensor:
    """The mean over what feeds each node, for all networks in one product."""
    return (mix_UU @ values_UNH.flatten(1)).reshape(values_UNH.shape)

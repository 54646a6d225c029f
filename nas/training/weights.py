"""What checkpoints of trainings hold, beside their position: tensors, states of optimisers and plain values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from torch import Tensor

TensorsByName = Mapping[str, "Tensor"]  # a module's ``state_dict``
OptimiserState = dict[str, object]  # an optimiser's ``state_dict``


class Weights(TypedDict, total=False):
    """A training writes the keys that it needs to resume; a finished one those of its network.

    ``net``: the supernet or network. ``optimiser``, ``teacher`` (a frozen supernet), ``head`` (an auxiliary
    classifier), ``projection`` (of features to a teacher's), ``blocks`` (maps of ``nas.training.stable_kd``),
    ``average`` (of weights, ``nas.training.recipe.weight_average``) and ``execution``
    (``nas.training.trainer.TrainingExecution`` as a record): of training by gradient descent. ``partition``: the router
    of a routed supernet, as JSON text; ``run`` and ``runs``: what gradient searches found
    (``nas.stages.gradient_runs``).

    Of a supernet ensemble: ``nets``, ``optimisers``, the routing ``table`` (R, M) and what balances it, ``added`` (M).
    Of gradient search: ``alphas``, ``betas``, ``mask``, ``entangled`` (whether nested operations share weights), the
    optimisers, and as records ``progress`` (``nas.training.gradient.progress.GradientProgress``) and ``rates``
    (``nas.training.gradient.rates.Rates``); ``hypernetwork`` and its optimiser where the architecture parameters
    come from one.
    """

    net: TensorsByName
    optimiser: OptimiserState
    teacher: TensorsByName
    head: TensorsByName
    projection: TensorsByName
    blocks: TensorsByName
    average: TensorsByName
    execution: Mapping[str, object]
    partition: str
    run: str
    runs: str
    nets: TensorsByName
    optimisers: list[OptimiserState]
    table: Tensor
    added: Tensor
    alphas: Tensor
    betas: Tensor
    mask: Tensor
    weight_optimiser: OptimiserState
    alpha_optimiser: OptimiserState
    progress: Mapping[str, object]
    rates: Mapping[str, float]
    entangled: bool
    hypernetwork: TensorsByName
    hypernetwork_optimiser: OptimiserState

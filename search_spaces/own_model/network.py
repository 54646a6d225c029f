"""The supernet of a user's model: the parent's weights, of which every network takes its part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from nas.core.arch import Arch
from nas.core.errors import InvalidInput
from nas.core.operators import BatchNormOp
from nas.importance import l2
from nas.importance.supernet import ModelSupernet
from nas.models.channels import ChannelAnalysis
from nas.models.execution import GraphExecution, GraphModule
from nas.models.graph import GraphNode, ModelGraph, WeightArrays
from nas.models.narrowing import NarrowedGraph
from search_spaces.own_model.choices import ElasticChoices

_PLANS = 64  # architectures whose narrowed graphs are kept


@dataclass(frozen=True)
class _Plan:
    """What one architecture computes, and which positions of which axes of the parent's parameters."""

    narrowed: NarrowedGraph
    execution: GraphExecution
    positions: tuple[tuple[str, int, Tensor], ...]


class OwnModelSupernet(ModelSupernet):
    """The parent's weights. Narrow networks keep the first units of each channel group in its order, which is part of
    the state; at first the order is that of the L2 norms of the units' weights."""

    def __init__(self, choices: ElasticChoices, weights: WeightArrays) -> None:
        super().__init__()
        self._choices, self._model = choices, choices.model
        self.parent = GraphModule(self._model.graph, weights)
        self._groups = [group.name for group in self._model.analysis.groups]
        for i, group in enumerate(self._model.analysis.groups):
            self.register_buffer(f"order_{i}", torch.arange(group.units))
        self._plans: dict[tuple[tuple[int, ...], torch.device], _Plan] = {}
        self.register_load_state_dict_post_hook(_forget_plans)  # type: ignore[no-untyped-call]
        self.sort_channels()

    def forward(self, x_BCHW: Tensor, arch: Arch) -> Tensor:
        """The outputs of ``arch``: logits (B, classes) of a classifier; several outputs are a tuple."""
        plan = self._plan(arch, x_BCHW.device)
        tensors = {value.name: self.parent.tensor(value.name) for value in plan.narrowed.graph.parameters}
        for name, axis, positions in plan.positions:
            tensors[name] = tensors[name].index_select(axis, positions)

        def normalise(node: GraphNode, x: Tensor) -> Tensor:
            assert isinstance(node.operator, BatchNormOp)
            mean, variance, *affine = (tensors[name] for name in node.operands[1:])
            scale, shift = affine or (None, None)
            if self.training:
                return F.batch_norm(x, None, None, scale, shift, training=True, eps=node.operator.eps)
            return F.batch_norm(x, mean, variance, scale, shift, eps=node.operator.eps)

        outputs: Tensor = plan.execution([x_BCHW], tensors, normalise, {})  # type: ignore[assignment]
        return outputs

    def subnet(self, arch: Arch) -> nn.Module:
        """A physically smaller module of this architecture with copied weights, for images of its resolution."""
        narrowed = self._choices.narrowed(arch, self.unit_order)
        module = GraphModule(narrowed.graph, narrowed.cut(self.weights)).train(self.training)
        return module.to(next(self.parent.parameters()).device)

    @property
    def graph(self) -> ModelGraph:
        """The parent's graph."""
        return self._model.graph

    @property
    def analysis(self) -> ChannelAnalysis:
        """Its channel groups."""
        return self._model.analysis

    @property
    def unit_order(self) -> dict[str, list[int]]:
        """By channel group, all of its units, the most important first."""
        return {name: self.get_buffer(f"order_{i}").tolist() for i, name in enumerate(self._groups)}

    def set_unit_order(self, order: Mapping[str, Sequence[int]]) -> None:
        """Let narrow networks keep the first units of ``order``. Groups that are not named keep theirs.

        Raises InvalidInput unless each names all units of a group once.
        """
        for name, units in order.items():
            if name not in self._groups:
                raise InvalidInput(f"expected one of the channel groups {self._groups}, got {name!r}")
            buffer = self.get_buffer(f"order_{self._groups.index(name)}")
            if sorted(units) != list(range(len(buffer))):
                raise InvalidInput(f"channel group {name!r}: expected its units 0 to {len(buffer) - 1}, each once")
            buffer.copy_(torch.tensor(list(units)))
        self.forget_plans()

    @property
    def weights(self) -> dict[str, NDArray[Any]]:
        """The present weights by the names of the graph's parameters."""
        names = self._model.graph.parameter_names
        return {name: self.parent.tensor(name).detach().cpu().numpy() for name in names}

    def sort_channels(self, trained: Sequence[Arch] = ()) -> None:
        """Order units by the L2 norm of their weights; the networks ``trained`` keep the units that they have."""
        graph, analysis = self._model.graph, self._model.analysis
        norms = l2.unit_scores(graph, self.weights, analysis, torch.empty(0))
        order: dict[str, list[int]] = {name: [] for name in self._groups}
        trained_counts = [self._choices.counts(arch) for arch in trained]
        for width in self._model.widths:
            ranked = width.ranked(self.unit_order)
            ends = sorted({*(counts[width] for counts in trained_counts if width in counts), len(ranked)})
            for start, end in zip([0, *ends], ends, strict=False):
                order[width.group] += sorted(ranked[start:end], key=lambda unit: -float(norms[width.group][unit]))
        for name, units in self.unit_order.items():
            order[name] += [unit for unit in units if unit not in order[name]]
        self.set_unit_order(order)

    def forget_plans(self) -> None:
        """Cut all networks anew."""
        self._plans.clear()

    def _plan(self, arch: Arch, device: torch.device) -> _Plan:
        key = (arch.genes, device)
        plan = self._plans.get(key)
        if plan is None:
            if len(self._plans) >= _PLANS:
                self._plans.clear()
            plan = self._plans[key] = self._make_plan(arch, device)
        return plan

    def _make_plan(self, arch: Arch, device: torch.device) -> _Plan:
        narrowed = self._choices.narrowed(arch, self.unit_order)
        with torch.inference_mode(False):
            positions = tuple(
                (name, axis, torch.from_numpy(places).to(device)) for (name, axis), places in narrowed.positions.items()
            )
        return _Plan(narrowed, GraphExecution(narrowed.graph), positions)


def _forget_plans(net: nn.Module, _: object) -> None:
    """Orders of units may have been loaded."""
    assert isinstance(net, OwnModelSupernet)
    net.forget_plans()

"""The supernet of the DARTS cell space: every edge of every cell holds all operations.

The relaxation equals the plain sum over edges of weighted operations, without its repeated work (see
``benchmarks.darts_step``). A state is rectified, pooled and normalised once for all edges that leave it, since these
differ in their weights only. Weights of convolutions are the scales of the batch norm after them. A dilated convolution
is a plain one on the four images of every other row and column ("quarters"), for which torch has much faster kernels;
its output stays in quarters up to its node.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from nas.core.arch import Arch
from nas.supernet import RelaxedSupernet, edges_of_cell
from search_spaces.darts_cell.cell import (
    AVG,
    DIL3,
    DIL5,
    EDGES,
    KINDS,
    MAX,
    NODES,
    OPERATIONS,
    RELAXATION,
    SEP3,
    SEP5,
    SKIP,
    CellPlan,
    NodeInputs,
    node_inputs,
)
from search_spaces.darts_cell.operations import (
    FactorizedReduction,
    Norm,
    ReluConvNorm,
    SeparableConv,
    from_quarters,
    normalised,
    plain_conv,
    plain_norm,
    pool,
    to_quarters,
)
from search_spaces.darts_cell.subnet import DartsSubnet, DartsSubnetCell
from search_spaces.layers.channel_shuffle import shuffled

Tensor = torch.Tensor
CONVS = (DIL3, DIL5, SEP3, SEP5)


class DartsSuperCell(nn.Module):
    """A cell with all operations on every edge; computes a network's, or the relaxation."""

    def __init__(self, plan: CellPlan, evaluation: bool, operations: Sequence[int]) -> None:
        """``operations``: those that an edge may carry."""
        super().__init__()
        self.plan, self.evaluation = plan, evaluation
        c = plan.channels

        def norm() -> Norm:
            return Norm(c, evaluation)

        self.older = (
            FactorizedReduction(plan.c_older, c, plan.halve, norm())
            if plan.halve
            else ReluConvNorm(plan.c_older, c, norm())
        )
        self.newer = ReluConvNorm(plan.c_newer, c, norm())
        self.operations = nn.ModuleDict()
        for e, (a, _) in enumerate(EDGES):
            s = plan.stride(a)
            for op in (MAX, AVG) if not evaluation else ():
                if op in operations:
                    self.operations[f"{e}-{op}"] = norm()
            if s == 2 and SKIP in operations:
                self.operations[f"{e}-{SKIP}"] = FactorizedReduction(c, c, (plan.height, plan.width), norm())
            for op, kernel in ((o, k) for o, k in ((DIL3, 3), (DIL5, 5)) if o in operations):
                self.operations[f"{e}-{op}"] = SeparableConv(c, kernel, s, 2, norm())
            for op, kernel in ((o, k) for o, k in ((SEP3, 3), (SEP5, 5)) if o in operations):
                self.operations[f"{e}-{op}"] = nn.Sequential(
                    SeparableConv(c, kernel, s, 1, norm()), SeparableConv(c, kernel, 1, 1, norm())
                )

    def cell_inputs(self, older: Tensor, newer: Tensor) -> list[Tensor]:
        """The first two states."""
        return [self.older(older), self.newer(newer)]

    def forward(self, older: Tensor, newer: Tensor, inputs: Sequence[Sequence[tuple[int, int]]]) -> Tensor:
        """(B, 4C, H, W); ``inputs`` are the states and operations of each node."""
        states = self.cell_inputs(older, newer)
        for node, of_node in enumerate(inputs):
            terms = [self._operation(EDGES.index((a, node)), op, states[a]) for a, op in of_node]
            states.append(functools.reduce(torch.add, terms))
        return torch.cat(states[2:], dim=1)

    def _operation(self, edge: int, op: int, x: Tensor) -> Tensor:
        s = self.plan.stride(EDGES[edge][0])
        if op in (MAX, AVG):
            pooled = pool(x, op, s)
            return pooled if self.evaluation else self.operations[f"{edge}-{op}"](pooled)
        if op == SKIP and s == 1:
            return x
        out: Tensor = self.operations[f"{edge}-{op}"](x)
        return out

    def cut(self, inputs: Sequence[Sequence[tuple[int, int]]]) -> DartsSubnetCell:
        """A network's cell as plain modules."""
        operations: dict[str, nn.Module] = {}
        names: list[list[tuple[int, str]]] = []
        for node, of_node in enumerate(inputs):
            names.append([])
            for a, op in of_node:
                edge, s = EDGES.index((a, node)), self.plan.stride(a)
                is_alone = [state for state, _ in of_node].count(a) == 1
                name = f"state{a}_node{node}" + ("" if is_alone else f"_{OPERATIONS[op]}")
                names[-1].append((a, name))
                if op in (MAX, AVG):
                    plain = nn.MaxPool2d(3, s, 1) if op == MAX else nn.AvgPool2d(3, s, 1, count_include_pad=False)
                    norms = [] if self.evaluation else [plain_norm(self.operations[f"{edge}-{op}"])]
                    operations[name] = nn.Sequential(plain, *norms)
                elif op == SKIP and s == 1:
                    operations[name] = nn.Identity()
                else:
                    operation = self.operations[f"{edge}-{op}"]
                    parts = list(operation) if isinstance(operation, nn.Sequential) else [operation]
                    operations[name] = nn.Sequential(
                        *(p.cut() for p in parts if isinstance(p, SeparableConv | FactorizedReduction))
                    )
        assert isinstance(self.older, FactorizedReduction | ReluConvNorm)
        return DartsSubnetCell(self.older.cut(), self.newer.cut(), operations, names)

    def disentangle(self) -> None:
        """Operations with 3x3 kernels take the centres of those with 5x5."""
        for e in range(len(EDGES)):
            for small, large in RELAXATION.nested:
                pair = (self.operations[f"{e}-{op}"] for op in (small, large))
                parts = [list(part) if isinstance(part, nn.Sequential) else [part] for part in pair]
                for smaller, larger in zip(*parts, strict=True):
                    assert isinstance(smaller, SeparableConv)
                    assert isinstance(larger, SeparableConv)
                    smaller.take_centre(larger)

    def mix(
        self,
        older: Tensor,
        newer: Tensor,
        weights_EO: Tensor,
        active: Sequence[Sequence[bool]],
        edges_E: Tensor | None,
        partial: int,
        entangled: bool,
    ) -> Tensor:
        """(B, 4C, H, W); see ``nas.supernet.RelaxedSupernet.mix`` and the head of this file."""
        if edges_E is not None and edges_E.ndim == 1:  # an edge's scale is that of all it carries
            weights_EO = weights_EO * edges_E[:, None]
        states = self.mixed_inputs(older, newer)
        nodes = [_Sum() for _ in range(NODES)]
        for a in range(NODES + 2):
            if a >= 2:
                states.append(nodes[a - 2].total(states[0], self.plan))
            if a < NODES + 1:
                leaving = [(e, node) for e, (start, node) in enumerate(EDGES) if start == a]
                self._spread(
                    states[a], self.plan.stride(a), leaving, nodes, weights_EO, active, edges_E, partial, entangled
                )
        return torch.cat(states[2:], dim=1)

    def mixed_inputs(self, older: Tensor, newer: Tensor) -> list[Tensor]:
        """The first two states of the relaxation."""
        c = self.plan.channels
        out = []
        for part, x in ((self.older, older), (self.newer, newer)):
            if isinstance(part, FactorizedReduction):
                halves = [part.even(r := F.relu(x)), part.odd(part.one_on(r))]
                out.append(normalised(torch.cat(halves, dim=1)))
            else:
                assert isinstance(part, ReluConvNorm)
                out.append(normalised(part[1](F.relu(x))))
        assert out[0].shape[1] == c
        return out

    def _spread(
        self,
        state: Tensor,
        stride: int,
        leaving: Sequence[tuple[int, int]],
        nodes: Sequence[_Sum],
        weights_EO: Tensor,
        active: Sequence[Sequence[bool]],
        edges_E: Tensor | None,
        partial: int,
        entangled: bool,
    ) -> None:
        """Adds to the nodes what a state gives them."""
        c = state.shape[1]
        x = state[:, : c // partial] if partial > 1 else state
        unmixed = state[:, c // partial :]
        if partial > 1 and stride == 2:
            unmixed = F.max_pool2d(unmixed, 2, 2, ceil_mode=True)
        by_image = edges_E is not None and edges_E.ndim == 2
        is_apart = partial > 1 or by_image
        mine = {node: _Sum() if is_apart else nodes[node] for _, node in leaving}
        self._shared(x, stride, leaving, mine, weights_EO, active)
        terms = {e: _convolutions(e, weights_EO, active, entangled) for e, _ in leaving}
        needed = {op for e in terms for op, *_ in terms[e]} | {SKIP for e, _ in leaving if active[e][SKIP]}
        rectified = F.relu(x) if needed else x
        even = x.shape[2] % 2 == 0 and x.shape[3] % 2 == 0
        quarters = None
        if (DIL3 in needed or DIL5 in needed) and even:
            quarters = rectified[:, :, ::2, ::2].contiguous(memory_format=torch.channels_last) if stride == 2 else None
            quarters = to_quarters(rectified) if stride == 1 else quarters
        for e, node in leaving:
            for op, scale, share in terms[e]:
                part = self.operations[f"{e}-{op}"]
                if isinstance(part, SeparableConv):  # dilated
                    if quarters is None:
                        mine[node].add(part.scaled(rectified, scale, stride, 2, share))
                    elif stride == 2:
                        mine[node].add(part.scaled(quarters, scale, 1, 1, share))
                    else:
                        mine[node].add_quarters(part.scaled(quarters, scale, 1, 1, share))
                else:
                    assert isinstance(part, nn.Sequential)
                    first, second = part
                    assert isinstance(first, SeparableConv)
                    assert isinstance(second, SeparableConv)
                    y = F.relu(first.scaled(rectified, None, stride, 1, share))
                    mine[node].add(second.scaled(y, scale, 1, 1, share))
            if active[e][SKIP] and stride == 2:
                part = self.operations[f"{e}-{SKIP}"]
                assert isinstance(part, FactorizedReduction)
                mine[node].add(part.scaled(rectified, weights_EO[e, SKIP]))
        for e, node in leaving if is_apart else ():
            total = mine[node].total(x, self.plan, stride)
            if partial > 1:
                assert edges_E is not None
                total = shuffled(torch.cat([total, unmixed if by_image else edges_E[e] * unmixed], dim=1), partial)
            nodes[node].add(edges_E[e].reshape(-1, 1, 1, 1) * total if by_image and edges_E is not None else total)

    def _shared(
        self,
        x: Tensor,
        stride: int,
        leaving: Sequence[tuple[int, int]],
        nodes: dict[int, _Sum],
        weights_EO: Tensor,
        active: Sequence[Sequence[bool]],
    ) -> None:
        """Pools and identity, which are the same for all edges that leave a state."""
        ops = [op for op in (MAX, AVG, SKIP) if any(active[e][op] for e, _ in leaving) and (op != SKIP or stride == 1)]
        if not ops:
            return
        outputs = []
        for op in ops:
            y = x if op == SKIP else pool(x, op, stride)
            outputs.append(y if op == SKIP or self.evaluation else normalised(y))
        rows = torch.tensor([e for e, _ in leaving], device=x.device)
        active_LK = torch.tensor([[active[e][op] for op in ops] for e, _ in leaving], device=x.device)
        mixed_LK = weights_EO[rows][:, torch.tensor(ops, device=x.device)] * active_LK
        stacked_KN = torch.stack([y.permute(0, 2, 3, 1) for y in outputs]).flatten(1)
        b, c, h, w = outputs[0].shape
        out_LBHWC = (mixed_LK @ stacked_KN).view(len(leaving), b, h, w, c)
        for (_, node), y in zip(leaving, out_LBHWC.unbind(), strict=True):
            nodes[node].add(y.permute(0, 3, 1, 2))


def _convolutions(
    edge: int, weights_EO: Tensor, active: Sequence[Sequence[bool]], entangled: bool
) -> list[tuple[int, Tensor, Tensor | None]]:
    """The convolutions of an edge: each with its scale, and with its share of the kernel where it is entangled with the
    smaller one."""
    if not entangled:
        return [(op, weights_EO[edge, op], None) for op in CONVS if active[edge][op]]
    terms: list[tuple[int, Tensor, Tensor | None]] = []
    for small, large in RELAXATION.nested:
        if active[edge][small] or active[edge][large]:
            small_weight, large_weight = (weights_EO[edge, op] * float(active[edge][op]) for op in (small, large))
            total = small_weight + large_weight
            terms.append((large, total, large_weight / total.clamp_min(1e-12)))
    return terms


class _Sum:
    """The running sum of a node, in its own pixels and in quarters."""

    def __init__(self) -> None:
        self._own: Tensor | None = None
        self._quarters: Tensor | None = None

    def add(self, x: Tensor) -> None:
        """In the node's pixels."""
        self._own = x if self._own is None else self._own + x

    def add_quarters(self, x: Tensor) -> None:
        """In quarters."""
        self._quarters = x if self._quarters is None else self._quarters + x

    def total(self, like: Tensor, plan: CellPlan, stride: int | None = None) -> Tensor:
        """All of it; zeros of the node's shape where there was nothing. ``like`` is an input of the cell."""
        if self._quarters is not None:
            self.add(from_quarters(self._quarters))
            self._quarters = None
        if self._own is None:
            s = plan.stride(0) if stride is None else stride
            return torch.zeros_like(like[:, :, ::s, ::s])
        return self._own


@dataclass(frozen=True)
class CellLayout:
    """What is chosen in the cells of a supernet. ``operations`` that edges may carry; ``groups``: of each cell; those
    of one group share 14 rows of a relaxation; ``inputs_of``: what the nodes of each cell add up in one network."""

    operations: tuple[int, ...]
    groups: tuple[int, ...]
    inputs_of: Callable[[Arch], Sequence[NodeInputs]]


def two_inputs(plans: Sequence[CellPlan]) -> CellLayout:
    """That of the space of DARTS: cells of a kind are equal, and every node has two inputs."""
    groups = tuple(KINDS.index(plan.kind) for plan in plans)

    def inputs_of(arch: Arch) -> list[NodeInputs]:
        by_kind = {kind: node_inputs(arch.genes, kind) for kind in KINDS}
        return [by_kind[plan.kind] for plan in plans]

    return CellLayout(tuple(range(1, len(OPERATIONS))), groups, inputs_of)


class DartsSupernet(RelaxedSupernet):
    """Weights of every network of the space; see ``nas.supernet`` for the contract. Mixtures are normalised by their
    batch, whatever the mode."""

    def __init__(
        self,
        plans: Sequence[CellPlan],
        channels: int,
        classes: int,
        evaluation: bool,
        seed: int,
        layout: CellLayout | None = None,
    ) -> None:
        """``layout``: None for that of the space of DARTS."""
        super().__init__()
        self.layout = two_inputs(plans) if layout is None else layout
        width = plans[0].c_newer
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.stem = nn.Sequential(plain_conv(channels, width, 3, padding=1), Norm(width, affine=True))
            self.cells = nn.ModuleList(DartsSuperCell(plan, evaluation, self.layout.operations) for plan in plans)
            self.classifier = nn.Linear(NODES * plans[-1].channels, classes)

    def forward(self, x_BCHW: Tensor, arch: Arch) -> Tensor:
        """(B, C, H, W) -> (B, classes), by the weights of ``arch`` alone."""
        older = newer = self.stem(x_BCHW)
        for cell, inputs in zip(self.cells, self.layout.inputs_of(arch), strict=True):
            older, newer = newer, cell(older, newer, inputs)
        logits: Tensor = self.classifier(newer.mean((2, 3)))
        return logits

    def mix(
        self,
        x_BCHW: Tensor,
        weights_EO: Tensor,
        *,
        active_EO: Tensor | None = None,
        edges_E: Tensor | None = None,
        partial: int = 1,
        entangled: bool = False,
    ) -> Tensor:
        """(B, C, H, W) -> (B, classes): cells of each group are mixed by their 14 rows of ``weights_EO``, (E, 8)."""
        mask_EO = torch.zeros_like(weights_EO, dtype=torch.bool)
        mask_EO[:, list(self.layout.operations)] = True
        active = (mask_EO if active_EO is None else mask_EO & active_EO.bool()).tolist()
        conv, norm = self.stem
        assert isinstance(norm, Norm)
        stem = F.batch_norm(conv(x_BCHW), None, None, norm.weight, norm.bias, training=True)
        older = newer = stem
        n = len(EDGES)
        for i, (cell, k) in enumerate(zip(self.cells, self.layout.groups, strict=True)):
            assert isinstance(cell, DartsSuperCell)
            rows = slice(k * n, (k + 1) * n)
            edges = None if edges_E is None else edges_of_cell(edges_E[rows], i)
            older, newer = newer, cell.mix(older, newer, weights_EO[rows], active[rows], edges, partial, entangled)
        logits: Tensor = self.classifier(newer.mean((2, 3)))
        return logits

    def disentangle(self) -> None:
        """Operations with 3x3 kernels take the centres of those with 5x5."""
        for cell in self.cells:
            assert isinstance(cell, DartsSuperCell)
            cell.disentangle()

    def widen(self, before: int, after: int) -> None:
        """See ``nas.supernet.RelaxedSupernet.widen``."""
        for cell in self.cells:
            assert isinstance(cell, DartsSuperCell)
            c = cell.plan.channels
            for part in cell.operations.modules():
                if isinstance(part, FactorizedReduction | SeparableConv):
                    part.widen(c // before, c // after)

    def subnet(self, arch: Arch) -> nn.Module:
        """A stand-alone network with copied weights."""
        conv, norm = self.stem
        assert isinstance(conv, nn.Conv2d)
        stem = plain_conv(conv.in_channels, conv.out_channels, 3, padding=1)
        stem.load_state_dict(conv.state_dict())
        classifier = nn.Linear(self.classifier.in_features, self.classifier.out_features)
        classifier.load_state_dict(self.classifier.state_dict())
        cells = [cell for cell in self.cells if isinstance(cell, DartsSuperCell)]
        inputs = self.layout.inputs_of(arch)
        plain_cells: list[nn.Module] = [cell.cut(of_cell) for cell, of_cell in zip(cells, inputs, strict=True)]
        plain = DartsSubnet(nn.Sequential(stem, plain_norm(norm)), plain_cells, classifier, cells[-1].plan.after)
        return plain.to(conv.weight.device).train(self.training)

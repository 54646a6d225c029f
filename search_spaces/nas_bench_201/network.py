"""The supernet of the NAS-Bench-201 space: every edge of every cell holds all five operations."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from nas.core.arch import Arch, Genes
from nas.supernet import RelaxedSupernet, edges_of_cell
from search_spaces.layers.batch_norm import ElasticBatchNorm
from search_spaces.layers.channel_shuffle import shuffled
from search_spaces.layers.convolution import ElasticConv
from search_spaces.layers.entangled import centre, entangled_kernel
from search_spaces.layers.linear import ElasticLinear
from search_spaces.layers.widening import repeat_channels
from search_spaces.nas_bench_201.cell import CONV1, CONV3, EDGES, NODES, NONE, POOL, SKIP


class ConvNorm(nn.Module):
    """(ReLU,) convolution, batch norm; ``norm`` and ``relu`` can be left out."""

    def __init__(
        self, c_in: int, c_out: int, kernel: int, stride: int = 1, *, relu: bool = True, norm: bool = True
    ) -> None:
        super().__init__()
        self.c_in, self.c_out, self.relu = c_in, c_out, relu
        self.conv = ElasticConv(c_in, c_out, kernel, stride)
        self.norm = ElasticBatchNorm(c_out) if norm else None

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """(B, c_in, H, W) -> (B, c_out, H/stride, W/stride)."""
        y: torch.Tensor = self.conv(F.relu(x_BCHW) if self.relu else x_BCHW, self.c_out)
        return y if self.norm is None else self.norm(y)

    def cut(self) -> nn.Sequential:
        """Copies as plain modules."""
        parts: list[nn.Module] = [nn.ReLU()] if self.relu else []
        parts.append(self.conv.cut(self.c_in, self.c_out))
        if self.norm is not None:
            parts.append(self.norm.cut(self.c_out))
        return nn.Sequential(*parts)


class Reduction(nn.Module):
    """Residual block of stride 2 between two stages."""

    def __init__(self, body: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.body, self.shortcut = body, shortcut

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, 2C, H/2, W/2)."""
        pooled = F.avg_pool2d(x_BCHW, 2, 2, ceil_mode=True, count_include_pad=False)
        out: torch.Tensor = self.body(x_BCHW) + self.shortcut(pooled)
        return out

    def cut(self) -> Reduction:
        """Copies as plain modules."""
        assert isinstance(self.body, nn.Sequential)
        assert isinstance(self.shortcut, ConvNorm)
        plain = [part.cut() for part in self.body if isinstance(part, ConvNorm)]
        return Reduction(nn.Sequential(*plain), self.shortcut.cut())


def _pool(x_BCHW: torch.Tensor) -> torch.Tensor:
    return F.avg_pool2d(x_BCHW, 3, 1, 1, count_include_pad=False)


def _side_by_side(
    parts: Sequence[nn.Module],
    rectified_BCHW: torch.Tensor,
    scales_N: torch.Tensor,
    shares_N: torch.Tensor | None = None,
) -> tuple[torch.Tensor, ...]:
    """Outputs of N convolutions of one kind on the same input, as one convolution; normalised without scale and shift,
    then times ``scales_N``. ``shares_N``: of the kernels, where they are entangled with those of 1x1."""
    convs = [part for part in parts if isinstance(part, ConvNorm) and part.norm is not None]
    c = rectified_BCHW.shape[1]
    weight = torch.cat([part.conv.weight[:c, :c] for part in convs])
    if shares_N is not None:
        weight = entangled_kernel(weight, 1, shares_N.repeat_interleave(c)[:, None, None, None])
    y = F.conv2d(rectified_BCHW, weight, padding=convs[0].conv.kernel // 2)
    norms = [part.norm for part in convs if part.norm is not None]
    running: tuple[torch.Tensor | None, torch.Tensor | None] = None, None
    if not parts[0].training:
        running = (torch.cat([n.running_mean[:c] for n in norms]), torch.cat([n.running_var[:c] for n in norms]))
    scales = scales_N.repeat_interleave(c)
    y = F.batch_norm(y, *running, scales, None, training=parts[0].training, eps=norms[0].eps)
    return torch.split(y, c, dim=1)


class Nb201SuperCell(nn.Module):
    """A cell with all operations on every edge; computes one of them, or the relaxation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.ModuleList(ConvNorm(channels, channels, 1) for _ in EDGES)
        self.conv3 = nn.ModuleList(ConvNorm(channels, channels, 3) for _ in EDGES)

    def operation(self, edge: int, op: int, x_BCHW: torch.Tensor) -> torch.Tensor:
        """The output of an operation on an edge; same shape as its input."""
        if op == NONE:
            return torch.zeros_like(x_BCHW)
        if op == SKIP:
            return x_BCHW
        if op == POOL:
            return _pool(x_BCHW)
        out: torch.Tensor = (self.conv1 if op == CONV1 else self.conv3)[edge](x_BCHW)
        return out

    def forward(self, x_BCHW: torch.Tensor, genes: Sequence[int]) -> torch.Tensor:
        """Same shape; ``genes`` are canonical."""
        nodes: list[torch.Tensor | None] = [x_BCHW, *[None] * (NODES - 1)]
        for e, (a, b) in enumerate(EDGES):
            source = nodes[a]
            if genes[e] != NONE and source is not None:
                output, total = self.operation(e, genes[e], source), nodes[b]
                nodes[b] = output if total is None else total + output
        last = nodes[-1]
        return torch.zeros_like(x_BCHW) if last is None else last

    def mix(
        self,
        x_BCHW: torch.Tensor,
        weights_EO: torch.Tensor,
        active: Sequence[Sequence[bool]],
        edges_E: torch.Tensor | None,
        partial: int,
        entangled: bool,
    ) -> torch.Tensor:
        """Same shape; see ``nas.supernet.RelaxedSupernet.mix``. Edges that begin in the same node share its rectified
        and its pooled state, and one convolution of each kind."""
        nodes: list[torch.Tensor] = [x_BCHW, *[torch.zeros_like(x_BCHW)] * (NODES - 1)]
        for a in range(NODES - 1):
            leaving = [e for e, (begin, _) in enumerate(EDGES) if begin == a]
            for e, mixed in self._mixed(leaving, nodes[a], weights_EO, active, partial, entangled).items():
                b = EDGES[e][1]
                nodes[b] = nodes[b] + (mixed if edges_E is None else edges_E[e].reshape(-1, 1, 1, 1) * mixed)
        return nodes[-1]

    def _mixed(
        self,
        edges: Sequence[int],
        x_BCHW: torch.Tensor,
        weights_EO: torch.Tensor,
        active: Sequence[Sequence[bool]],
        partial: int,
        entangled: bool,
    ) -> dict[int, torch.Tensor]:
        """The mixed output of each edge that leaves one node; edges without active operations are left out."""
        part, unmixed = x_BCHW[:, : x_BCHW.shape[1] // partial], x_BCHW[:, x_BCHW.shape[1] // partial :]
        terms: dict[int, list[torch.Tensor]] = {e: [] for e in edges}
        rectified = F.relu(part)
        if entangled:
            self._add_entangled(terms, rectified, weights_EO, active)
        for op, convs in () if entangled else ((CONV1, self.conv1), (CONV3, self.conv3)):
            if on := [e for e in edges if active[e][op]]:
                outputs = _side_by_side([convs[e] for e in on], rectified, weights_EO[on, op])
                for e, output in zip(on, outputs, strict=True):
                    terms[e].append(output)
        pooled = _pool(part) if any(active[e][POOL] for e in edges) else part
        for e in edges:
            terms[e] += [weights_EO[e, op] * x for op, x in ((SKIP, part), (POOL, pooled)) if active[e][op]]
        totals = {e: functools.reduce(torch.add, of) for e, of in terms.items() if of}
        if partial == 1:
            return totals
        zeros = torch.zeros_like(part)
        return {e: shuffled(torch.cat([totals.get(e, zeros), unmixed], dim=1), partial) for e in edges}

    def _add_entangled(
        self,
        terms: dict[int, list[torch.Tensor]],
        rectified: torch.Tensor,
        weights_EO: torch.Tensor,
        active: Sequence[Sequence[bool]],
    ) -> None:
        """Adds to the terms of each edge its two convolutions as one with their mean kernel."""
        on = [e for e in terms if active[e][CONV1] or active[e][CONV3]]
        if not on:
            return
        computed = torch.tensor([[active[e][op] for op in (CONV1, CONV3)] for e in on], device=weights_EO.device)
        weights_N2 = weights_EO[on][:, [CONV1, CONV3]] * computed
        scales_N = weights_N2.sum(dim=1)
        shares_N = weights_N2[:, 1] / scales_N.clamp_min(1e-12)
        outputs = _side_by_side([self.conv3[e] for e in on], rectified, scales_N, shares_N)
        for e, output in zip(on, outputs, strict=True):
            terms[e].append(output)

    @torch.no_grad()
    def disentangle(self) -> None:
        """1x1 convolutions become the centres of those of 3x3."""
        for small, large in zip(self.conv1, self.conv3, strict=True):
            assert isinstance(small, ConvNorm)
            assert isinstance(large, ConvNorm)
            small.conv.weight.copy_(centre(large.conv.weight, 1))

    def cut(self, genes: Sequence[int]) -> Nb201SubnetCell:
        """One cell as plain modules; ``genes`` are canonical."""
        operations: dict[str, nn.Module] = {}
        for e, (a, b) in enumerate(EDGES):
            name, op = f"edge{a}{b}", genes[e]
            if op == SKIP:
                operations[name] = nn.Identity()
            elif op == POOL:
                operations[name] = nn.AvgPool2d(3, 1, 1, count_include_pad=False)
            elif op != NONE:
                part = (self.conv1 if op == CONV1 else self.conv3)[e]
                assert isinstance(part, ConvNorm)
                operations[name] = part.cut()
        return Nb201SubnetCell(operations)


class Nb201SubnetCell(nn.Module):
    """A plain cell: the operations that are there, by the name of their edge."""

    def __init__(self, operations: dict[str, nn.Module]) -> None:
        super().__init__()
        self.operations = nn.ModuleDict(operations)

    def paths(self) -> list[nn.Module]:
        """The operations that path dropping may drop (``nas.training.regularise``): all but identities."""
        return [op for op in self.operations.values() if not isinstance(op, nn.Identity)]

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """Same shape."""
        nodes: dict[int, torch.Tensor] = {0: x_BCHW}
        for a, b in EDGES:
            if (name := f"edge{a}{b}") in self.operations:
                output = self.operations[name](nodes[a])
                nodes[b] = nodes[b] + output if b in nodes else output
        return nodes[NODES - 1] if NODES - 1 in nodes else x_BCHW * 0.0


class NasBench201Supernet(RelaxedSupernet):
    """Weights of every network of the space; see ``nas.supernet`` for the contract.

    ``widths``: channels of each stage, of ``cells`` each; ``canonical`` sets inactive genes to ``none``.
    """

    def __init__(
        self,
        channels: int,
        widths: Sequence[int],
        cells: int,
        classes: int,
        canonical: Callable[[Genes], Genes],
        seed: int,
    ) -> None:
        super().__init__()
        self.canonical = canonical
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.stem = ConvNorm(channels, widths[0], 3, relu=False)
            self.stages = nn.ModuleList(nn.ModuleList(Nb201SuperCell(c) for _ in range(cells)) for c in widths)
            self.reductions = nn.ModuleList(
                Reduction(
                    nn.Sequential(ConvNorm(c, 2 * c, 3, 2), ConvNorm(2 * c, 2 * c, 3)),
                    ConvNorm(c, 2 * c, 1, relu=False, norm=False),
                )
                for c in widths[:-1]
            )
            self.norm = ElasticBatchNorm(widths[-1])
            self.classifier = ElasticLinear(widths[-1], classes)

    def forward(self, x_BCHW: torch.Tensor, arch: Arch) -> torch.Tensor:
        """(B, C, H, W) -> (B, classes), by the weights of ``arch`` alone."""
        genes = self._genes(arch)
        return self._through(x_BCHW, lambda cell, x: cell(x, genes))

    def mix(
        self,
        x_BCHW: torch.Tensor,
        weights_EO: torch.Tensor,
        *,
        active_EO: torch.Tensor | None = None,
        edges_E: torch.Tensor | None = None,
        partial: int = 1,
        entangled: bool = False,
    ) -> torch.Tensor:
        """(B, C, H, W) -> (B, classes): every edge of every cell is mixed by ``weights_EO`` of shape (6, 5)."""
        active = (torch.ones_like(weights_EO) if active_EO is None else active_EO).bool().tolist()
        number = itertools.count()

        def mix_cell(cell: Nb201SuperCell, x: torch.Tensor) -> torch.Tensor:
            edges = edges_of_cell(edges_E, next(number))
            return cell.mix(x, weights_EO, active, edges, partial, entangled)

        return self._through(x_BCHW, mix_cell)

    def disentangle(self) -> None:
        """1x1 convolutions become the centres of those of 3x3."""
        for module in self.modules():
            if isinstance(module, Nb201SuperCell):
                module.disentangle()

    def widen(self, before: int, after: int) -> None:
        """See ``nas.supernet.RelaxedSupernet.widen``."""
        for module in self.modules():
            if isinstance(module, Nb201SuperCell):
                for part in (*module.conv1, *module.conv3):
                    assert isinstance(part, ConvNorm)
                    c = part.c_out
                    repeat_channels(part.conv.weight, (c // before, c // before), (c // after, c // after))

    def subnet(self, arch: Arch) -> nn.Module:
        """A stand-alone network with copied weights."""
        genes = self._genes(arch)
        parts: list[nn.Module] = [self.stem.cut()]
        for s, cells in enumerate(self.stages):
            assert isinstance(cells, nn.ModuleList)
            if s > 0:
                reduction = self.reductions[s - 1]
                assert isinstance(reduction, Reduction)
                parts.append(reduction.cut())
            for cell in cells:
                assert isinstance(cell, Nb201SuperCell)
                parts.append(cell.cut(genes))
        width = self.classifier.in_features
        head = [self.norm.cut(width), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        classifier = self.classifier.cut(width, self.classifier.out_features)
        return nn.Sequential(*parts, *head, classifier).train(self.training)

    def _genes(self, arch: Arch) -> tuple[int, ...]:
        return tuple(int(g) for g in self.canonical(np.array([arch.genes]))[0])

    def _through(
        self, x_BCHW: torch.Tensor, compute: Callable[[Nb201SuperCell, torch.Tensor], torch.Tensor]
    ) -> torch.Tensor:
        y = self.stem(x_BCHW)
        for s, cells in enumerate(self.stages):
            assert isinstance(cells, nn.ModuleList)
            if s > 0:
                y = self.reductions[s - 1](y)
            for cell in cells:
                assert isinstance(cell, Nb201SuperCell)
                y = compute(cell, y)
        y_BC = F.relu(self.norm(y)).mean((2, 3))
        logits: torch.Tensor = self.classifier(y_BC, self.classifier.out_features)
        return logits

"""A step of differentiable search on the DARTS search network: ours against the plain formulation of the paper.

Batches have 16 images, with ``--full`` the paper's 64. Processor time in turns on one thread.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks._cli import Options, main
from nas.core.ports import ImageShape
from nas.peak_memory import peak_memory_bytes, reset_peak_memory
from search_spaces.darts_cell.cell import AVG, EDGES, KINDS, MAX, NONE, OPERATIONS, SKIP
from search_spaces.darts_cell.network import DartsSuperCell, DartsSupernet
from search_spaces.darts_cell.operations import FactorizedReduction, Norm, ReluConvNorm, SeparableConv
from search_spaces.darts_cell.space import build

Tensor = torch.Tensor
BATCH, FULL_BATCH = 16, 64
SHAPE = ImageShape(3, 32, 32, 10)


# The paper's sum over operations on every edge, operation by operation


def plain_mix(net: DartsSupernet, x: Tensor, weights_EO: Tensor) -> Tensor:
    """Logits of the relaxation: each edge computes each operation by itself, multiplies and adds."""
    conv, norm = net.stem
    assert isinstance(norm, Norm)
    older = newer = F.batch_norm(conv(x), None, None, norm.weight, norm.bias, training=True)
    for cell in net.cells:
        assert isinstance(cell, DartsSuperCell)
        rows = weights_EO[KINDS.index(cell.plan.kind) * len(EDGES) :]
        states = [_entry(cell.older, older), _entry(cell.newer, newer)]
        for node in range(4):
            total = torch.zeros((), device=x.device)
            for e, (a, end) in enumerate(EDGES):
                if end == node:
                    outputs = [rows[e, op] * _operation(cell, e, op, states[a]) for op in range(len(OPERATIONS))]
                    total = total + sum(outputs)
            states.append(total)
        older, newer = newer, torch.cat(states[2:], dim=1)
    logits: Tensor = net.classifier(F.adaptive_avg_pool2d(newer, 1).flatten(1))
    return logits


def _norm(x: Tensor) -> Tensor:
    return F.batch_norm(x, None, None, training=True)


def _entry(part: object, x: Tensor) -> Tensor:
    if isinstance(part, FactorizedReduction):
        return _factorized(part, x)
    assert isinstance(part, ReluConvNorm)
    return _norm(part[1](F.relu(x)))


def _factorized(part: FactorizedReduction, x: Tensor) -> Tensor:
    x = F.relu(x)
    return _norm(torch.cat([part.even(x), part.odd(part.one_on(x))], dim=1))


def _part(part: SeparableConv, x: Tensor) -> Tensor:
    return _norm(part.pointwise(part.depthwise(F.relu(x))))


def _operation(cell: DartsSuperCell, edge: int, op: int, x: Tensor) -> Tensor:
    s = cell.plan.stride(EDGES[edge][0])
    if op == NONE:
        return x.mul(0.0) if s == 1 else x[:, :, ::s, ::s].mul(0.0)
    if op == MAX:
        return _norm(F.max_pool2d(x, 3, s, 1))
    if op == AVG:
        return _norm(F.avg_pool2d(x, 3, s, 1, count_include_pad=False))
    if op == SKIP and s == 1:
        return x
    module = cell.operations[f"{edge}-{op}"]
    if isinstance(module, FactorizedReduction):
        return _factorized(module, x)
    if isinstance(module, SeparableConv):
        return _part(module, x)
    assert isinstance(module, torch.nn.Sequential)
    for part in module:
        assert isinstance(part, SeparableConv)
        x = _part(part, x)
    return x


# One step: the architecture parameters on held-out images, then the weights


class StepBench:
    """A supernet, its architecture parameters, their optimisers and two batches of ``batch`` images, on a device."""

    def __init__(self, product: bool, batch: int, device: str = "cpu") -> None:
        self.product = product
        generator = torch.Generator().manual_seed(0)
        net = build({"preset": "search"}, SHAPE).supernet(0).to(device)
        assert isinstance(net, DartsSupernet)
        self.net = net.train()
        alphas = 1e-3 * torch.randn(2 * len(EDGES), len(OPERATIONS), generator=generator)
        self.alphas = alphas.to(device).requires_grad_(True)
        self.batches = [
            (torch.randn(batch, 3, 32, 32, generator=generator), torch.randint(10, (batch,), generator=generator))
            for _ in range(2)
        ]
        self.batches = [(x.to(device), y.to(device)) for x, y in self.batches]
        if product:
            self.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            self.batches = [(x.contiguous(memory_format=torch.channels_last), y) for x, y in self.batches]
        self.weight_optimiser = torch.optim.SGD(net.parameters(), 0.025, 0.9, weight_decay=3e-4)
        self.alpha_optimiser = torch.optim.Adam([self.alphas], 3e-4, (0.5, 0.999), weight_decay=1e-3)

    def step(self) -> tuple[float, float]:
        """Validation and training loss."""
        return self._our_step() if self.product else self._plain_step()

    def _plain_step(self) -> tuple[float, float]:
        losses = []
        for (x, y), optimiser in zip(self.batches, (self.alpha_optimiser, self.weight_optimiser), strict=True):
            optimiser.zero_grad()
            loss = F.cross_entropy(plain_mix(self.net, x, self.alphas.softmax(1)), y)
            loss.backward()  # type: ignore[no-untyped-call]
            if optimiser is self.weight_optimiser:
                torch.nn.utils.clip_grad_norm_(self.net.parameters(), 5.0)
            else:
                self.net.zero_grad()
            optimiser.step()
            losses.append(float(loss.detach()))
        return losses[0], losses[1]

    def _our_step(self) -> tuple[float, float]:
        (x, y), (x_train, y_train) = self.batches
        val_loss = F.cross_entropy(self.net.mix(x, self.alphas.softmax(1)), y)
        (self.alphas.grad,) = torch.autograd.grad(val_loss, self.alphas)
        self.alpha_optimiser.step()
        self.weight_optimiser.zero_grad()
        loss = F.cross_entropy(self.net.mix(x_train, self.alphas.detach().softmax(1)), y_train)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), 5.0)
        self.weight_optimiser.step()
        return float(val_loss.detach()), float(loss.detach())


def bench(options: Options) -> dict[str, Any]:
    """Repeats in turns, on one thread: the median of plain over ours."""
    torch.set_num_threads(1)
    batch = FULL_BATCH if options.more["full"] else BATCH
    plain, product = StepBench(False, batch), StepBench(True, batch)
    first = [b.step() for b in (plain, product)]
    ratios, seconds_plain, seconds_ours = [], [], []
    for _ in options.seeds:
        seconds_plain.append(_seconds(plain.step))
        seconds_ours.append(_seconds(product.step))
        ratios.append(seconds_plain[-1] / seconds_ours[-1])
    memory = {name: _peak_of_a_step(name, batch) for name in ("plain", "ours")}
    return {
        "speedup": statistics.median(ratios),
        "speedups": ratios,
        "peak_memory_ratio": memory["ours"] / memory["plain"],
        "loss_difference": max(abs(a - b) / abs(a) for a, b in zip(*first, strict=True)),
        "losses": {"plain": first[0], "ours": first[1]},
        "step_s": {"plain": statistics.median(seconds_plain), "ours": statistics.median(seconds_ours)},
        "peak_mb": {name: b / 2**20 for name, b in memory.items()},
        "threads": 1,
        "batch": batch,
    }


def _seconds(step: Callable[[], object]) -> float:
    start_s = time.process_time()
    step()
    return time.process_time() - start_s


def _peak_of_a_step(name: str, batch: int) -> int:
    """Peak resident memory of a step, less what the process holds before it; in a process of its own."""
    code = f"from benchmarks.darts_step import peak; print(peak({name == 'ours'}, {batch}))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return int(done.stdout)


def peak(product: bool, batch: int) -> int:
    """Bytes that a step adds to the process at most."""
    torch.set_num_threads(1)
    bench = StepBench(product, batch)
    reset_peak_memory("cpu")
    before = peak_memory_bytes("cpu")
    bench.step()
    return peak_memory_bytes("cpu") - before


def _more(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--full", action="store_true", help=f"batches of {FULL_BATCH} images")


if __name__ == "__main__":
    main("darts_step", bench, __doc__.split("\n")[0], ("torch",), seeds=5, more=_more)

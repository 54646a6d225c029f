"""Proxies of AZ-NAS (Lee and Ham, CVPR 2024), which look at what the blocks of a network pass on to each other.

Weights are drawn anew, Kaiming normal by inputs, always the same ones; batch norms are in training mode, and the images
are noise. A block is a part of the network with parts of its own: a cell, or a residual block.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_SMALLEST = 1e-8
_SINGULAR_SMALLEST = 1e-6


def expressivity(net: nn.Module, x_BCHW: Tensor, y_B: Tensor) -> float:
    """Sum over blocks of the entropy of the spectrum of their channels' covariance."""
    return sum(_entropies(net, x_BCHW))


def progressivity(net: nn.Module, x_BCHW: Tensor, y_B: Tensor) -> float:
    """The smallest increase of that entropy from a block to the next; -inf for a single block."""
    entropies = _entropies(net, x_BCHW)
    return min((after - before for before, after in itertools.pairwise(entropies)), default=-math.inf)


def trainability(net: nn.Module, x_BCHW: Tensor, y_B: Tensor) -> float:
    """Mean over blocks of ``2 - s - 1 / s``, s the largest singular value of how gradients pass a block, which is best
    at 1. -inf where a block is the identity."""
    maps = block_outputs(net, x_BCHW)
    generator = torch.Generator().manual_seed(1)
    scores = []
    for before, after in itertools.pairwise(maps):
        out_BCHW = _signs(after, generator)
        (into_BCHW,) = torch.autograd.grad(after, before, out_BCHW, retain_graph=True, allow_unused=True)
        if into_BCHW is None:
            into_BCHW = torch.zeros_like(before)
        if into_BCHW.shape == out_BCHW.shape and torch.equal(into_BCHW, out_BCHW):
            return -math.inf
        scores.append(gradient_passage(into_BCHW, out_BCHW))
    return sum(scores) / len(scores) if scores else -math.inf


def gradient_passage(into_BCHW: Tensor, out_BCHW: Tensor) -> float:
    """``2 - s - 1 / s`` of the mean outer product of gradients before and after a block, positions as samples; where
    the map before is larger, its positions are folded into channels."""
    stride = into_BCHW.shape[2] // out_BCHW.shape[2]
    if stride > 1:
        into_BCHW = F.pixel_unshuffle(
            into_BCHW[:, :, : stride * out_BCHW.shape[2], : stride * out_BCHW.shape[3]], stride
        )
    into_NC, out_NC = (g.movedim(1, -1).flatten(0, 2) for g in (into_BCHW, out_BCHW))
    s = float(torch.linalg.matrix_norm(into_NC.T @ out_NC / len(out_NC), ord=2))
    return 2.0 - s - 1.0 / (s + _SINGULAR_SMALLEST)


def spectrum_entropy(map_BCHW: Tensor) -> float:
    """Entropy of the normalised eigenvalues of the covariance of channels, positions of all images as samples."""
    rows_NC = map_BCHW.detach().movedim(1, -1).flatten(0, 2).double()
    rows_NC = rows_NC - rows_NC.mean(dim=0)
    values = torch.linalg.eigvalsh(rows_NC.T @ rows_NC / len(rows_NC)).clamp_min(0.0)
    share = values / values.sum().clamp_min(1e-300)
    return float(-(share * (share + _SMALLEST).log()).sum())


def block_outputs(net: nn.Module, x_BCHW: Tensor) -> list[Tensor]:
    """What each block of a newly drawn network gives for noise of the shape of the images, in order, with its graph."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in net.modules():
            _draw(module, generator)
    noise = torch.randn(x_BCHW.shape, generator=generator).to(x_BCHW.device).requires_grad_(True)
    maps: list[Tensor] = []

    def record(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(output, Tensor) and output.dim() == 4:
            maps.append(output)

    handles = [block.register_forward_hook(record) for block in _blocks(net)]
    try:
        net.train()(noise)
    finally:
        for handle in handles:
            handle.remove()
    return maps


def _entropies(net: nn.Module, x_BCHW: Tensor) -> list[float]:
    return [spectrum_entropy(m) for m in block_outputs(net, x_BCHW)]


def _blocks(net: nn.Module) -> list[nn.Module]:
    """The parts of a network that have parts of their own; of a network without such, its normalisations."""
    composite = [part for part in _parts(net) if any(True for _ in part.children())]
    return composite if len(composite) > 1 else [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]


def _parts(net: nn.Module) -> Iterator[nn.Module]:
    for part in net.children():
        if isinstance(part, nn.ModuleList):
            yield from part
        else:
            yield part


def _draw(module: nn.Module, generator: torch.Generator) -> None:
    if isinstance(module, nn.BatchNorm2d) and module.affine:
        module.weight.fill_(1.0)
        module.bias.zero_()
    for name, p in module.named_parameters(recurse=False):
        if p.dim() > 1:
            p.copy_(torch.randn(p.shape, generator=generator) * math.sqrt(2.0 / p[0].numel()))
        elif name == "bias":
            p.zero_()


def _signs(like: Tensor, generator: torch.Generator) -> Tensor:
    return (torch.randint(0, 2, like.shape, generator=generator) * 2.0 - 1.0).to(like)

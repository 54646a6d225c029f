"""Zero-cost proxies: how promising is a network before any training? One mini-batch each, larger is better.

They are hints, never a verdict: parameters and MACs rank about as well (Krishnakumar et al., NAS-Bench-Suite-Zero,
2022) and belong beside them in every comparison. A proxy leaves the network bitwise as it was, its batch-norm
statistics and its mode included. Sources: snip, synflow, grad_norm, jacob_cov as in Abdelfattah et al., Zero-Cost
Proxies for Lightweight NAS (ICLR 2021); naswot: Mellor et al., ICML 2021; zen: Lin et al., ICCV 2021; near: Husistein
et al., 2024; those of ``blocks`` and ``fisher_spectrum`` as said there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nas.proxies.blocks import expressivity, progressivity, trainability
from nas.proxies.fisher_spectrum import fisher_spectrum

Proxy = Callable[[nn.Module, Tensor, Tensor], float]
LabelLoss = Callable[[Tensor, Tensor], Tensor]  # of outputs and labels

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm, nn.InstanceNorm2d)
_ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.Hardswish, nn.SiLU, nn.GELU, nn.LeakyReLU, nn.ELU)
_JACOBIAN_K = 1e-5
_NEAR_ROWS = 1024


def score(name: str, net: nn.Module, x_BCHW: Tensor, y: Tensor, loss: LabelLoss = F.cross_entropy) -> float:
    """The proxy called ``name`` of a freshly initialised network, with the ``loss`` of its task for those that need
    one. Raises KeyError for a proxy that is not there."""
    with _untouched(net):
        if name in _LOSS_PROXIES:
            return _LOSS_PROXIES[name](net, x_BCHW, y, loss)
        return PROXIES[name](net, x_BCHW, y)


def grad_norm(net: nn.Module, x_BCHW: Tensor, y: Tensor, loss: LabelLoss = F.cross_entropy) -> float:
    """Sum over weights of the Euclidean norm of the loss's gradient."""
    return float(sum(g.norm() for _, g in _gradients(net, loss(net.train()(x_BCHW), y))))


def snip(net: nn.Module, x_BCHW: Tensor, y: Tensor, loss: LabelLoss = F.cross_entropy) -> float:
    """Sum over weights of |w dL/dw|: how much the loss feels that a weight is masked."""
    return float(sum((w * g).abs().sum() for w, g in _gradients(net, loss(net.train()(x_BCHW), y))))


def synflow(net: nn.Module, x_BCHW: Tensor, y_B: Tensor) -> float:
    """Logarithm of sum |w dR/dw|, R the summed output for an input of ones with all weights made positive and no
    normalisation. In double precision, since R grows with every layer. -inf where nothing flows."""
    net.double().eval()
    with torch.no_grad():
        for p in net.parameters():
            p.abs_()
    with _hooks(net, _NORMS, lambda _module, inputs, _output: inputs[0]):
        flow = net(torch.ones_like(x_BCHW[:1], dtype=torch.float64)).sum()
    total = float(sum((w * g).abs().sum() for w, g in _gradients(net, flow)))
    return math.log(total) if total > 0 else -math.inf


def jacob_cov(net: nn.Module, x_BCHW: Tensor, y_B: Tensor) -> float:
    """How little the images' input gradients correlate: -sum(log(v + k) + 1/(v + k)) over the eigenvalues v of their
    correlation matrix. -inf where some image has no gradient."""
    x = x_BCHW.clone().requires_grad_(True)
    (jacobian,) = torch.autograd.grad(net.train()(x).sum(), x)
    rows = jacobian.flatten(1).double()
    rows = rows - rows.mean(1, keepdim=True)
    norms = rows.norm(dim=1, keepdim=True)
    if bool((norms == 0).any()):
        return -math.inf
    rows = rows / norms
    v = torch.linalg.eigvalsh(rows @ rows.T).clamp_min(0) + _JACOBIAN_K
    return float(-(v.log() + 1 / v).sum())


@torch.no_grad()
def naswot(net: nn.Module, x_BCHW: Tensor, y_B: Tensor) -> float:
    """Log-determinant of how often two images agree in the sign of a pre-activation, over all activation functions.
    -inf where two images cannot be told apart."""
    n = len(x_BCHW)
    agreement = torch.zeros(n, n, dtype=torch.float64)

    def add(_module: nn.Module, inputs: tuple[Tensor, ...], _output: Tensor) -> None:
        code = (inputs[0].flatten(1) > 0).double().cpu()
        agreement.add_(code @ code.T + (1 - code) @ (1 - code).T)

    with _hooks(net, _ACTIVATIONS, add):
        net.eval()(x_BCHW)
    sign, logdet = torch.linalg.slogdet(agreement)
    return float(logdet) if float(sign) > 0 else -math.inf


@torch.no_grad()
def zen(net: nn.Module, x_BCHW: Tensor, y_B: Tensor, repeats: int = 8, gamma: float = 0.01) -> float:
    """Log of how much the features before pooling move under a small change of a random input, plus the logarithms of
    the batch-norm deviations that normalisation hides. Weights are drawn anew, so the network's own do not matter.

    The paper removes residual connections; here they stay, so scores compare within one space only.
    """
    generator = torch.Generator().manual_seed(0)
    scores = []
    for _ in range(repeats):
        for p in net.parameters():
            if p.dim() > 1:
                p.copy_(torch.randn(p.shape, generator=generator))
        x, noise = (torch.randn(x_BCHW.shape, generator=generator).to(x_BCHW.device) for _ in range(2))
        moved = x + gamma * noise
        deviations: list[Tensor] = []

        def deviation(
            _module: nn.Module, inputs: tuple[Tensor, ...], _output: Tensor, log_deviations: list[Tensor] = deviations
        ) -> None:
            log_deviations.append(
                inputs[0].var(dim=(0, *range(2, inputs[0].dim()))).mean().clamp_min(1e-30).sqrt().log()
            )

        net.train()
        with _hooks(net, (nn.BatchNorm2d,), deviation):
            before = _features(net, x)
        after = _features(net, moved)
        change = (after - before).abs().mean().clamp_min(1e-30).log()
        scores.append(float(change + sum(deviations)))
    return sum(scores) / len(scores)


@torch.no_grad()
def near(net: nn.Module, x_BCHW: Tensor, y_B: Tensor) -> float:
    """Sum over activation functions of the effective ranks of what goes in and what comes out: the exponential of the
    entropy of the singular values. Rows are images and positions, columns channels."""
    total = 0.0

    def add(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        for z in (inputs[0], output):
            rows = z.movedim(1, -1).reshape(-1, z.shape[1])[:_NEAR_ROWS]
            total += _effective_rank(rows.double())

    with _hooks(net, _ACTIVATIONS, add):
        net.eval()(x_BCHW)
    return total


_LOSS_PROXIES: Mapping[str, Callable[[nn.Module, Tensor, Tensor, LabelLoss], float]] = {
    "grad_norm": grad_norm,
    "snip": snip,
}
PROXIES: Mapping[str, Proxy] = {
    "grad_norm": grad_norm,
    "snip": snip,
    "synflow": synflow,
    "jacob_cov": jacob_cov,
    "naswot": naswot,
    "zen": zen,
    "near": near,
    "expressivity": expressivity,
    "progressivity": progressivity,
    "trainability": trainability,
    "fisher_spectrum": fisher_spectrum,
}


def _effective_rank(matrix: Tensor) -> float:
    """Roy and Vetterli, The effective rank, EUSIPCO 2007."""
    values = torch.linalg.svdvals(matrix)
    share = values[values > 0] / values.sum().clamp_min(1e-300)
    return float((-(share * share.log()).sum()).exp()) if len(share) else 0.0


def _gradients(net: nn.Module, loss: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Every weight (not biases, not the scales of norms) that the loss depends on, with its gradient."""
    weights = [p for p in net.parameters() if p.requires_grad and p.dim() > 1]
    for w, g in zip(weights, torch.autograd.grad(loss, weights, allow_unused=True), strict=True):
        if g is not None:
            yield w.detach(), g


def _features(net: nn.Module, x_BCHW: Tensor) -> Tensor:
    """The last feature map that has positions: what enters the pooling before the classifier."""
    last = x_BCHW

    def keep(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal last
        if isinstance(output, Tensor) and output.dim() == 4 and output.shape[-1] * output.shape[-2] > 1:
            last = output

    with _hooks(net, (nn.Module,), keep):
        net(x_BCHW)
    return last


@contextmanager
def _hooks(net: nn.Module, kinds: tuple[type[nn.Module], ...], hook: Callable[..., object]) -> Iterator[None]:
    handles = [m.register_forward_hook(hook) for m in net.modules() if isinstance(m, kinds) and m is not net]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _untouched(net: nn.Module) -> Iterator[None]:
    """Weights, buffers, precision and mode are afterwards what they were before."""
    modes = {m: m.training for m in net.modules()}
    saved_tensors = {name: t.detach().clone() for name, t in net.state_dict(keep_vars=True).items()}
    kinds = {t.dtype for t in saved_tensors.values() if t.is_floating_point()}
    try:
        yield
    finally:
        if len(kinds) == 1:
            net.to(kinds.pop())
        with torch.no_grad():
            for name, t in net.state_dict(keep_vars=True).items():
                t.copy_(saved_tensors[name])
        for module, mode in modes.items():
            module.training = mode

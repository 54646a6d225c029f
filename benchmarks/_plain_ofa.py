"""The published once-for-all step, written out plainly, on the parameters of our supernet.

As in the authors' code (Cai et al., ICLR 2020): weights are sliced to contiguous copies, batch norms record statistics
that nobody uses, h-swish and h-sigmoid are written as relu6, maps are NCHW, and every loss is read as a number.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from nas.core.arch import Arch
from search_spaces.layers.batch_norm import ElasticBatchNorm
from search_spaces.layers.convolution import ElasticConv
from search_spaces.layers.depthwise import ElasticDepthwise
from search_spaces.layers.inverted_residual import BlockLayers, ElasticBlock, stage_blocks
from search_spaces.layers.squeeze_excite import ElasticSqueezeExcite
from search_spaces.mobilenet_v3.network import MobileNetV3Supernet

Tensor = torch.Tensor


def hswish(x: Tensor) -> Tensor:
    """x relu6(x + 3) / 6."""
    return x * F.relu6(x + 3.0, inplace=True) / 6.0


def hsigmoid(x: Tensor) -> Tensor:
    """relu6(x + 3) / 6."""
    return F.relu6(x + 3.0, inplace=True) / 6.0


class PlainOnceForAll:
    """A supernet of the mobilenet_v3 space that is computed and trained as in the authors' code; ``net`` holds the
    parameters, ``teacher`` is a frozen copy. Without a ``teacher``, networks learn from labels alone."""

    def __init__(self, net: MobileNetV3Supernet, largest: Arch, *, lr: float, taught: bool) -> None:
        self.net, self.largest = net.train(), largest
        self.teacher = copy.deepcopy(net).requires_grad_(False) if taught else None
        decays = {p: p.ndim > 1 for p in net.parameters()}
        groups = [
            {"params": [p for p, d in decays.items() if d is decay], "weight_decay": 3e-5 if decay else 0.0}
            for decay in (True, False)
        ]
        self.optimiser = torch.optim.SGD(groups, lr=lr, momentum=0.9, nesterov=True)

    def step(self, x_BCHW: Tensor, y_B: Tensor, archs: Sequence[Arch]) -> float:
        """One optimiser step on the networks ``archs``; return their mean loss."""
        self.optimiser.zero_grad()
        soft_BK = None
        if self.teacher is not None:
            with torch.no_grad():
                soft_BK = F.softmax(logits(self.teacher, x_BCHW, self.largest), dim=1)
        losses = []
        for arch in archs:
            logits_BK = logits(self.net, x_BCHW, arch)
            loss = F.cross_entropy(logits_BK, y_B, label_smoothing=0.1)
            if soft_BK is not None:
                loss = loss + torch.mean(torch.sum(-soft_BK * F.log_softmax(logits_BK, dim=-1), 1))
            loss.backward()  # type: ignore[no-untyped-call]
            losses.append(loss.item())
        self.optimiser.step()
        return sum(losses) / len(losses)


def logits(net: MobileNetV3Supernet, x: Tensor, arch: Arch) -> Tensor:
    """Logits (B, classes) of a network in training mode."""
    x = hswish(_norm(net.stem_norm, _conv(net.stem, x, net.stem.c_out)))
    y = F.relu(_norm(net.first_depthwise_norm, _depthwise(net.first_depthwise, x, 3)))
    x = _norm(net.first_project_norm, _conv(net.first_project, y, net.first_project.c_out)) + x
    for modules, blocks in zip(net.stages, stage_blocks(net.describe(arch)), strict=True):
        assert isinstance(modules, torch.nn.ModuleList)
        for module, layers in zip(modules, blocks, strict=False):
            assert isinstance(module, ElasticBlock)
            x = _block(module, x, layers)
    x = hswish(_norm(net.final_norm, _conv(net.final, x, net.final.c_out)))
    x = x.mean(3, keepdim=True).mean(2, keepdim=True)
    x = hswish(F.conv2d(x, net.hidden.weight[:, :, None, None])).flatten(1)
    x = F.dropout(x, net.dropout, training=True)
    return F.linear(x, net.classifier.weight, net.classifier.bias)


def _block(block: ElasticBlock, x: Tensor, layers: BlockLayers) -> Tensor:
    act = F.relu if block.act == "relu" else hswish
    assert block.expand is not None
    assert block.expand_norm is not None
    y = act(_norm(block.expand_norm, _conv(block.expand, x, layers.inner)))
    y = act(_norm(block.depthwise_norm, _depthwise(block.depthwise, y, layers.depthwise.kernel)))
    if block.se is not None and layers.se is not None:
        y = _squeeze_excite(block.se, y, layers.se.squeezed)
    y = _norm(block.project_norm, _conv(block.project, y, layers.project.out_channels))
    return y if layers.project.residual is None else y + x


def _conv(conv: ElasticConv, x: Tensor, c_out: int) -> Tensor:
    weight = conv.weight[:c_out, : x.shape[1], :, :].contiguous()
    return F.conv2d(x, weight, None, conv.stride, conv.kernel // 2)


def _depthwise(conv: ElasticDepthwise, x: Tensor, size: int) -> Tensor:
    channels = x.shape[1]
    return F.conv2d(x, conv.kernel(size, channels).contiguous(), None, conv.stride, size // 2, groups=channels)


def _norm(norm: ElasticBatchNorm, x: Tensor) -> Tensor:
    c = x.shape[1]
    statistics = norm.running_mean[:c], norm.running_var[:c]
    return F.batch_norm(x, *statistics, norm.weight[:c], norm.bias[:c], training=True, momentum=0.1, eps=norm.eps)


def _squeeze_excite(se: ElasticSqueezeExcite, x: Tensor, squeezed: int) -> Tensor:
    c = x.shape[1]
    s = x.mean(3, keepdim=True).mean(2, keepdim=True)
    s = F.relu(F.conv2d(s, se.reduce.weight[:squeezed, :c, None, None].contiguous(), se.reduce.bias[:squeezed]))
    s = hsigmoid(F.conv2d(s, se.expand.weight[:c, :squeezed, None, None].contiguous(), se.expand.bias[:c]))
    return x * s

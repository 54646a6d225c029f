"""Small models of many families, and their files as a user would export them."""

# Modules are called with operators that torch does not type:
# mypy: disable-error-code="no-any-return, arg-type"

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SIDE = 16  # pixels of the square input


def _causal(length: int) -> Tensor:
    """Each position sees those before it."""
    return torch.ones(length, length, dtype=torch.bool).tril()


def conv_bn(c: int, o: int, k: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(c, o, k, stride, k // 2, groups=groups, bias=False), nn.BatchNorm2d(o), nn.ReLU())


class ResNetBlock(nn.Module):
    """A plain or bottleneck block; with another width or stride, a projection on its shortcut."""

    def __init__(self, c: int, o: int, stride: int = 1, bottleneck: int | None = None, groups: int = 1) -> None:
        super().__init__()
        w = bottleneck or o
        layers = (
            [conv_bn(c, w, 3, stride)] if bottleneck is None else [conv_bn(c, w, 1), conv_bn(w, w, 3, stride, groups)]
        )
        self.branch = nn.Sequential(
            *layers, nn.Conv2d(w, o, 3 if bottleneck is None else 1, padding=int(bottleneck is None))
        )
        self.norm = nn.BatchNorm2d(o)
        self.project = nn.Conv2d(c, o, 1, stride) if c != o or stride != 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.branch(x)).add_(self.project(x)))


class Classifier(nn.Module):
    """A body, a global pool and a linear layer."""

    def __init__(self, body: nn.Module, features: int) -> None:
        super().__init__()
        self.body, self.pool, self.head = body, nn.AdaptiveAvgPool2d(1), nn.Linear(features, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.flatten(self.pool(self.body(x)), 1))


def resnet() -> nn.Module:
    return Classifier(nn.Sequential(conv_bn(3, 8), ResNetBlock(8, 8), ResNetBlock(8, 16, 2), ResNetBlock(16, 16)), 16)


def bottleneck_resnet() -> nn.Module:
    return Classifier(nn.Sequential(conv_bn(3, 16), ResNetBlock(16, 16, 1, 8), ResNetBlock(16, 32, 2, 8)), 32)


def grouped_resnet() -> nn.Module:
    """Groups that are wider than they are many, so that each is narrowed."""
    return Classifier(
        nn.Sequential(conv_bn(3, 16), ResNetBlock(16, 16, 1, 16, groups=2), ResNetBlock(16, 16, 1, 16, 8)), 16
    )


class InvertedResidual(nn.Module):
    """MobileNetV2's block, with squeeze-excite on request."""

    def __init__(self, c: int, o: int, stride: int, squeeze: bool = False) -> None:
        super().__init__()
        w = 3 * c
        self.expand = nn.Sequential(nn.Conv2d(c, w, 1, bias=False), nn.BatchNorm2d(w), nn.ReLU6(inplace=True))
        self.depthwise = nn.Sequential(nn.Conv2d(w, w, 3, stride, 1, groups=w), nn.BatchNorm2d(w), nn.SiLU())
        self.squeeze = nn.Sequential(nn.Conv2d(w, 4, 1), nn.ReLU(), nn.Conv2d(4, w, 1)) if squeeze else None
        self.project = nn.Sequential(nn.Conv2d(w, o, 1, bias=False), nn.BatchNorm2d(o))
        self.adds = stride == 1 and c == o

    def forward(self, x: Tensor) -> Tensor:
        y = self.depthwise(self.expand(x))
        if self.squeeze is not None:
            y = y * torch.sigmoid(self.squeeze(y.mean((2, 3), keepdim=True)))
        return x + self.project(y) if self.adds else self.project(y)


def mobilenet_v2() -> nn.Module:
    blocks = [InvertedResidual(8, 8, 1), InvertedResidual(8, 12, 2), InvertedResidual(12, 12, 1)]
    return Classifier(nn.Sequential(conv_bn(3, 8, stride=2), *blocks), 12)


def efficientnet() -> nn.Module:
    blocks = [InvertedResidual(8, 8, 1, True), InvertedResidual(8, 12, 2, True), InvertedResidual(12, 12, 1, True)]
    return Classifier(nn.Sequential(conv_bn(3, 8, stride=2), *blocks), 12)


class ShuffleUnit(nn.Module):
    """ShuffleNetV2's unit: half of the channels pass, then both halves are shuffled."""

    def __init__(self, c: int) -> None:
        super().__init__()
        h = c // 2
        self.branch = nn.Sequential(
            conv_bn(h, h, 1), nn.Conv2d(h, h, 3, 1, 1, groups=h), nn.BatchNorm2d(h), conv_bn(h, h, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, 1)
        y = torch.cat([a, self.branch(b)], 1)
        n, c, h, w = y.shape
        return y.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


def shufflenet() -> nn.Module:
    return Classifier(nn.Sequential(conv_bn(3, 16, stride=2), ShuffleUnit(16), ShuffleUnit(16)), 16)


class DenseLayer(nn.Module):
    def __init__(self, c: int, growth: int) -> None:
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(c), nn.Conv2d(c, growth, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv(F.relu(self.norm(x)))], 1)


def densenet() -> nn.Module:
    dense = [DenseLayer(8 + 4 * i, 4) for i in range(3)]
    return Classifier(nn.Sequential(conv_bn(3, 8), *dense, nn.AvgPool2d(2), conv_bn(20, 10, 1), DenseLayer(10, 4)), 14)


class UNet(nn.Module):
    """Segmentation with two scales, a transposed convolution and a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.deep = conv_bn(3, 8), conv_bn(8, 12)
        self.up, self.merge, self.head = nn.ConvTranspose2d(12, 8, 2, 2), conv_bn(16, 8), nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        fine = self.down(x)
        coarse = self.up(self.deep(F.max_pool2d(fine, 2)))
        return self.head(self.merge(torch.cat([fine, coarse], 1)))


class Detector(nn.Module):
    """A neck that concatenates an upsampled map, and a head at each of two scales."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stage, self.deep = conv_bn(3, 8, stride=2), conv_bn(8, 12), conv_bn(12, 16, stride=2)
        self.neck = conv_bn(28, 10)
        self.fine, self.coarse = nn.Conv2d(10, 6, 1), nn.Conv2d(16, 6, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        a = self.stage(self.stem(x))
        b = self.deep(a)
        neck = self.neck(torch.cat([F.interpolate(b, scale_factor=2, mode="nearest"), a], 1))
        return self.fine(neck), self.coarse(F.silu(b))


class FusedAttention(nn.Module):
    """Queries, keys and values from one linear layer. ``mask`` of truth values: which positions see which."""

    def __init__(self, width: int, heads: int, *, explicit: bool, mask: Tensor | None = None) -> None:
        super().__init__()
        self.heads, self.explicit = heads, explicit
        self.register_buffer("mask", mask)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, length, width = x.shape
        q, k, v = self.qkv(x).reshape(n, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        if self.explicit:
            y = ((q * (width // self.heads) ** -0.5) @ k.transpose(-2, -1)).softmax(-1) @ v
        else:
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask)
        return self.out(y.transpose(1, 2).reshape(n, length, width))


class ViT(nn.Module):
    """Patches, a class token, positions and two blocks. ``attention`` makes the attention of a block."""

    def __init__(self, attention: Callable[[], nn.Module], width: int = 16) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.token, self.positions = nn.Parameter(torch.randn(1, 1, width)), nn.Parameter(torch.randn(1, 17, width))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(5))
        self.attentions = nn.ModuleList(attention() for _ in range(2))
        self.mlps = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 24), nn.GELU(), nn.Linear(24, width)) for _ in range(2)
        )
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(x.shape[0], -1, -1), tokens], 1) + self.positions
        for i in range(2):
            y = self.norms[2 * i](tokens)
            attention = self.attentions[i]
            tokens = tokens + (
                attention(y) if isinstance(attention, FusedAttention) else attention(y, y, y, need_weights=False)[0]
            )
            tokens = tokens + self.mlps[i](self.norms[2 * i + 1](tokens))
        return self.head(self.norms[4](tokens)[:, 0])


class EinsumAttention(FusedAttention):
    """The products of attention as Einstein sums; positions see those before them."""

    def forward(self, x: Tensor) -> Tensor:
        n, length, width = x.shape
        q, k, v = self.qkv(x).chunk(3, -1)
        q, k, v = (t.reshape(n, length, self.heads, width // self.heads).transpose(1, 2) for t in (q, k, v))
        scores = torch.einsum("bhid,bhjd->bhij", q, k) * (width // self.heads) ** -0.5
        later = torch.triu(torch.ones(length, length, dtype=torch.bool), 1)
        shares = (scores + torch.zeros(length, length).masked_fill(later, -1e4)).softmax(-1)
        return self.out(torch.einsum("bhij,bhjd->bhid", shares, v).transpose(1, 2).reshape(n, length, width))


def vit_masked() -> nn.Module:
    return ViT(lambda: FusedAttention(16, 4, explicit=False, mask=_causal(17)))


class ConvNeXtBlock(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.depthwise, self.norm = nn.Conv2d(c, c, 7, padding=3, groups=c), nn.LayerNorm(c)
        self.widen, self.narrow, self.scale = nn.Linear(c, 3 * c), nn.Linear(3 * c, c), nn.Parameter(torch.rand(c))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        return x + (self.scale * self.narrow(F.gelu(self.widen(y)))).permute(0, 3, 1, 2)


def convnext() -> nn.Module:
    return Classifier(nn.Sequential(nn.Conv2d(3, 12, 4, 4), ConvNeXtBlock(12), ConvNeXtBlock(12)), 12)


class Tied(nn.Module):
    """One convolution used twice, and a linear layer over a flattened map."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.shared, self.other = (
            conv_bn(3, 8, stride=4),
            nn.Conv2d(8, 8, 3, padding=1),
            nn.Conv2d(8, 8, 3, padding=1),
        )
        self.other.weight = self.shared.weight
        self.hidden, self.head = nn.Linear(128, 10), nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.other(F.relu(self.shared(self.stem(x)))))
        return self.head(F.leaky_relu(self.hidden(y.flatten(1)), 0.2))


class AudioNet(nn.Module):
    """Convolutions over time: the rows of the image are averaged."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv1d(3, 8, 5, padding=2, bias=False), nn.BatchNorm1d(8)
        self.depthwise, self.wide = nn.Conv1d(8, 8, 3, padding=1, groups=8), nn.Conv1d(8, 12, 3, stride=2, padding=2)
        self.pool, self.head = nn.AdaptiveAvgPool1d(1), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = F.max_pool1d(F.relu(self.norm(self.stem(x.mean(2)))), 2)
        return self.head(self.pool(F.relu(self.wide(self.depthwise(y)))).flatten(1))


class PReluNet(nn.Module):
    """A slope for each channel, and one for all."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 12, 3, 2, 1)
        self.each, self.all = nn.PReLU(8, init=0.1), nn.PReLU(init=0.3)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.all(self.second(self.each(self.first(x)))).mean((2, 3)))


class SuperResolution(nn.Module):
    """Pixels out of channels, added to the enlarged image."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = conv_bn(3, 8), nn.Conv2d(8, 24, 3, padding=1), nn.Conv2d(6, 12, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.pixel_shuffle(self.third(F.relu(F.pixel_shuffle(self.second(self.first(x)), 2))), 2)
        return y + F.interpolate(x, scale_factor=4, mode="bicubic", align_corners=False)


class CoordinateNet(nn.Module):
    """Columns as a channel, counted with ``arange``; a float buffer that is not trained."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = conv_bn(4, 8), nn.Linear(8, 5)
        self.register_buffer("gain", torch.linspace(0.5, 1.5, 8))

    def forward(self, x: Tensor) -> Tensor:
        columns = (torch.arange(SIDE, dtype=torch.float32) / SIDE).view(1, 1, 1, SIDE)
        y = self.body(torch.cat([x, columns.expand(x.shape[0], 1, SIDE, SIDE)], 1))
        return self.head(y.mean((2, 3)) * self.gain)


class GroupNormResNet(nn.Module):
    """Group norms of several groups, and of one, which runs over all channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.grouped = nn.Conv2d(3, 16, 3, padding=1), nn.GroupNorm(4, 16)
        self.down, self.single = nn.Conv2d(16, 12, 3, 2, 1), nn.GroupNorm(1, 12)
        self.branch, self.head = nn.Conv2d(12, 12, 3, padding=1), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.single(self.down(F.relu(self.grouped(self.stem(x))))))
        return self.head((y + self.branch(y)).mean((2, 3)))


class GroupNormed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Conv2d(3, 12, 3), nn.GroupNorm(4, 12), nn.Conv2d(12, 8, 3)
        self.single = nn.GroupNorm(1, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.single(self.second(F.hardswish(self.norm(self.first(x))))).mean((2, 3))


class Dynamic(nn.Module):
    """Control flow that depends on values: ``torch.export`` itself refuses it."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.mean() > 0 else x - 1


class Sorted(nn.Module):
    """An operator without a translation among others: what it reads stays as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.free, self.body, self.head = conv_bn(3, 8), conv_bn(8, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.sort(self.body(self.free(x)), 1)[0].mean((2, 3)))


class Bessel(nn.Module):
    """An operator that has no form in ONNX."""

    def __init__(self) -> None:
        super().__init__()
        self.body = conv_bn(3, 8)

    def forward(self, x: Tensor) -> Tensor:
        return torch.special.bessel_j0(self.body(x))


@dataclass(frozen=True)
class ModelCase:
    """``groups``: how many channel groups it has; ``blocks``: how many residual blocks can be skipped;
    ``multiple``: by which steps of pixels its input may change, None if it may not. ``onnx_groups``: how many channel
    groups an ONNX file of it has, None: as many."""

    name: str
    make: Callable[[], nn.Module]
    groups: int
    blocks: int
    multiple: int | None
    onnx_groups: int | None = None

    def __str__(self) -> str:
        return self.name


CASES = (
    ModelCase("resnet", resnet, 5, 2, 1),
    ModelCase("bottleneck_resnet", bottleneck_resnet, 6, 1, 1),
    ModelCase("grouped_resnet", grouped_resnet, 4, 2, 1),
    ModelCase("mobilenet_v2", mobilenet_v2, 5, 2, 1),
    ModelCase("efficientnet", efficientnet, 8, 2, 1),
    ModelCase("shufflenet", shufflenet, 5, 0, 1),
    ModelCase("densenet", densenet, 6, 0, 1),
    ModelCase("unet", UNet, 4, 0, 2),
    ModelCase("detector", Detector, 4, 0, 4),
    ModelCase("vit_fused", lambda: ViT(lambda: FusedAttention(16, 4, explicit=False)), 5, 4, None),
    ModelCase("vit_explicit", lambda: ViT(lambda: FusedAttention(16, 4, explicit=True)), 5, 4, None),
    ModelCase("vit_multihead", lambda: ViT(lambda: nn.MultiheadAttention(16, 4, batch_first=True)), 5, 4, None),
    ModelCase("convnext", convnext, 3, 2, 1),
    ModelCase("tied", Tied, 2, 0, None),
    ModelCase("group_norm", GroupNormed, 1, 0, 1),
    ModelCase("group_norm_resnet", GroupNormResNet, 2, 1, 1, onnx_groups=1),
    ModelCase("vit_masked", vit_masked, 5, 4, None, onnx_groups=3),
    ModelCase("vit_einsum", lambda: ViT(lambda: EinsumAttention(16, 4, explicit=True)), 5, 4, None),
    ModelCase("audio", AudioNet, 2, 0, 1),
    ModelCase("prelu", PReluNet, 2, 0, 1),
    ModelCase("super_resolution", SuperResolution, 2, 0, 1),
    ModelCase("coordinates", CoordinateNet, 1, 0, None),
    ModelCase("opaque", Sorted, 1, 0, None),
)


def make_model(case: ModelCase, seed: int = 0) -> nn.Module:
    """The model with random weights and statistics of batch norms that are not those of a fresh one."""
    torch.manual_seed(seed)
    model = case.make()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.3, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.3, 0.3)
    return model


def save_exported(model: nn.Module, path: Path) -> Path:
    """The three lines of the guide: in training mode, for any number of images."""
    example = torch.randn(2, 3, SIDE, SIDE)
    program = torch.export.export(model.train(), (example,), dynamic_shapes=({0: torch.export.Dim("images")},))
    torch.export.save(program, path)
    model.eval()
    return path

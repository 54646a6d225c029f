"""Operations of DARTS cells, and what the supernet of all of them needs of each: part of the channels, and a scale."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from nas.convolution import PlainConv2d, conv2d
from search_spaces.darts_cell.cell import MAX
from search_spaces.layers.entangled import centre, entangled_kernel
from search_spaces.layers.widening import repeat_channels

Tensor = torch.Tensor


class Norm(nn.Module):
    """Batch norm that records nothing while it trains; its scale and shift are left out of search networks."""

    def __init__(self, channels: int, affine: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels)) if affine else None
        self.bias = nn.Parameter(torch.zeros(channels)) if affine else None
        self.running_mean: Tensor
        self.running_var: Tensor
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Same shape."""
        if self.training:
            return F.batch_norm(x_BCHW, None, None, self.weight, self.bias, training=True)
        return F.batch_norm(x_BCHW, self.running_mean, self.running_var, self.weight, self.bias)

    @torch.no_grad()
    def cut(self) -> nn.BatchNorm2d:
        """A copy as a plain batch norm."""
        norm = nn.BatchNorm2d(len(self.running_mean), affine=self.weight is not None)
        norm.load_state_dict({**self.state_dict(), "num_batches_tracked": torch.tensor(0)})
        return norm.to(self.running_mean.device)


def normalised(x_BCHW: Tensor, scale: Tensor | None = None) -> Tensor:
    """By the statistics of the batch; times ``scale``, a scalar."""
    weight = None if scale is None else scale.expand(x_BCHW.shape[1]).contiguous()  # else its gradient is wrong
    return F.batch_norm(x_BCHW, None, None, weight, None, training=True)


def plain_conv(
    c_in: int, c_out: int, kernel: int = 1, stride: int = 1, padding: int = 0, dilation: int = 1, groups: int = 1
) -> nn.Conv2d:
    return PlainConv2d(c_in, c_out, kernel, stride, padding, dilation, groups, bias=False)


class FactorizedReduction(nn.Module):
    """ReLU, two 1x1 convolutions of stride 2, the second one pixel on, batch norm.

    ``map_size``: height and width of the input; beyond an odd border are zeros.
    """

    def __init__(self, c_in: int, c_out: int, map_size: tuple[int, int], norm: nn.Module) -> None:
        super().__init__()
        self.map_size = map_size
        self.even, self.odd = plain_conv(c_in, c_out // 2, stride=2), plain_conv(c_in, c_out // 2, stride=2)
        self.norm = norm

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, c_in, H, W) -> (B, c_out, H/2, W/2)."""
        x = F.relu(x_BCHW)
        out: Tensor = self.norm(torch.cat([self.even(x), self.odd(self.one_on(x))], dim=1))
        return out

    def one_on(self, x_BCHW: Tensor) -> Tensor:
        """The map from its second row and column on."""
        h, w = self.map_size
        shifted = x_BCHW[:, :, 1:, 1:]
        return F.pad(shifted, (0, w % 2, 0, h % 2)) if h % 2 or w % 2 else shifted

    def scaled(self, x_BCHW: Tensor, scale: Tensor) -> Tensor:
        """The output for some of the channels, already rectified; normalised by the batch, times ``scale``."""
        c = x_BCHW.shape[1]
        halves = [
            conv2d(x, conv.weight[: c // 2, :c], stride=2)
            for x, conv in ((x_BCHW, self.even), (self.one_on(x_BCHW), self.odd))
        ]
        return normalised(torch.cat(halves, dim=1), scale)

    def widen(self, before: int, after: int) -> None:
        """Repeat the weights of the first ``before`` channels up to ``after``."""
        for conv in (self.even, self.odd):
            repeat_channels(conv.weight, (before // 2, before), (after // 2, after))

    def cut(self) -> FactorizedReduction:
        """A copy of plain modules."""
        plain = FactorizedReduction(
            self.even.in_channels, 2 * self.even.out_channels, self.map_size, plain_norm(self.norm)
        )
        plain.load_state_dict({k: v for k, v in self.state_dict().items() if "norm" not in k}, strict=False)
        return plain.to(self.even.weight.device)


class SeparableConv(nn.Module):
    """Depthwise and pointwise convolution, batch norm; ReLU before."""

    def __init__(self, c: int, kernel: int, stride: int, dilation: int, norm: nn.Module) -> None:
        super().__init__()
        pad = dilation * (kernel // 2)
        self.depthwise = plain_conv(c, c, kernel, stride=stride, padding=pad, dilation=dilation, groups=c)
        self.pointwise = plain_conv(c, c)
        self.norm = norm

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H/stride, W/stride)."""
        out: Tensor = self.norm(self.pointwise(self.depthwise(F.relu(x_BCHW))))
        return out

    def scaled(
        self, x_BCHW: Tensor, scale: Tensor | None, stride: int, dilation: int, share: Tensor | None = None
    ) -> Tensor:
        """The output for some of the channels, already rectified; normalised by the batch, times ``scale``. ``share``:
        of the kernel, where it is entangled with the next smaller one."""
        c, k = x_BCHW.shape[1], self.depthwise.kernel_size[0]
        weight = self.depthwise.weight[:c]
        weight = weight if share is None else entangled_kernel(weight, k - 2, share)
        y = F.conv2d(x_BCHW, weight, None, stride, dilation * (k // 2), dilation, c)
        return normalised(F.conv2d(y, self.pointwise.weight[:c, :c]), scale)

    @torch.no_grad()
    def take_centre(self, larger: SeparableConv) -> None:
        """Take the weights that it shares with an entangled one: the centre of the kernel, and the pointwise ones."""
        self.depthwise.weight.copy_(centre(larger.depthwise.weight, self.depthwise.kernel_size[0]))
        self.pointwise.weight.copy_(larger.pointwise.weight)

    def widen(self, before: int, after: int) -> None:
        """Repeat the weights of the first ``before`` channels up to ``after``."""
        repeat_channels(self.depthwise.weight, (before, 1), (after, 1))
        repeat_channels(self.pointwise.weight, (before, before), (after, after))

    def cut(self) -> SeparableConv:
        """A copy of plain modules."""
        d = self.depthwise
        plain = SeparableConv(d.in_channels, d.kernel_size[0], d.stride[0], d.dilation[0], plain_norm(self.norm))
        plain.load_state_dict({k: v for k, v in self.state_dict().items() if "norm" not in k}, strict=False)
        return plain.to(d.weight.device)


class ReluConvNorm(nn.Sequential):
    """ReLU, 1x1 convolution, batch norm."""

    def __init__(self, c_in: int, c_out: int, norm: nn.Module) -> None:
        super().__init__(nn.ReLU(), plain_conv(c_in, c_out), norm)

    def cut(self) -> ReluConvNorm:
        """A copy of plain modules."""
        conv = self[1]
        assert isinstance(conv, nn.Conv2d)
        plain = ReluConvNorm(conv.in_channels, conv.out_channels, plain_norm(self[2]))
        plain.load_state_dict({"1.weight": conv.weight}, strict=False)
        return plain.to(conv.weight.device)


def plain_norm(norm: nn.Module) -> nn.BatchNorm2d:
    assert isinstance(norm, Norm)
    return norm.cut()


def pool(x: Tensor, op: int, stride: int) -> Tensor:
    """3x3 maximum or average."""
    if op == MAX:
        return F.max_pool2d(x, 3, stride, 1)
    return F.avg_pool2d(x, 3, stride, 1, count_include_pad=False)


def to_quarters(x_BCHW: Tensor) -> Tensor:
    """The four images of every other row and column, as a batch four times as large, in channels-last."""
    b, c, h, w = x_BCHW.shape
    split = x_BCHW.permute(0, 2, 3, 1).reshape(b, h // 2, 2, w // 2, 2, c).permute(2, 4, 0, 1, 3, 5)
    return split.reshape(4 * b, h // 2, w // 2, c).permute(0, 3, 1, 2)


def from_quarters(x_QCHW: Tensor) -> Tensor:
    """Inverse of ``to_quarters``."""
    q, c, h, w = x_QCHW.shape
    split = x_QCHW.permute(0, 2, 3, 1).reshape(2, 2, q // 4, h, w, c).permute(2, 3, 0, 4, 1, 5)
    return split.reshape(q // 4, 2 * h, 2 * w, c).permute(0, 3, 1, 2)

"""The description of an inverted-residual block (MobileNetV2, Sandler et al., CVPR 2018), and how widths are rounded.
No torch; its modules are in ``search_spaces.layers.inverted_residual``."""

from __future__ import annotations

from dataclasses import dataclass

from nas.core.layers import Activation, Conv2d, MapShape, Pool2d, SqueezeExcite
from nas.core.network import NetworkNode


def divisible(channels: float, by: int = 8) -> int:
    """The nearest multiple of ``by`` that is not more than 10 % below ``channels`` (MobileNet's rounding rule)."""
    rounded = max(by, int(channels + by / 2) // by * by)
    return rounded + by if rounded < 0.9 * channels else rounded


@dataclass(frozen=True)
class InvertedResidual:
    """Expand 1x1, depthwise, squeeze-excite, project 1x1. ``is_always_residual``: where the shape changes, the input is
    averaged over pixels by the stride and convolved by 1x1 filters before it is added; otherwise there is no skip
    connection then. ``always_expands``: also by a factor of 1."""

    c_out: int
    kernel: int
    expand: float
    stride: int
    act: Activation
    se: bool
    always_expands: bool = True
    is_always_residual: bool = False

    def nodes(self, name: str, source: str, in_shape: MapShape) -> list[NetworkNode]:
        """The block as nodes that read the node ``source``."""
        shortcut = self._shortcut(name, source, in_shape)
        inner, nodes = divisible(in_shape[0] * self.expand), list[NetworkNode]()
        before, shape = source, in_shape
        if self.always_expands or self.expand != 1:
            expand = Conv2d(f"{name}.expand", (source,), in_shape, inner, 1, activation=self.act)
            nodes, before, shape = [expand], expand.name, expand.out_shape
        depthwise = Conv2d(
            f"{name}.depthwise",
            (before,),
            shape,
            shape[0],
            self.kernel,
            self.stride,
            groups=shape[0],
            activation=self.act,
        )
        nodes.append(depthwise)
        if self.se:
            squeezed = divisible(shape[0] / 4)
            nodes.append(SqueezeExcite(f"{name}.se", (depthwise.name,), depthwise.out_shape, squeezed))
        residual = shortcut[-1].name if shortcut else source if self._keeps(in_shape) else None
        project = Conv2d(f"{name}.project", (nodes[-1].name,), depthwise.out_shape, self.c_out, 1, residual=residual)
        return [*shortcut, *nodes, project]

    def _keeps(self, in_shape: MapShape) -> bool:
        return self.stride == 1 and in_shape[0] == self.c_out

    def _shortcut(self, name: str, source: str, in_shape: MapShape) -> list[NetworkNode]:
        nodes: list[NetworkNode] = []
        if not self.is_always_residual:
            return nodes
        shape = in_shape
        if self.stride > 1:
            nodes.append(Pool2d(f"{name}.pool", (source,), shape, "average", self.stride, self.stride))
            source, shape = nodes[-1].name, nodes[-1].out_shape
        if shape[0] != self.c_out:
            nodes.append(Conv2d(f"{name}.shortcut", (source,), shape, self.c_out, 1, norm=None))
        return nodes

"""Static int8 quantisation, and float16, simulated in torch, so that candidates are scored before they are exported.

As ``nas.export.quantise_int8`` has onnxruntime do it: weights per output channel in 7 bits around 0, activations per
tensor in 8 bits over the range that they have on calibration images. Inputs of convolutions and dense layers and
outputs of dense layers are quantised; what lies between, which the runtime quantises too where it can, stays float32.
Batch norms change nothing: they are folded into convolutions, and a scale per output channel is a scale of its weights.

Training with the rounding (``rounded``) lets weights adapt to it; gradients pass as if nothing were rounded (Jacob et
al., Quantization and training of neural networks for efficient integer-arithmetic-only inference, CVPR 2018).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.core.errors import InvalidInput

_WEIGHT_RANGE = (-64, 64)  # 7 bits, as onnxruntime has them with a reduced range
_ACTIVATION_LEVELS = 255
Ranges = dict[nn.Module, tuple[float, float]]


def quantised(module: nn.Module, batches: Iterable[Tensor], int8: Sequence[bool] | None = None) -> nn.Module:
    """A copy of a module in eval mode that computes as its int8 model does. ``batches``: calibration images as the
    module takes them, (B, C, H, W) each. ``int8``: which convolutions and dense layers are quantised, in the order in
    which they run; None: all.

    Raises InvalidInput for a module without convolutions and dense layers, and for another number of them.
    """
    simulated = copy.deepcopy(module).eval()
    inputs, outputs = _ranges(simulated, batches)
    layers = selected_layers([*inputs], int8)
    with torch.no_grad():
        for layer in layers:
            layer.weight.copy_(quantised_weight(layer.weight))
            layer.register_forward_pre_hook(partial(_quantise_input, *inputs[layer]))
            if isinstance(layer, nn.Linear):
                layer.register_forward_hook(partial(_quantise_output, *outputs[layer]))
    return simulated


def selected_layers(layers: Sequence[nn.Module], int8: Sequence[bool] | None) -> list[nn.Conv2d | nn.Linear]:
    """Those of the convolutions and dense layers that are quantised. Raises InvalidInput where there are none, or
    another number of them than of choices."""
    weighted = [layer for layer in layers if isinstance(layer, nn.Conv2d | nn.Linear)]
    if not weighted:
        raise InvalidInput("expected convolutions or dense layers, which int8 quantises, got a module without any")
    if int8 is None:
        return weighted
    if len(int8) != len(weighted):
        raise InvalidInput(f"expected a precision for each of {len(weighted)} layers, got {len(int8)}")
    return [layer for layer, is_int8 in zip(weighted, int8, strict=True) if is_int8]


def quantised_weight(weight: Tensor) -> Tensor:
    """A weight of which the first axis is the output channel, rounded per channel; gradients pass."""
    largest = weight.detach().float().abs().flatten(1).amax(dim=1).clamp(min=1e-12)
    zero = torch.zeros(len(weight), dtype=torch.int32, device=weight.device)
    return torch.fake_quantize_per_channel_affine(weight.float(), largest / 64, zero, 0, *_WEIGHT_RANGE)


def quantised_activation(x: Tensor, low: float, high: float) -> Tensor:
    """An activation rounded to 256 levels over a range, which is widened to hold 0, and clipped to it."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = max(high - low, 1e-12) / _ACTIVATION_LEVELS
    return torch.fake_quantize_per_tensor_affine(x, scale, round(-low / scale), 0, _ACTIVATION_LEVELS)


def in_float16(module: nn.Module) -> nn.Module:
    """A copy of a module in eval mode that computes as its float16 model does: weights, and what convolutions and dense
    layers read and give, have the numbers of float16."""
    simulated = copy.deepcopy(module).eval()
    with torch.no_grad():
        for layer in simulated.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                layer.weight.copy_(_as_float16(layer.weight))
                layer.register_forward_pre_hook(lambda _, inputs: (_as_float16(inputs[0]), *inputs[1:]))
                layer.register_forward_hook(lambda _layer, _inputs, output: _as_float16(output))
    return simulated


def _as_float16(x: Tensor) -> Tensor:
    return x.half().float()


@contextmanager
def rounded(layers: Iterable[nn.Conv2d | nn.Linear]) -> Iterator[None]:
    """While it lasts, these layers compute with the rounding of int8 and learn through it. Activations are rounded over
    the range that they have in each batch."""
    changed = [*layers]
    for layer in changed:
        layer.forward = partial(_rounded_forward, layer)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer in changed:
            del layer.forward


def layers_in_order(module: nn.Module, x_BCHW: Tensor) -> list[nn.Module]:
    """The convolutions and dense layers of a module in the order in which they run; its mode stays as it is."""
    was_training = module.training
    inputs, _ = _ranges(module.eval(), [x_BCHW])
    module.train(was_training)
    return [*inputs]


def _rounded_forward(layer: nn.Conv2d | nn.Linear, x: Tensor) -> Tensor:
    weight, rounded_x = quantised_weight(layer.weight), _round_batch(x)
    if isinstance(layer, nn.Conv2d):
        convolved: Tensor = layer._conv_forward(rounded_x, weight, layer.bias)
        return convolved
    return _round_batch(F.linear(rounded_x, weight, layer.bias))


def _round_batch(x: Tensor) -> Tensor:
    x = x.float()
    low, high = (bound.detach() for bound in torch.aminmax(x))
    low, high = low.clamp(max=0.0), high.clamp(min=0.0)
    scale = (high - low).clamp(min=1e-12) / _ACTIVATION_LEVELS
    zero = (-low / scale).round().to(torch.int32)
    return torch.fake_quantize_per_tensor_affine(x, scale, zero, 0, _ACTIVATION_LEVELS)


def _ranges(module: nn.Module, batches: Iterable[Tensor]) -> tuple[Ranges, Ranges]:
    """The least and the largest input, and output, of each convolution and dense layer over all batches, in the order
    in which they run."""
    layers = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    input_ranges: Ranges = {}
    output_ranges: Ranges = {}

    def observe(layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        for ranges, values in ((input_ranges, inputs[0]), (output_ranges, output)):
            low, high = (float(bound) for bound in torch.aminmax(values))
            before = ranges.get(layer, (low, high))
            ranges[layer] = (min(low, before[0]), max(high, before[1]))

    hooks = [layer.register_forward_hook(observe) for layer in layers]
    try:
        with torch.inference_mode():
            for x_BCHW in batches:
                module(x_BCHW)
    finally:
        for hook in hooks:
            hook.remove()
    return input_ranges, output_ranges


def _quantise_output(low: float, high: float, layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
    return quantised_activation(output, low, high)


def _quantise_input(low: float, high: float, layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return (quantised_activation(inputs[0], low, high), *inputs[1:])

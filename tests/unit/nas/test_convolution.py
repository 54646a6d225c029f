"""Strided 1x1 convolutions learn what torch's own do, and are exported as such."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from nas.convolution import PlainConv2d, conv2d
from nas.export import to_onnx
from tests.support.parity import check_parity


@pytest.mark.parametrize("stride", [1, 2, (1, 2), 3])
@pytest.mark.parametrize("kernel", [1, 3])
def test_outputs_and_gradients_are_those_of_torch(stride: int | tuple[int, int], kernel: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(*s, generator=generator) for s in ((5, 3, 9, 8), (4, 3, kernel, kernel), (4,)))
    outputs, gradients = [], []
    for function in (conv2d, F.conv2d):
        leaves = [t.clone().requires_grad_() for t in (x, weight, bias)]
        outputs.append(function(leaves[0], leaves[1], leaves[2], stride, padding=kernel // 2))
        gradients.append(torch.autograd.grad(outputs[-1].square().sum(), leaves))
    assert torch.allclose(*outputs, atol=1e-5)
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(*gradients, strict=True))


def test_few_channels_that_lie_last_learn_on_every_processor() -> None:
    """Torch's own convolution ends this process where the processor has AVX2 and nothing newer."""
    code = (
        "import torch; from nas.convolution import PlainConv2d\n"
        "conv = PlainConv2d(4, 2, 1, 2)\n"
        "for _ in range(50):\n"
        "    x = torch.randn(40, 4, 32, 32).to(memory_format=torch.channels_last)\n"
        "    conv(x).sum().backward()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_exported_convolution_keeps_its_stride() -> None:
    module, x_NCHW = PlainConv2d(3, 4, 1, 2), torch.rand(2, 3, 8, 8).numpy()
    network = torch.nn.Sequential(module, torch.nn.Flatten(), torch.nn.Linear(64, 5))
    model = to_onnx(network, (3, 8, 8))
    assert check_parity(model, network, x_NCHW) < 1e-4
    assert b"Slice" not in model
